"""A reproduced table for a terminal of 80 columns."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fullrank.cli.tables import plain_table
from fullrank.cli.theory import print_theory
from fullrank.record import Record, TableEntry
from fullrank.reports.reproduction import words
from fullrank.reports.reproduction.predictors import DRAWS, MEANING, predictors

# The width kept for the titles of rows, and what a column takes beyond its text.
_TITLES, _GAP = 22, 2


def print_reproduction(title: str, record: Record) -> None:
    """Print the paper's numbers beside ours, and the outcome."""
    console = Console(highlight=False)
    if record.theory is not None:
        console.print(f"[bold]{escape(title)}[/bold]")
        print_theory(record, record.theory)
    if record.table is None:
        return
    table = record.table
    console.print(f"[bold]{escape(title)}[/bold] [dim]({escape(table.source)})[/dim]")
    console.print(escape(table.question))
    titles = [row.title for row in table.rows]
    for columns in _side_by_side(_columns(table), console.width - _TITLES):
        console.print(_table(titles, columns))
    _print_predictors(console, table)
    chosen = [f"{row.title}: {row.chosen}" for row in table.rows if row.chosen]
    for sentence in (*chosen, *words.verdict(table)):
        console.print(escape(sentence))
    seeds = len(table.rows[0].seeds)
    intervals = f"95 % t intervals over {seeds} seeds" if seeds > 1 else "one seed, no intervals"
    here = f"Here: {table.here}; {intervals}, one test set."
    paper = [f"Paper: {table.paper}."] if table.paper else []
    for remark in (*paper, here, *words.denominators(record, table), *table.remarks):
        console.print(f"[dim]{escape(remark)}[/dim]")


def _print_predictors(console: Console, table: TableEntry) -> None:
    """How well columns predict another one; nothing for a table that does not ask."""
    found = predictors(table)
    if not found or table.predicts is None:
        return
    console.print(escape(f"Predictors of {table.predicts.target}"))
    shown = plain_table([""], ["rank correlation", "R²"])
    for each in found:
        rank = words.shown(each.rank, True, 2) if each.rank else "–"
        r2 = words.shown(each.r2, False, 2) if each.r2 else "–"
        shown.add_row(escape(each.title), escape(rank), escape(r2))
    console.print(shown)
    console.print(f"[dim]{escape(MEANING.format(DRAWS))}[/dim]")


def _columns(table: TableEntry) -> list[list[str]]:
    """Each column as text, its title first: the paper's, ours, predictions, differences to the first row."""
    rows, first = table.rows, table.rows[0]
    columns = []
    for number, (title, unit) in enumerate(zip(table.columns, table.units, strict=True)):
        if words.with_paper(table, number):
            columns.append(["paper", *(words.paper_number(row, number, unit) for row in rows)])
        signed, digits = number in table.differences, words.digits(table, number)
        columns.append([title, *(words.shown(words.cell(row, number), signed, digits) for row in rows)])
        if signed and any(row.expected for row in rows):
            columns.append(
                ["predicted: outcome", *(f"{row.expected}: {words.outcome(row, number)}" for row in rows)]
            )
        if number == 0 and len(rows) > 1 and table.alike:
            gaps = [None if row is first else words.difference(row, first, 0) for row in rows]
            cells = ["–" if gap is None else words.shown(gap, sign=True) for gap in gaps]
            columns.append(["against the first", *cells])
    return columns


def _side_by_side(columns: Sequence[list[str]], width: int) -> list[list[list[str]]]:
    """The columns, split into as many tables as their width needs."""
    tables: list[list[list[str]]] = []
    free = 0
    for column in columns:
        needed = max(map(len, column)) + _GAP
        if not tables or needed > free:
            tables.append([])
            free = width
        tables[-1].append(column)
        free -= needed
    return tables


def _table(titles: Sequence[str], columns: Sequence[list[str]]) -> Table:
    table = plain_table([""], [column[0] for column in columns])
    for title, *cells in zip(titles, *(column[1:] for column in columns), strict=True):
        table.add_row(escape(title), *map(escape, cells))
    return table
