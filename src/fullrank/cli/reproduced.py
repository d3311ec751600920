"""A reproduced table for a terminal of 80 columns."""

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fullrank.cli.theory import print_theory
from fullrank.record import Record, TableEntry
from fullrank.reports.reproduced import cell, difference, outcome, paper_number, shown, verdict, with_paper


def print_reproduction(record: Record) -> None:
    """The paper's numbers beside ours, and what came out."""
    console = Console(highlight=False)
    if record.theory is not None:
        print_theory(record, record.theory)
    if record.table is None:
        return
    table = record.table
    console.print(f"[bold]{escape(table.title)}[/bold] [dim]({escape(table.source)})[/dim]")
    console.print(escape(table.question))
    # Two columns of numbers with their intervals fit 80 characters.
    for first in range(0, len(table.columns), 2):
        console.print(_numbers(table, range(first, min(first + 2, len(table.columns)))))
    for sentence in verdict(table):
        console.print(escape(sentence))
    for remark in (*([f"Paper: {table.paper}."] if table.paper else []), *table.remarks):
        console.print(f"[dim]{escape(remark)}[/dim]")


def _numbers(table: TableEntry, columns: range) -> Table:
    shown_table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    shown_table.add_column("", overflow="fold")
    known = [with_paper(table, column) for column in columns]
    for column, has_paper in zip(columns, known, strict=True):
        if has_paper:
            shown_table.add_column("paper", justify="right")
        shown_table.add_column(escape(table.columns[column]), justify="right")
    last = 0 in columns and len(table.rows) > 1
    if last:
        shown_table.add_column("against the first", justify="right")
    judged = any(column in table.differences for column in columns) and any(r.expected for r in table.rows)
    if judged:
        shown_table.add_column("predicted: outcome")
    for row in table.rows:
        cells = [escape(row.title)]
        for column, has_paper in zip(columns, known, strict=True):
            cells += [paper_number(row, column)] if has_paper else []
            cells += [escape(shown(cell(row, column), table.units[column], column in table.differences))]
        if last:
            gap = None if row is table.rows[0] else difference(row, table.rows[0], 0)
            cells += ["–" if gap is None else escape(shown(gap, "points", sign=True))]
        if judged:
            cells += [f"{row.expected}: {outcome(row, table)}"]
        shown_table.add_row(*cells)
    return shown_table
