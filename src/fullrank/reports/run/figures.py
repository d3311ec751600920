"""Record data -> plotly figures; pure functions, no file is read and nothing is drawn. Torch-free."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from fullrank.record import Record
from fullrank.record.comparisons import by_head
from fullrank.reports.drawing import (
    INK,
    Style,
    between,
    distinct_styles,
    empty_figure,
    faint,
    log_or_nan,
    plain_text,
)
from fullrank.reports.run.tables import accuracy, base_place, probed_places

Arrays = Mapping[str, np.ndarray]

MOST_POINTS = 1000
_FEW_POINTS = 12
_FORMATS = {"epoch": ".1f", "step": ",d"}


def spectrum_figure(record: Record, place: str) -> go.Figure | None:
    """Log singular values of the covariance at `place`, sorted: a bold line a head, thin lines its seeds.

    The bold line is the mean over seeds of the natural logarithm, as P1 plots it. What is numerically zero
    (below max * D * eps of float64) has no logarithm worth drawing: it is a row of crosses below all lines.
    Returns None where no run has a spectrum at `place`.
    """
    heads = by_head(record.runs)
    spectra = {
        head: [np.array(run.spectrum[place].singular_values) for run in runs if place in run.spectrum]
        for head, runs in heads.items()
    }
    logs = {head: [log_or_nan(values) for values in seeds] for head, seeds in spectra.items()}
    drawn = [line for lines in logs.values() for line in lines]
    if not drawn:
        return None
    kept = np.concatenate([line[np.isfinite(line)] for line in drawn])
    low, high = (kept.min(), kept.max()) if kept.size else (0.0, 0.0)
    gap = 0.04 * max(high - low, 1.0)
    collapsed = [head for head, lines in logs.items() if any(not np.isfinite(line).all() for line in lines)]
    figure = empty_figure(
        "index of the singular value, largest first", f"ln singular value of cov({plain_text(place)})"
    )
    figure.update_xaxes(range=[0, 1.02 * max(line.size for line in drawn) + 0.5])
    for position, (head, style) in enumerate(distinct_styles(list(heads)).items()):
        lines = logs[head]
        if not lines:
            continue
        hover = "%{fullData.name}<br>index %{x}: %{y:.2f}<extra></extra>"
        index = [np.arange(1, line.size + 1) for line in lines]
        mean = _mean_line(lines) if len({line.size for line in lines}) == 1 else None
        _add_lines(
            figure, head, position, style, index, lines, None if mean is None else index[0], mean, hover
        )
        if mean is not None:
            zero = index[0][~np.isfinite(mean)]
        else:
            zero = np.unique(np.concatenate([i[~np.isfinite(y)] for i, y in zip(index, lines, strict=True)]))
        if zero.size:
            figure.add_scatter(
                x=zero,
                y=np.full(zero.size, low - gap * (2 + collapsed.index(head))),
                mode="markers",
                name=plain_text(head),
                marker={"symbol": "x-thin", "size": 6, "line": {"color": style.color, "width": 1.5}},
                hovertemplate="%{fullData.name}<br>index %{x}: numerically zero<extra></extra>",
                showlegend=False,
                meta={"key": position, "role": "zero"},
            )
    if collapsed:
        figure.add_annotation(
            text="× numerically zero", x=0.02, xref="paper", y=low - 2 * gap, showarrow=False, xanchor="left"
        )
    return figure


def accuracy_figure(record: Record) -> go.Figure | None:
    """Linear accuracy at each place, from the image towards the loss, mean over seeds with its 95 % interval.

    A line joins the places of a head in order of depth; a slice such as `h[:24]` is a lone open marker.
    Returns None where nothing was probed.
    """
    places, heads = probed_places(record), by_head(record.runs)
    if not places:
        return None
    figure = empty_figure("place, from the image towards the loss", "linear accuracy (points)")
    figure.update_xaxes(
        tickvals=list(range(len(places))), ticktext=[plain_text(place) for place in places], showgrid=False
    )
    figure.update_xaxes(range=[-0.5, len(places) - 0.5])
    step = min(0.08, 0.6 / max(len(heads), 1))
    for position, (head, style) in enumerate(distinct_styles(list(heads)).items()):
        at = [(i, place, accuracy(heads[head], place, "linear")) for i, place in enumerate(places)]
        shift = (position - (len(heads) - 1) / 2) * step
        for sliced in (False, True):
            points = [(i, place, e) for i, place, e in at if e and (place != base_place(place)) is sliced]
            if not points:
                continue
            halves = [estimate.half for _, _, estimate in points]
            figure.add_scatter(
                x=[i + shift for i, _, _ in points],
                y=[estimate.mean for _, _, estimate in points],
                error_y={
                    "array": [half or 0 for half in halves],
                    "thickness": 1.2,
                    "width": 0,
                    "visible": any(half is not None for half in halves),
                },
                mode="markers" if sliced else "lines+markers",
                name=plain_text(head),
                legendgroup=plain_text(head),
                showlegend=not sliced,
                line={"color": faint(style.color, 0.55), "dash": style.dash, "width": 1.2},
                marker={
                    "symbol": style.symbol + ("-open" if sliced else ""),
                    "color": style.color,
                    "size": 7,
                },
                customdata=[plain_text(place) for _, place, _ in points],
                hovertemplate="%{fullData.name}<br>%{customdata}: %{y:.1f}<extra></extra>",
                meta={"key": position, "role": "slice" if sliced else "mean"},
            )
    return figure


def curve_figure(
    record: Record, arrays: Mapping[str, Arrays], series: str, label: str, epochs: str = "epoch"
) -> go.Figure | None:
    """A series over training, by epoch: a bold line a head (mean over seeds), thin lines its seeds.

    `arrays` is keyed by the runs' folders; `epochs` names the array that says when each value was taken. The
    loss has its chance level as a dotted line. Runs of a head that were logged at different steps have no
    mean: only their own lines are drawn. Of more than 1000 points every k-th is kept. Returns None where no
    run has the series.
    """
    heads = by_head(record.runs)
    figure = empty_figure("epoch", label)
    last = 0.0
    for position, (head, style) in enumerate(distinct_styles(list(heads)).items()):
        runs = (arrays.get(run.folder, {}) for run in heads[head])
        found = [one for one in runs if has_series(one, series, epochs)]
        every = max((-(-len(found_one[series]) // MOST_POINTS) for found_one in found), default=1)
        x = [one[epochs][::every].astype(float) for one in found]
        y = [one[series][::every].astype(float) for one in found]
        if not found:
            continue
        same = all(each.shape == x[0].shape and np.allclose(each, x[0]) for each in x)
        mean = np.mean(y, axis=0) if same else None
        hover = "%{fullData.name}<br>epoch %{x:.1f}: %{y:.3g}<extra></extra>"
        _add_lines(figure, head, position, style, x, y, x[0] if same else None, mean, hover)
        last = max(last, *(float(each.max(initial=0)) for each in x))
    if not figure.data:
        return None
    figure.update_xaxes(range=[0, 1.01 * last or 1])
    if series == "loss":
        for chance in sorted({round(run.chance, 9) for run in record.runs if run.chance is not None}):
            figure.add_scatter(
                x=[0, last],
                y=[chance, chance],
                mode="lines",
                line={"color": INK, "dash": "dot", "width": 1.2},
                hoverinfo="skip",
                showlegend=False,
                name="chance",
                meta={"role": "chance"},
            )
            figure.add_annotation(
                text=f"chance {chance:.2f}", x=last, y=chance, xanchor="right", yshift=-10, showarrow=False
            )
    return figure


def spectrum_history_figure(arrays: Arrays) -> go.Figure | None:
    """The spectrum of h over the training of one run: ln of the 1st, 2nd, 4th, 8th, ... singular value.

    Returns None where the arrays hold no spectrum over time.
    """
    values, steps = arrays.get("spectrum_h"), arrays.get("spectrum_step")
    if (
        values is None
        or steps is None
        or values.ndim != 2
        or values.shape[0] != steps.size
        or not values.size
    ):
        return None
    epochs = (
        np.interp(steps, arrays["step"], arrays["epoch"])
        if has_series(arrays, "step")
        else steps.astype(float)
    )
    unit = "epoch" if has_series(arrays, "step") else "step"
    return values_over_time(epochs, values, unit, "ln singular value of cov(h)")


def values_over_time(x: np.ndarray, values: np.ndarray, unit: str, y_title: str) -> go.Figure:
    """ln of the 1st, 2nd, 4th, 8th, ... and last of descending `values` (T, D) against `x` (T,), in `unit`.

    What is numerically zero or not finite leaves a gap. Of more than 1000 times an even choice is kept.
    """
    kept = even_choice(len(x))
    x, logs, width = x[kept], log_or_nan(values[kept]), values.shape[1]
    ranks = [2**i for i in range(width.bit_length()) if 2**i < width] + [width]
    figure = empty_figure(unit, y_title)
    alive = np.isfinite(logs)
    room = 0.05 * float(np.ptp(logs[alive])) if alive.any() else 0.0
    # Lines are named where the last numbers are: those of a later time may all be missing.
    last = int(np.flatnonzero(alive.any(axis=1))[-1]) if alive.any() else 0
    hover = f"{unit} %{{x:{_FORMATS[unit]}}}: %{{y:.2f}}"
    labelled = np.inf
    for i, rank in enumerate(ranks):
        share = i / max(len(ranks) - 1, 1)
        # One hue from dark to light: the order of the lines is the order of their ranks.
        color = between("#003c73", "#82afd7", share)
        end = logs[last, rank - 1]
        # Values descend with rank, so a label is free if it stands well below the last one.
        free = bool(np.isfinite(end) and end < labelled - room)
        labelled = end if free else labelled
        figure.add_scatter(
            x=x,
            y=logs[:, rank - 1],
            mode=f"{line_mode(len(x))}+text",
            text=[f" {rank}" if free and time == last else "" for time in range(len(x))],
            textposition="middle right",
            textfont={"color": INK, "size": 11},
            cliponaxis=False,
            name=str(rank),
            line={"color": color, "width": 1.8},
            marker={"size": 5},
            hovertemplate=f"singular value {rank}<br>{hover}<extra></extra>",
            showlegend=False,
            meta={"role": "rank"},
        )
    figure.update_layout(margin={"r": 34})
    figure.update_xaxes(range=span(x))
    return figure


def even_choice(count: int) -> np.ndarray:
    """Indices of at most 1000 of `count` points, evenly spread, the first and the last among them.

    >>> len(even_choice(12)), even_choice(5000)[[0, 1, -1]].tolist()
    (12, [0, 5, 4999])
    """
    chosen: np.ndarray = np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int)
    return chosen


def span(x: np.ndarray) -> list[float]:
    """The range of an axis that shows all of `x` and little else.

    >>> span(np.array([100, 200])), span(np.array([7]))
    ([98.0, 202.0], [6.5, 7.5])
    """
    first, last = float(x.min()), float(x.max())
    room = 0.02 * (last - first) or 0.5
    return [first - room, last + room]


def line_mode(count: int) -> str:
    """How a line through so many points is drawn: a few have dots, for one alone is no line.

    >>> line_mode(1), line_mode(500)
    ('lines+markers', 'lines')
    """
    return "lines+markers" if count <= _FEW_POINTS else "lines"


def has_series(arrays: Arrays, series: str, epochs: str = "epoch") -> bool:
    """Whether the arrays hold a series that is as long as its epochs, and not empty."""
    held = series in arrays and epochs in arrays and arrays[series].shape == arrays[epochs].shape
    return held and len(arrays[series]) > 0


def _mean_line(lines: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over seeds where every seed has a value: a mean of survivors would rise where seeds collapse."""
    mean: np.ndarray = np.mean(lines, axis=0)
    return mean


def _add_lines(
    figure: go.Figure,
    head: str,
    position: int,
    style: Style,
    x: Sequence[np.ndarray],
    y: Sequence[np.ndarray],
    mean_x: np.ndarray | None,
    mean_y: np.ndarray | None,
    hover: str,
) -> None:
    """Add the seeds of a head as one thin trace with gaps between them, and their mean as a bold one."""
    common: dict[str, Any] = {"mode": "lines", "name": plain_text(head), "legendgroup": plain_text(head)}
    if len(y) > 1 or mean_y is None:
        gap = np.array([np.nan])
        figure.add_scatter(
            x=np.concatenate([part for line in x for part in (line, gap)]),
            y=np.concatenate([part for line in y for part in (line, gap)]),
            line={"color": faint(style.color, 0.3), "width": 0.8},
            hoverinfo="skip",
            showlegend=mean_y is None,
            meta={"key": position, "role": "seeds"},
            **common,
        )
    if mean_y is not None:
        figure.add_scatter(
            x=mean_x,
            y=mean_y,
            line={"color": style.color, "dash": style.dash, "width": 2},
            hovertemplate=hover,
            showlegend=True,
            meta={"key": position, "role": "mean"},
            **common,
        )
