"""The dial of a record: how strongly each factor is carried at each place, and as predicted. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from fullrank.record import Record, RunEntry
from fullrank.record.comparisons import by_head
from fullrank.record.scores import LEFT_OUT, PREDICTED, RELATIVE
from fullrank.reports.drawing import distinct_styles, empty_figure, faint, plain_text
from fullrank.reports.layout import Panel, panel
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
    factors, rows = dial_factors(record), dial_rows(record)
    if not rows:
        return None
    told = any(cell is not None and cell.predicted is not None for row in rows for cell in row.cells)
    panels = []
    for factor in factors:
        figure = dial_figure(record, factor)
        if figure is not None:
            label = f"The weight of {factor} at each place, relative to the largest factor's there"
            note = "Full lines: measured; dashed lines and open markers: predicted." if told else ""
            panels.append(panel(figure, f"The dial: {factor}", f"{label}. {note}".strip(), note))
    return DialSection(factors, dial_left_out(record), rows, panels, told)


def dial_factors(record: Record) -> list[str]:
    """The factors that a record weighs, in the order of its scores."""
    found = (score.label for run in record.runs for score in run.scores if score.statistic == RELATIVE)
    return list(dict.fromkeys(found))


def dial_left_out(record: Record) -> list[str]:
    """The labels that were not weighed, since they go with another one."""
    found = (score.label for run in record.runs for score in run.scores if score.statistic == LEFT_OUT)
    return list(dict.fromkeys(found))


def dial_places(record: Record) -> list[str]:
    """Every place where factors are weighed, the images first, then towards the loss."""
    found = (score.place for run in record.runs for score in run.scores if score.statistic == RELATIVE)
    # A place that is neither of the head nor h keeps its order before them, and "images" is the first scored.
    return by_depth(list(dict.fromkeys(found)))


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
    """The weight of a factor from the images to the loss, relative to the largest, on a log scale.

    A full line a head is what was measured, mean over seeds with its 95 % interval, a dashed line with open
    markers what the linear theory predicts. A weight below 0.01 is drawn at 0.01. Returns None where the
    factor was not weighed.
    """
    places, heads = dial_places(record), by_head(record.runs)
    figure = empty_figure("place, from the images towards the loss", "relative weight")
    step = min(0.06, 0.5 / max(len(heads), 1))
    for position, (head, style) in enumerate(distinct_styles(list(heads)).items()):
        cells = [(i, cell) for i, place in enumerate(places) if (cell := _cell(heads[head], place, factor))]
        if not cells:
            continue
        shift = (position - (len(heads) - 1) / 2) * step
        hover = "%{fullData.name}<br>%{customdata[0]}: %{customdata[1]:.3g}<extra></extra>"
        said = [(i, cell.predicted) for i, cell in cells if cell.predicted is not None]
        figure.add_scatter(
            x=[i + shift for i, _ in said],
            y=[max(value, FLOOR) for _, value in said],
            mode="lines+markers",
            name=f"{plain_text(head)}, predicted",
            line={"color": faint(style.color, 0.75), "dash": "dash", "width": 1.4},
            marker={"symbol": f"{style.symbol}-open", "size": 8, "color": style.color},
            customdata=[[plain_text(places[i]), value] for i, value in said],
            hovertemplate=hover,
            meta={"key": position, "role": "predicted"},
        )
        means = [max(cell.measured.mean, FLOOR) for _, cell in cells]
        ends = [_ends(cell.measured) for _, cell in cells]
        figure.add_scatter(
            x=[i + shift for i, _ in cells],
            y=means,
            error_y={
                "array": [high - mean for (_, high), mean in zip(ends, means, strict=True)],
                "arrayminus": [mean - low for (low, _), mean in zip(ends, means, strict=True)],
                "thickness": 1.2,
                "width": 0,
                "visible": any(cell.measured.half is not None for _, cell in cells),
            },
            mode="lines+markers",
            name=plain_text(head),
            line={"color": style.color, "dash": style.dash, "width": 2},
            marker={"symbol": style.symbol, "size": 7, "color": style.color},
            customdata=[[plain_text(places[i]), cell.measured.mean] for i, cell in cells],
            hovertemplate=hover,
            meta={"key": position, "role": "mean"},
        )
    if not figure.data:
        return None
    figure.update_xaxes(
        tickvals=list(range(len(places))),
        ticktext=[plain_text(place) for place in places],
        range=[-0.5, len(places) - 0.5],
        showgrid=False,
    )
    figure.update_yaxes(
        type="log",
        range=[np.log10(FLOOR) - 0.08, 0.12],
        tickvals=[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1],
        ticktext=["≤ 0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"],
    )
    return figure


def _cell(runs: Sequence[RunEntry], place: str, factor: str) -> DialCell | None:
    """One factor at one place over the seeds of a head; None where it was not weighed there."""
    measured = _values(runs, place, factor, RELATIVE)
    if not measured:
        return None
    predicted = _values(runs, place, factor, PREDICTED)
    return DialCell(Estimate.of(measured), float(np.mean(predicted)) if predicted else None)


def _values(runs: Sequence[RunEntry], place: str, factor: str, statistic: str) -> list[float]:
    return [
        score.value
        for run in runs
        for score in run.scores
        if (score.place, score.label, score.statistic) == (place, factor, statistic)
    ]


def _ends(estimate: Estimate) -> tuple[float, float]:
    """The interval as it is drawn: never below the floor, and the mean alone where there is none."""
    low = estimate.mean if estimate.low is None else estimate.low
    high = estimate.mean if estimate.high is None else estimate.high
    return max(low, FLOOR), max(high, FLOOR)
