"""Accuracy by class for a terminal of 80 columns."""

from collections.abc import Sequence
from statistics import fmean

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fullrank.cli.tables import plain_table
from fullrank.record import Score
from fullrank.reports.class_words import class_sentences
from fullrank.reports.classes import ERRORS, MEANING, PROBE_NAMES, ClassRow, ClassTable, class_tables
from fullrank.reports.numbers import decimals, in_points
from fullrank.statistics import Estimate

# Of more classes than `_MOST`, so many of the worst and of the best are printed.
_MOST, _WORST, _BEST = 24, 8, 4
_NUMBERS = ("images", "linear", "bias", "false", "mean", "nearest")


def print_classes(scores: Sequence[Score]) -> None:
    """The classes at each place, worst first, and the probes over them; nothing without such scores."""
    tables, console = class_tables({"": scores}), Console(highlight=False)
    for table in tables:
        console.print(f"{escape(table.title)}, the worst of the linear probe first:")
        console.print(_classes(table))
        console.print(_probes(table))
        for sentence in class_sentences(table):
            console.print(escape(sentence))
        console.print()
    if tables:
        console.print(
            "taken for: the other class that most of its images are predicted as, and their share. "
            "false: false positives. mean: nearest class mean. nearest: nearest neighbours."
        )
        console.print(f"{ERRORS} {MEANING}")


def _classes(table: ClassTable) -> Table:
    shown = plain_table(["class", "taken for"], _NUMBERS, tight=True)
    few = len(table.rows) <= _MOST
    for row in table.rows if few else table.rows[:_WORST]:
        shown.add_row(*_cells(row))
    if not few:
        rest = table.rows[_WORST:-_BEST]
        linear = [row.probes["linear"].accuracy for row in rest if "linear" in row.probes]
        mean = in_points(fmean(linear)) if linear else "–"
        shown.add_row(f"{len(rest):,} more, mean", "", "", mean, "", "", "", "")
        for row in table.rows[-_BEST:]:
            shown.add_row(*_cells(row))
    return shown


def _cells(row: ClassRow) -> list[str]:
    linear = row.probes.get("linear")
    taken = f"{escape(row.taken_for)} {in_points(row.taken)}" if row.taken_for else ""
    cells = [escape(row.name), taken, "–" if row.images is None else str(row.images)]
    if linear is None:
        cells += ["–"] * 3
    else:
        error = "" if linear.error is None else f" ±{in_points(linear.error)}"
        cells += [f"{in_points(linear.accuracy)}{error}", decimals(linear.bias, 2)]
        cells += [decimals(linear.false_positives, 0)]
    others = (row.probes.get(probe) for probe in ("nearest-mean", "nearest"))
    return cells + [in_points(None if each is None else each.accuracy) for each in others]


def _probes(table: ClassTable) -> Table:
    m = table.extremes
    titles = ("mean", f"worst {m}", f"best {m}", "std", "bias r", "agree")
    shown = plain_table(["over classes"], titles, tight=True)
    for row in table.probes:
        points = (row.mean, row.worst, row.best, row.spread)
        cells = [in_points(_value(each)) for each in points]
        cells += [decimals(_value(each), 2) for each in (row.correlation, row.agreement)]
        shown.add_row(PROBE_NAMES[row.probe], *cells)
    return shown


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.mean
