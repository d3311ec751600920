"""The tables of a choice: its shortlist, and every criterion of every candidate. Torch-free."""

from fullrank.record.choice import ChoiceEntry
from fullrank.record.criteria import CRITERIA_TEXTS
from fullrank.reports.choice import words
from fullrank.reports.numbers import decimals, in_points
from fullrank.reports.text_tables import TextTable

# Columns of text before the columns of numbers.
_TEXTS = ("rank", "run", "place")
# The columns that say how sure the score is; the parts follow them.
CERTAINTY = ("score", "95 % interval", "first", "listed")


def shortlist_table(entry: ChoiceEntry) -> TextTable:
    """The shortlist: scores with their intervals, how often each is first and listed, and the parts."""
    parts = words.part_names(entry)
    rows = {(each.run, each.place): each for each in entry.candidates}
    lines = []
    for rank, each in enumerate(entry.shortlist, 1):
        row = rows.get((each.run, each.place))
        found = (None, None) if row is None else (row.first, row.listed)
        shares = list(map(words.per_cent, found))
        score = [decimals(each.score, 2), words.interval(each.low, each.high), *shares]
        ranks = [decimals(each.parts.get(name), 2) for name in parts]
        lines.append((str(rank), each.run, each.place, *score, *ranks))
    return _without_places(
        entry, TextTable("Shortlist", (*_TEXTS, *CERTAINTY, *parts), tuple(lines), "", texts=3)
    )


def criteria_table(entry: ChoiceEntry) -> TextTable:
    """Every criterion of every candidate; in parentheses where the candidate's own objective trains it."""
    names = words.criterion_names(entry)
    lines = []
    for row in words.in_order(entry):
        cells = []
        for name in names:
            text = _short(row.values.get(name))
            cells.append(f"({text})" if name in row.trained_on and text != "–" else text)
        lines.append((words.status(entry, row) or "–", row.run, row.place, *cells))
    titles = [words.title_of(name) for name in names]
    table = TextTable("Every criterion", (*_TEXTS, *titles), tuple(lines), _caption(entry, names), texts=3)
    return _without_places(entry, table)


def theory_table(entry: ChoiceEntry) -> TextTable:
    """The share of the variance for which the theory predicts h to be better than z, by run."""
    rows = tuple((run, in_points(100 * share)) for run, share in entry.theory.items())
    return TextTable("What theory predicts", ("run", "share of the variance (%)"), rows, "")


def _caption(entry: ChoiceEntry, names: list[str]) -> str:
    """Which way is better, and what parentheses mean."""
    smaller = [
        words.title_of(each)
        for each in names
        if each in CRITERIA_TEXTS and not CRITERIA_TEXTS[each].larger_is_better
    ]
    sentences = [f"Smaller is better for {', '.join(smaller)}; larger for all others."] if smaller else []
    if any({*each.trained_on} & {*each.values} for each in entry.candidates):
        sentences.append(
            "In parentheses: the candidate's own objective trains this criterion, which is void then."
        )
    return " ".join(sentences)


def _without_places(entry: ChoiceEntry, table: TextTable) -> TextTable:
    """The table without its column of places, where all candidates are files."""
    if not words.is_of_files(entry):
        return table
    columns = (table.columns[0], "file", *table.columns[3:])
    rows = tuple((row[0], row[1], *row[3:]) for row in table.rows)
    return TextTable(table.title, columns, rows, table.caption, texts=2)


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}".replace("-", "−")
