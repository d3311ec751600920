"""A diagnosis for a terminal of 80 columns."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from fullrank.cli.tables import plain_table
from fullrank.embeddings.kinds import is_embeddings
from fullrank.errors import UsageError, count_of
from fullrank.record import RECORD_FILE, DiagnosisEntry
from fullrank.reports.diagnosis.words import (
    OPERATION_NOTE,
    Cause,
    causes,
    compared_sentences,
    cut_sentence,
    denominators,
    operation_sentence,
    operation_table,
    places_and_values,
    rows_sentence,
)
from fullrank.reports.numbers import in_points

# What may end the command with status 3.
FAIL_ON = ("collapse", "worse")
_LEVELS = {"alarm": "[bold red]alarm[/bold red]", "note": "[yellow]note[/yellow]"}


def plan(target: str, data: str | None, views: str | None, limit: int) -> str:
    """What is diagnosed, with the defaults for images and views."""
    if is_embeddings(target):
        return f"Diagnosing the embeddings in {target}."
    images = f"at most {count_of(limit, 'test image')}"
    if (Path(target) / RECORD_FILE).is_file():
        own = [f"its own {what}" for what, given in (("images", data), ("views", views)) if given is None]
        with_own = f", with {' and '.join(own)}" if own else ""
        return f"Diagnosing the run in {target} on {images}{with_own}."
    if data is None:  # refused: a model has no images of its own
        return f"Diagnosing {target}."
    return f"Diagnosing {target} on {images} of {data}, with {f'views {views}' if views else 'no views'}."


def check_fail_on(wanted: Sequence[str], baseline: Path | None) -> None:
    """Raise UsageError for an unknown word of --fail-on, or for `worse` without a baseline."""
    for word in wanted:
        if word not in FAIL_ON:
            raise UsageError(f"--fail-on takes {' or '.join(map(repr, FAIL_ON))}, but got '{word}'.")
    if "worse" in wanted and baseline is None:
        raise UsageError("--fail-on worse needs an earlier diagnosis to compare with; give --baseline.")


def failed(wanted: Sequence[str], entry: DiagnosisEntry) -> bool:
    """Whether something was found that --fail-on names."""
    found = {"collapse": entry.collapsed, "worse": bool(entry.worse)}
    return any(found[word] for word in wanted)


def print_diagnosis(entry: DiagnosisEntry) -> None:
    """The verdict, the table of places, alarms in full, notes in short, and what was not examined."""
    console = Console(highlight=False)
    console.print(f"[bold]{escape(entry.verdict)}[/bold]")
    for sentence in compared_sentences(entry):
        console.print(escape(sentence))
    if cut := cut_sentence(entry):
        console.print(escape(cut))
    console.print(_places(entry))
    ranks = "Ranks compare runs of one method. Across methods they do not measure quality."
    accuracies = any(row.linear is not None for row in entry.layers)
    console.print(f"{'Accuracies in points. ' if accuracies else ''}{ranks}")
    for sentence in denominators(entry):
        console.print(escape(sentence))
    for cause in causes(entry.findings):
        _print_cause(console, cause)
    if entry.findings:
        console.print()
    _print_operations(console, entry)
    for sentence in entry.not_seen:
        console.print(f"[dim]Not examined: {escape(sentence)}[/dim]")


def _print_cause(console: Console, cause: Cause) -> None:
    """A cause with its first evidence, its places and values, and remedies; of a note the first remedy."""
    first, *others = cause.findings
    console.print(f"\n{_LEVELS[cause.level]}  {escape(first.cause)} at {escape(first.place)}")
    lines = [first.evidence, f"{first.measure}: {first.value:.3g} (threshold {first.threshold:.3g})"]
    if rows := rows_sentence(first):
        lines.append(rows)
    if others:
        lines.append(f"Also at {places_and_values(others)}.")
    remedies = list(dict.fromkeys(each.remedy for each in cause.findings))
    lines += [f"Try: {remedy}" for remedy in remedies[: None if cause.level == "alarm" else 1]]
    for line in lines:
        console.print(Padding(escape(line), (0, 0, 0, 7)))


def _print_operations(console: Console, entry: DiagnosisEntry) -> None:
    """What each operation of the views moves, and what it costs the labels."""
    titles, operations = operation_table(entry)
    if operations:
        table = plain_table(["operation"], titles)
        for name, cells in operations.items():
            table.add_row(escape(name), *cells)
        console.print(table)
    if sentence := operation_sentence(entry):
        console.print(escape(sentence))
    if operations:
        console.print(OPERATION_NOTE)


def _places(entry: DiagnosisEntry) -> Table:
    table = plain_table(["place"], ["width", "rank", "rankme", "live", "linear", "near", "recall@1"])
    measured = {(measure.place, measure.name): measure.value for measure in entry.measures}
    rows = {row.place: row for row in entry.layers}
    for place in entry.places:
        accuracies = [getattr(rows.get(place), name, None) for name in ("linear", "nearest", "recall_at_1")]
        live = measured.get((place, "live_dimensions"))
        spectrum = entry.spectrum.get(place)
        table.add_row(
            escape(place) + (" [green]<- keep[/green]" if place == entry.cut else ""),
            "–" if spectrum is None else str(len(spectrum.singular_values)),
            in_points(None if spectrum is None else spectrum.effective_rank),
            in_points(measured.get((place, "rankme"))),
            "–" if live is None else f"{live:.0f}",
            *(in_points(None if value is None else 100 * value) for value in accuracies),
        )
    return table
