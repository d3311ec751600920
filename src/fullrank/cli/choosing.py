"""A choice without labels for a terminal of 80 columns."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from fullrank.cli.tables import plain_table
from fullrank.embeddings.kinds import is_embeddings
from fullrank.errors import count_of, few_of
from fullrank.record import RECORD_FILE, ChoiceEntry
from fullrank.reports.choice import words
from fullrank.reports.choice.tables import CERTAINTY, shortlist_table
from fullrank.reports.text_tables import TextTable

# So many characters of a run's name beside the numbers, and so many reasons for a veto.
_NAME, _MOST_VETOES = 26, 6


def plan(targets: Sequence[str], data: str | None, limit: int) -> str:
    """What is chosen from, and on which images."""
    if is_embeddings(targets[0]):
        return f"Choosing among {count_of(len(targets), 'file')} of embeddings, on at most {limit:,} rows."
    one = f"the places of {targets[0]}"
    among = one if len(targets) == 1 else f"the places of {count_of(len(targets), 'target')}"
    runs = " of the run" if len(targets) == 1 else " of the runs"
    own = runs if (Path(targets[0]) / RECORD_FILE).is_file() else ""
    return f"Choosing among {among}, on at most {limit:,} images{f' of {data}' if data else own}."


def print_choice(entry: ChoiceEntry) -> None:
    """The first choice, the shortlist, how sure it is, what labels would choose, and what is left out."""
    console = Console(highlight=False)
    console.print(f"[bold]{escape(entry.headline)}[/bold]")
    _print_all(console, [words.summary(entry)])
    if entry.shortlist:
        _print_shortlist(console, entry)
        _print_all(console, [" ".join(words.tie_sentences(entry)), " ".join(words.score_sentences(entry))])
        console.print(f"\n{escape(' '.join(words.regret_sentences(entry)))}")
    if labelled := words.labels_sentences(entry):
        console.print(f"\n{escape(' '.join(labelled))}")
    _print_left_out(console, entry)
    theory = " ".join(words.theory_sentences(entry))
    if minded := [*words.trained_sentences(entry), theory, *entry.notes]:
        console.print()
        _print_all(console, minded)


def _print_shortlist(console: Console, entry: ChoiceEntry) -> None:
    """Scores and how sure they are, then the parts: side by side they need more than 80 columns."""
    table = shortlist_table(entry)
    names = words.short_names(list(dict.fromkeys(each.run for each in entry.candidates)), _NAME)
    certain = table.texts + len(CERTAINTY)
    for columns in (range(table.texts, certain), range(certain, len(table.columns))):
        if columns:
            _print_columns(console, table, columns, names)
    if any(names[each.run] != each.run for each in entry.shortlist):
        console.print("Names are shortened here; the first line has them whole, in the same order.")


def _print_columns(console: Console, table: TextTable, columns: range, names: dict[str, str]) -> None:
    titles = [table.columns[column] for column in columns]
    shown = plain_table(table.columns[: table.texts], titles, tight=True)
    for row in table.rows:
        texts = [names.get(cell, cell) for cell in row[: table.texts]]
        shown.add_row(*map(escape, [*texts, *(row[column] for column in columns)]))
    console.print(shown)


def _print_left_out(console: Console, entry: ChoiceEntry) -> None:
    """The candidates with a veto, the most common reasons first, and how many more there are."""
    groups = sorted(words.left_out(entry), key=lambda group: -len(group.names))
    if not groups:
        return
    console.print(f"\n{words.left_out_sentence(entry)}")
    for group in groups[:_MOST_VETOES]:
        line = f"{few_of(group.names)}: {' '.join(group.reasons)}"
        console.print(Padding(escape(line), (0, 0, 0, 2)))
    if more := sum(len(group.names) for group in groups[_MOST_VETOES:]):
        console.print(Padding(f"{count_of(more, 'candidate')} more; the page has all reasons.", (0, 0, 0, 2)))


def _print_all(console: Console, sentences: Sequence[str]) -> None:
    for sentence in filter(None, sentences):
        console.print(escape(sentence))
