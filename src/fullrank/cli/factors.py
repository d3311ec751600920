"""The dial in a terminal of 80 columns: the weight of each factor before and after the head."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fullrank.record import Record, Score
from fullrank.record.scores import PREDICTED, RELATIVE
from fullrank.reports.run.factors import DialCell, dial_factors, dial_left_out, dial_rows
from fullrank.statistics import Estimate


def print_dial(record: Record) -> None:
    """The measured weight of each factor at h and z, in brackets the predicted; nothing without factors."""
    rows = dial_rows(record)
    if not rows:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("head", overflow="fold")
    table.add_column("place")
    for factor in dial_factors(record):
        table.add_column(escape(factor), justify="right", no_wrap=True)
    named = ""
    for row in rows:
        head = "" if row.head == named else row.head
        table.add_row(escape(head), escape(row.place), *map(_cell, row.cells))
        named = row.head
    console = Console()
    console.print(table)
    note = (
        "Weight of each factor relative to the largest at that place, on clean test images; in brackets what "
        "the linear theory predicts."
    )
    left_out = dial_left_out(record)
    if left_out:
        note += f" Left out, since they go with another factor: {escape(', '.join(left_out))}."
    console.print(note, highlight=False)


def print_factors(scores: Sequence[Score]) -> None:
    """The weight of each factor at each place, in brackets the predicted one; nothing without factors."""
    weights = {(s.place, s.label): s.value for s in scores if s.statistic == RELATIVE}
    predicted = {(s.place, s.label): s.value for s in scores if s.statistic == PREDICTED}
    if not weights:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("place")
    factors = list(dict.fromkeys(factor for _, factor in weights))
    for factor in factors:
        table.add_column(escape(factor), justify="right", no_wrap=True)
    for place in dict.fromkeys(place for place, _ in weights):
        cells = [
            _cell(DialCell(Estimate(weights[place, factor]), predicted.get((place, factor))))
            for factor in factors
        ]
        table.add_row(escape(place), *cells)
    console = Console()
    console.print(table)
    console.print(
        "Weight of each factor relative to the largest at that place; in brackets what the linear theory "
        "predicts.",
        highlight=False,
    )


def _cell(cell: DialCell | None) -> str:
    if cell is None:
        return "–"
    predicted = "–" if cell.predicted is None else f"{cell.predicted:.2f}"
    return f"{cell.measured.mean:.2f} ({predicted})"
