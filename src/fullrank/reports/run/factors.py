"""The dial of a record: how strongly each factor is carried at each place, and as predicted. Torch-free."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from fullrank.record import Record, RunEntry, Score
from fullrank.record.comparisons import by_head
from fullrank.record.scores import LEFT_OUT, PREDICTED, RELATIVE
from fullrank.reports.drawing import add_line, error_bars, faint, figure_by_place, plain_text
from fullrank.reports.layout import Panel, panels
from fullrank.reports.run.figures import drawn_heads
from fullrank.reports.run.tables import by_depth
from fullrank.statistics import Estimate

# Below this share of the largest a weight is drawn as if it were this: a logarithm has no room for 0.
FLOOR = 0.01


@dataclass(frozen=True)
class DialCell:
    """The weight of a factor relative to the largest: measured, mean over seeds, and as predicted."""

    measured: Estimate
    predicted: float | None


@dataclass(frozen=True)
class DialRow:
    """One head at one place: a cell for each of `dial_factors`, None where the factor was not weighed."""

    head: str
    place: str
    cells: tuple[DialCell | None, ...]


@dataclass(frozen=True)
class DialSection:
    """What the page shows of the dial; `predicted` says whether the theory speaks of any head."""

    factors: list[str]
    left_out: list[str]
    rows: list[DialRow]
    panels: list[Panel]
    predicted: bool


def dial_section(record: Record) -> DialSection | None:
    """The dial of a run or study; None where no factor was weighed."""
    factors, rows, shown = dial_factors(record), dial_rows(record), []
    if not rows:
        return None
    predicted = any(cell is not None and cell.predicted is not None for row in rows for cell in row.cells)
    note = "Full lines: measured; dashed lines and open markers: predicted." if predicted else ""
    for factor in factors:
        label = f"The weight of {factor} at each place, relative to the largest factor's there. {note}"
        shown += panels(dial_figure(record, factor), f"The dial: {factor}", label.strip(), note)
    return DialSection(factors, dial_left_out(record), rows, shown, predicted)


def dial_factors(record: Record) -> list[str]:
    """The factors that a record weighs, in the order of its scores."""
    return list(dict.fromkeys(score.label for score in _scores(record.runs, RELATIVE)))


def dial_left_out(record: Record) -> list[str]:
    """The labels that were not weighed, since they go with another one."""
    return list(dict.fromkeys(score.label for score in _scores(record.runs, LEFT_OUT)))


def dial_places(record: Record) -> list[str]:
    """Every place where factors are weighed, the images first, then towards the loss."""
    # A place that is neither of the head nor h keeps its order before them, and "images" is the first scored.
    return by_depth(list(dict.fromkeys(score.place for score in _scores(record.runs, RELATIVE))))


def dial_rows(record: Record, places: Sequence[str] = ("h", "z")) -> list[DialRow]:
    """A row for each head at each of `places` where it has weights; none where nothing was weighed."""
    factors, rows = dial_factors(record), []
    for head, runs in by_head(record.runs).items():
        for place in places:
            cells = tuple(_cell(runs, place, factor) for factor in factors)
            if any(cells):
                rows.append(DialRow(head, place, cells))
    return rows


def dial_figure(record: Record, factor: str) -> go.Figure | None:
    """The weight of a factor from the images to the loss, relative to the largest, on a log scale."""
    places, heads = dial_places(record), drawn_heads(record)
    figure = figure_by_place(places, "place, from the images towards the loss", "relative weight")
    step = min(0.06, 0.5 / max(len(heads), 1))
    for head in heads:
        shift = (head.key - (len(heads) - 1) / 2) * step
        cells = {i: cell for i, place in enumerate(places) if (cell := _cell(head.runs, place, factor))}
        means = {i: cell.measured.mean for i, cell in cells.items()}
        predicted = {i: cell.predicted for i, cell in cells.items() if cell.predicted is not None}
        style, color = head.style, head.style.color
        dashed = {
            "line": {"color": faint(color, 0.75), "dash": "dash", "width": 1.4},
            "marker": style.marker(8, hollow=True),
        }
        full = {
            "error_y": error_bars([cell.measured for cell in cells.values()], FLOOR),
            "line": style.line(2),
            "marker": style.marker(7),
        }
        for role, name, values, look in (
            ("predicted", f"{head.name}, predicted", predicted, dashed),
            ("mean", head.name, means, full),
        ):
            if values:
                add_line(
                    figure,
                    [i + shift for i in values],
                    [max(value, FLOOR) for value in values.values()],
                    name,
                    "%{customdata[0]}: %{customdata[1]:.3g}",
                    role,
                    head.key,
                    customdata=[[plain_text(places[i]), value] for i, value in values.items()],
                    **look,
                )
    if not figure.data:
        return None
    ticks = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
    labels = ["≤ 0.01", *(f"{tick:g}" for tick in ticks[1:])]
    figure.update_yaxes(type="log", range=[np.log10(FLOOR) - 0.08, 0.12], tickvals=ticks, ticktext=labels)
    return figure


def _cell(runs: Sequence[RunEntry], place: str, factor: str) -> DialCell | None:
    """One factor at one place over the seeds of a head; None where it was not weighed there."""
    measured, predicted = (
        [score.value for score in _scores(runs, kind) if (score.place, score.label) == (place, factor)]
        for kind in (RELATIVE, PREDICTED)
    )
    if not measured:
        return None
    return DialCell(Estimate.of(measured), float(np.mean(predicted)) if predicted else None)


def _scores(runs: Iterable[RunEntry], statistic: str) -> list[Score]:
    """The scores of runs that are such a statistic of a factor."""
    return [score for run in runs for score in run.scores if score.statistic == statistic]
