"""The weight of each factor at each place, measured and predicted (the "dial"). Torch-free."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from fullrank.record import Record, RunEntry, Score
from fullrank.record.comparisons import by_row
from fullrank.record.scores import LEFT_OUT, PREDICTED, RELATIVE
from fullrank.reports.drawing import add_line, error_bars, figure_by_place, plain_text
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


def dial_section(record: Record) -> dict[str, Any] | None:
    """What the page shows of the dial; None where no factor was weighed."""
    factors, rows = dial_factors(record), dial_rows(record)
    if not rows:
        return None
    shown: list[Panel] = []
    predicted = any(cell is not None and cell.predicted is not None for row in rows for cell in row.cells)
    note = "Full lines: measured; dashed lines and open markers: predicted." if predicted else ""
    for factor in factors:
        label = f"The weight of {factor} at each place, relative to the largest factor's there. {note}"
        shown += panels(dial_figure(record, factor), f"The weight of {factor}", label.strip(), note)
    left_out = dial_factors(record, LEFT_OUT)
    return {"factors": factors, "left_out": left_out, "rows": rows, "panels": shown, "predicted": predicted}


def dial_factors(record: Record, statistic: str = RELATIVE) -> list[str]:
    """The factors that a record weighs, in the order of its scores; for LEFT_OUT those not weighed."""
    return list(dict.fromkeys(score.label for score in _scores(record.runs, statistic)))


def dial_places(record: Record) -> list[str]:
    """Every place where factors are weighed, the images first, then towards the loss."""
    # A place that is neither of the head nor h keeps its order before them, and "images" is the first scored.
    return by_depth(list(dict.fromkeys(score.place for score in _scores(record.runs, RELATIVE))))


def dial_rows(record: Record) -> list[DialRow]:
    """A row for each head at h and at z where it has weights; none where nothing was weighed."""
    factors = dial_factors(record)
    rows = [
        DialRow(head, place, tuple(_cell(runs, place, factor) for factor in factors))
        for head, runs in by_row(record.runs).items()
        for place in ("h", "z")
    ]
    return [row for row in rows if any(row.cells)]


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
        style, said = head.style, "%{customdata[0]}: %{customdata[1]:.3g}"
        line, bars = style.line(1.4, 0.75), error_bars([cell.measured for cell in cells.values()], FLOOR)
        dashed = {"line": line | {"dash": "dash"}, "marker": style.marker(8, hollow=True)}
        full = {"error_y": bars, "line": style.line(2), "marker": style.marker(7)}
        for role, name, values, look in (
            ("predicted", f"{head.name}, predicted", predicted, dashed),
            ("mean", head.name, means, full),
        ):
            if values:
                x, y = [i + shift for i in values], [max(value, FLOOR) for value in values.values()]
                named = [[plain_text(places[i]), value] for i, value in values.items()]
                add_line(figure, x, y, name, said, role, head.key, customdata=named, **look)
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
