"""The weight of each factor before and after the head, in a terminal of 80 columns."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape

from fullrank.cli.layout import plain_table
from fullrank.record import Record, Score
from fullrank.record.scores import LEFT_OUT, PREDICTED, RELATIVE
from fullrank.reports.run.factors import DialCell, dial_factors, dial_rows
from fullrank.statistics import Estimate

_Row = tuple[tuple[str, ...], Iterable[DialCell | None]]


def print_dial(record: Record) -> None:
    """The weights at h and z under each head of a record; nothing without factors."""
    rows: list[_Row] = []
    named = ""
    for row in dial_rows(record):
        rows.append((("" if row.head == named else row.head, row.place), row.cells))
        named = row.head
    left_out = ", ".join(dial_factors(record, LEFT_OUT))
    note = f" Left out, since they go with another factor: {left_out}." if left_out else ""
    _print_weights(("head", "place"), dial_factors(record), rows, ", on clean test images", note)


def print_factors(scores: Sequence[Score]) -> None:
    """The weights at each place of a run; nothing without factors."""
    weights = {(s.place, s.label): Estimate(s.value) for s in scores if s.statistic == RELATIVE}
    predicted = {(s.place, s.label): s.value for s in scores if s.statistic == PREDICTED}
    cells = {key: DialCell(weight, predicted.get(key)) for key, weight in weights.items()}
    factors = list(dict.fromkeys(factor for _, factor in weights))
    rows: list[_Row] = [
        ((place,), [cells[place, factor] for factor in factors])
        for place in dict.fromkeys(place for place, _ in weights)
    ]
    _print_weights(("place",), factors, rows)


def _print_weights(
    titles: Sequence[str], factors: Sequence[str], rows: Sequence[_Row], where: str = "", note: str = ""
) -> None:
    if not rows:
        return
    table = plain_table(titles, factors, tight=len(titles) > 1)
    for labels, cells in rows:
        table.add_row(*map(escape, labels), *map(_cell, cells))
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"Weight of each factor relative to the largest at that place{where}; in brackets what the linear "
        f"theory predicts.{escape(note)}"
    )


def _cell(cell: DialCell | None) -> str:
    if cell is None:
        return "–"
    predicted = "–" if cell.predicted is None else f"{cell.predicted:.2f}"
    return f"{cell.measured.mean:.2f} ({predicted})"
