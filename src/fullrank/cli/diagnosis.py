"""A diagnosis for a terminal of 80 columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from fullrank.cli.tables import plain_table
from fullrank.embeddings.kinds import is_embeddings
from fullrank.errors import UsageError, count_of, few_of
from fullrank.record import RECORD_FILE, Compared, DiagnosisEntry, SideBySide
from fullrank.reports.diagnosis import beside as comparison
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
    readout,
    rows_sentence,
)
from fullrank.reports.numbers import in_points
from fullrank.reports.redundancy import curves_of_diagnosis, sentences
from fullrank.reports.text_tables import TextTable
from fullrank.reports.view_readout import MEANING, cell_text

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


@dataclass(frozen=True)
class Limits:
    """What ends the command with status 3: words of --fail-on, and the least overlap with --against."""

    fail_on: Sequence[str] = ()
    min_overlap: float | None = None

    def check(self, baseline: object, against: object) -> None:
        """Raise UsageError for an unknown word, a number outside 0 to 1, or nothing to compare with."""
        for word in self.fail_on:
            if word not in FAIL_ON:
                raise UsageError(f"--fail-on takes {' or '.join(map(repr, FAIL_ON))}, but got '{word}'.")
        if "worse" in self.fail_on and baseline is None and against is None:
            raise UsageError(
                "--fail-on worse needs something to compare with; give --against, another target, or "
                "--baseline, the record of an earlier diagnosis."
            )
        if self.min_overlap is None:
            return
        if not 0 <= self.min_overlap <= 1:
            raise UsageError(f"--min-overlap is a share from 0 to 1, but got {self.min_overlap:g}; try 0.6.")
        if against is None:
            raise UsageError("--min-overlap compares with another target; give --against too.")

    def failures(self, entry: DiagnosisEntry) -> list[str]:
        """What was found that ends the command with status 3, in a few words each."""
        beside, found = entry.beside, []
        if "collapse" in self.fail_on and entry.collapsed:
            alarms = [each for each in entry.findings if each.level == "alarm"]
            found.append(f"--fail-on collapse: {few_of(list(dict.fromkeys(each.cause for each in alarms)))}")
        if "worse" in self.fail_on and entry.worse:
            found.append(f"--fail-on worse, --baseline: {few_of([_named(each) for each in entry.worse])}")
        if "worse" in self.fail_on and entry.worse_beside:
            found.append(f"--fail-on worse, --against: {comparison.what_got_worse(entry)}")
        if self.min_overlap is not None and beside is not None:
            found += filter(None, [comparison.overlap_shortfall(beside, self.min_overlap)])
        return found


def _named(number: Compared) -> str:
    return f"{number.name.replace('_', ' ')} at {number.place}"


def print_diagnosis(entry: DiagnosisEntry) -> None:
    """The verdicts, the other target, the table of places, alarms in full, notes in short, the rest.

    With another target, notes and what follows them are left to the page.
    """
    console = Console(highlight=False)
    if entry.beside is not None:
        console.print(f"[bold]{escape(entry.beside.sentence)}[/bold]")
    console.print(f"[bold]{escape(entry.verdict)}[/bold]")
    if entry.beside is not None:
        _print_beside(console, entry, entry.beside)
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
        if entry.beside is None or cause.level == "alarm":
            _print_cause(console, cause)
    if entry.beside is not None:
        console.print(f"\n[dim]{_left_out(entry)}[/dim]")
        return
    if entry.findings:
        console.print()
    _print_operations(console, entry)
    _print_readout(console, entry)
    for places in curves_of_diagnosis(entry):
        for sentence in sentences(places, None if entry.images is None else entry.images.chance):
            console.print(escape(sentence))
    for sentence in entry.not_seen:
        console.print(f"[dim]Not examined: {escape(sentence)}[/dim]")


def _left_out(entry: DiagnosisEntry) -> str:
    """What the record has besides."""
    notes = sum(cause.level == "note" for cause in causes(entry.findings))
    parts = [count_of(notes, "note")] if notes else []
    parts += ["what each operation of the views costs"] if operation_table(entry)[1] else []
    parts += ["what the features know of the views"] if entry.view_readout is not None else []
    return f"The record has the rest: {', '.join([*parts, 'every measure'])}, and what was not examined."


def _print_beside(console: Console, entry: DiagnosisEntry, beside: SideBySide) -> None:
    """The other target: how rows were matched, what changed, how alike both are, and what was lost."""
    console.print(f"\n{escape(comparison.rows_sentence(entry, beside))}")
    if table := comparison.main_scores(entry, beside):
        _print_table(console, table)
    if beside.main is not None:
        console.print(escape(comparison.likeness_sentence(beside.main)))
    for sentence in comparison.changed_sentences(beside):
        console.print(escape(sentence))
    if table := comparison.overview_table(beside):
        _print_table(console, table)
    lost = comparison.lost_sentences(beside)
    main = comparison.lost_sentences(beside, beside.main_places[0])[: comparison.MOST_NAMED]
    for sentence in main:
        console.print(escape(sentence))
    if more := len(lost) - len(main):
        console.print(f"Lost{' besides' if main else ''}: {count_of(more, 'direction')}; the record has all.")
    for sentence in filter(None, [comparison.alarms_sentence(beside)]):
        console.print(escape(sentence))
    for sentence in beside.not_compared:
        console.print(f"[dim]Not compared: {escape(sentence)}[/dim]")
    console.print()


def _print_table(console: Console, table: TextTable) -> None:
    shown = plain_table(table.columns[: table.texts], table.columns[table.texts :], tight=True)
    for row in table.rows:
        shown.add_row(*map(escape, row))
    console.print(shown)
    console.print(escape(table.caption))


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


def _print_readout(console: Console, entry: DiagnosisEntry) -> None:
    """What the features know of the views: a row for each place, a column for each operation."""
    if entry.view_readout is None or (known := readout(entry)) is None:
        return
    rows = [row for row in known.rows if not row.is_part]
    table = plain_table(["place"], [f"{row.operation} {row.shown}" for row in rows], tight=True)
    for number, place in enumerate(known.places):
        table.add_row(escape(place), *(cell_text(row.cells[number]) for row in rows))
    console.print(table)
    for sentence in (*known.sentences, MEANING, *entry.view_readout.about):
        console.print(escape(sentence))


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
