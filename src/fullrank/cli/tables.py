"""Tables of results for a terminal of 80 columns."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fullrank.record import Record
from fullrank.reports.tables import Estimate, head_table, in_points, signed

if TYPE_CHECKING:
    from fullrank.training.evaluate import Evaluation


def print_record(record: Record) -> None:
    """The results table of a run or study, with P's numbers where the record has some."""
    rows = head_table(record)
    intervals = any(row.linear is not None and row.linear.half is not None for row in rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("head", overflow="fold")
    for title in ("linear h", "linear z", "nearest h"):
        table.add_column(title, justify="right")
    if len(rows) > 1:
        table.add_column(f"h - {rows[0].head}", justify="right")
    table.add_column("rank h", justify="right")
    if record.published is not None:
        table.add_column("paper", justify="right")
    for row in rows:
        cells = [escape(row.head), _with_half(row.linear), _with_half(row.linear_z), _with_half(row.nearest)]
        if len(rows) > 1:
            cells.append(_difference(row.difference))
        cells.append(in_points(row.effective_rank))
        if record.published is not None:
            cells.append(in_points(row.published))
        table.add_row(*cells)
    console = Console()
    console.print(table)
    notes = ["Accuracy on the test images, 0 to 100."]
    if intervals:
        notes.append("± and [..]: 95 % t interval over seeds, differences paired.")
    elif len(rows) > 1:
        notes.append("One seed: differences of about a point are noise.")
    if record.published is not None:
        notes.append(f"paper: {record.published.caption}.")
    console.print(" ".join(notes), highlight=False)


def print_places(evaluation: "Evaluation") -> None:
    """Accuracy and effective rank at each place."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("place")
    for title in ("linear", "nearest", "width", "rank"):
        table.add_column(title, justify="right")
    for place, probe in evaluation.probes.items():
        spectrum = evaluation.spectrum[place]
        table.add_row(
            escape(place),
            in_points(100 * probe.linear),
            in_points(100 * probe.nearest),
            str(len(spectrum.singular_values)),
            in_points(spectrum.effective_rank),
        )
    Console().print(table)


def _with_half(estimate: Estimate | None) -> str:
    if estimate is None or estimate.half is None:
        return in_points(None if estimate is None else estimate.mean)
    return f"{in_points(estimate.mean)} ±{in_points(estimate.half)}"


def _difference(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None:
        return signed(None if estimate is None else estimate.mean)
    return f"{signed(estimate.mean)} \\[{signed(estimate.low)}, {signed(estimate.high)}]"
