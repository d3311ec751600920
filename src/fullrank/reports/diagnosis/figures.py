"""A diagnosis -> plotly figures; pure functions, nothing is read and nothing is drawn. Torch-free.

Figures by place have the places from top to bottom, the image at the top: names are long, telephones narrow.
"""

from collections.abc import Mapping, Sequence
from typing import TypeGuard

import numpy as np
import plotly.graph_objects as go

from fullrank.record import DiagnosisEntry
from fullrank.reports.drawing import (
    Style,
    between,
    distinct_styles,
    empty_figure,
    faint,
    log_or_nan,
    plain_text,
)
from fullrank.reports.run.figures import Arrays, even_choice, line_mode, span, values_over_time
from fullrank.reports.run.tables import base_place
from fullrank.statistics import live

MOST_POINTS, MOST_DIRECTIONS = 1000, 64
ACCURACIES = {
    "linear": Style("#0072b2", "solid", "circle"),
    "nearest neighbours": Style("#e66b1f", "dash", "diamond"),
    "recall@1": Style("#332288", "dot", "square"),
}
RANKS = {
    "effective rank": Style("#0072b2", "solid", "circle"),
    "RankMe": Style("#e66b1f", "dash", "diamond"),
    "rank of the gradient": Style("#332288", "dot", "square"),
    "width": Style("#4d4d4d", "solid", "circle-open"),
}
TIME_DASHES = {"effective rank": "solid", "live dimensions": "dot"}
CURVE_DASHES = {"leading components": "solid", "random channels": "dot"}
_PATTERNS = {"solid": "", "dash": "/", "dot": "."}
_ROW, _LONGEST = 25, 16
_RANK_TICKS = [step * 10**power for power in range(6) for step in (1, 3)]
_RANK_AXIS = {"type": "log", "tickvals": _RANK_TICKS, "ticktext": [f"{tick:,}" for tick in _RANK_TICKS]}


def place_styles(places: Sequence[str]) -> dict[str, Style]:
    """A style for each place: layers of the encoder from green to indigo, h orange, the head pink, z grey.

    A slice such as `h[:24]` is its place dotted.

    >>> place_styles(["layer1", "layer2", "h", "z"])["h"]
    Style(color='#e66b1f', dash='solid', symbol='circle')
    """
    layers = [place for place in dict.fromkeys(map(base_place, places)) if _part(place) == "encoder"]
    styles = {}
    for place in places:
        base = base_place(place)
        part = _part(base)
        if part == "encoder":
            color = _depth_color(layers.index(base) / max(len(layers) - 1, 1))
        else:
            color = {"h": "#e66b1f", "head": "#b8578c", "z": "#4d4d4d"}[part]
        dash = "dot" if base != place else "dash" if part in ("head", "z") else "solid"
        styles[place] = Style(color, dash, "circle")
    return styles


def spectrum_places(diagnosis: DiagnosisEntry) -> list[str]:
    """The places with a spectrum, from the image to z."""
    order = {place: position for position, place in enumerate(diagnosis.places)}
    return sorted(diagnosis.spectrum, key=lambda place: order.get(place, len(order)))


def spectra_figure(diagnosis: DiagnosisEntry, styles: Mapping[str, Style]) -> go.Figure | None:
    """ln(s_k / s_1) of every place against k / D: places differ in scale and width, not in what a fall means.

    What is numerically zero has no logarithm: the line drops to a cross on the floor where it begins. Of more
    than 1000 values every k-th is kept. Returns None where there is no spectrum.
    """
    places = spectrum_places(diagnosis)
    if not places:
        return None
    logs = {
        place: log_or_nan(np.array(diagnosis.spectrum[place].singular_values, dtype=float))
        for place in places
    }
    logs = {place: values - values[0] if values.size else values for place, values in logs.items()}
    alive = np.concatenate([values[np.isfinite(values)] for values in logs.values()])
    low = float(alive.min(initial=-1.0))
    floor = 1.08 * low
    figure = empty_figure("share of the dimensions (%), largest first", "ln of singular value / largest")
    figure.update_xaxes(range=[0, 101])
    for key, place in enumerate(places):
        values, style = logs[place], styles[place]
        line = {"color": style.color, "dash": style.dash, "width": 3 if place == "h" else 1.7}
        index = np.arange(1, values.size + 1)[:: max(1, -(-values.size // MOST_POINTS))]
        figure.add_scatter(
            x=100 * index / values.size,
            y=values[index - 1],
            customdata=index,
            mode="lines",
            name=plain_text(place),
            line=line,
            hovertemplate=f"%{{fullData.name}}<br>%{{customdata}} of {values.size}: %{{y:.2f}}"
            "<extra></extra>",
            meta={"key": key, "role": "spectrum"},
        )
        live = int(np.isfinite(values).sum())
        if live < values.size:
            figure.add_scatter(
                x=[100 * max(live, 1) / values.size, 100 * (live + 1) / values.size],
                y=[values[live - 1] if live else 0.0, floor],
                mode="lines+markers",
                name=plain_text(place),
                line={**line, "width": 1},
                marker={"symbol": ["line-ns", "x"], "size": 8, "color": style.color},
                hovertemplate=f"%{{fullData.name}}<br>{values.size - live} of {values.size} numerically zero"
                "<extra></extra>",
                meta={"key": key, "role": "zero"},
            )
    return figure


def spectrum_over_time_figure(arrays: Arrays, name: str) -> go.Figure | None:
    """ln of the 1st, 2nd, 4th, 8th, ... singular value of a watched module against the training step.

    Returns None where the arrays hold no `spectrum/NAME/step` (T,) and `singular_values` (T, D), or no value
    above zero.
    """
    steps, values = (arrays.get(f"spectrum/{name}/{series}") for series in ("step", "singular_values"))
    if (
        not (_is_numeric(steps, 1) and _is_numeric(values, 2))
        or len(steps) != len(values)
        or not live(values).any()
    ):
        return None
    return values_over_time(steps, values, "step", "ln singular value")


def ranks_over_time_figure(
    arrays: Arrays, names: Sequence[str], styles: Mapping[str, Style]
) -> go.Figure | None:
    """Effective rank, solid, and live dimensions, dotted, of watched modules against the training step.

    Logarithmic from 1; a rank of 0 or one that is not a number leaves a gap. Of more than 1000 steps an even
    choice is kept. Returns None where the arrays hold none.
    """
    figure = empty_figure("step", "rank (dimensions)")
    keys = {name: key for key, name in enumerate(styles)}
    highest, shown = 1.0, np.array([])
    for name in names:
        steps = arrays.get(f"spectrum/{name}/step")
        for measure, dash in TIME_DASHES.items():
            values = arrays.get(f"spectrum/{name}/{measure.replace(' ', '_')}")
            if not (_is_numeric(steps, 1) and _is_numeric(values, 1)) or len(steps) != len(values):
                continue
            kept = even_choice(len(steps))
            ranks = np.where(np.isfinite(values) & (values > 0), values, np.nan)[kept]
            if np.isnan(ranks).all():
                continue
            highest, shown = max(highest, float(np.nanmax(ranks))), np.union1d(shown, steps[kept])
            figure.add_scatter(
                x=steps[kept],
                y=ranks,
                mode=line_mode(len(kept)),
                name=plain_text(f"{name}, {measure}"),
                line={"color": styles[name].color, "dash": dash, "width": 1.8},
                marker={"size": 5},
                hovertemplate="%{fullData.name}<br>step %{x:,d}: %{y:.4g}<extra></extra>",
                meta={"key": keys[name], "role": measure},
            )
    if not figure.data:
        return None
    figure.update_xaxes(range=span(shown))
    # From 1 on, so that a fall is as high as it is, and a rank that stays looks level.
    figure.update_yaxes(**_RANK_AXIS, range=[np.log10(0.9), np.log10(1.2 * highest)])
    return figure


def accuracies_figure(diagnosis: DiagnosisEntry) -> go.Figure | None:
    """Linear, nearest-neighbour and recall@1 accuracy in points by place, the place to cut at in a band.

    Returns None for fewer than two places with an accuracy.
    """
    rows = [row for row in diagnosis.layers if (row.linear, row.nearest, row.recall_at_1) != (None,) * 3]
    if len(rows) < 2:
        return None
    places = [row.place for row in rows]
    figure = _by_place(places, "accuracy (points)", diagnosis.cut)
    found = zip(
        ACCURACIES.items(),
        ([row.linear for row in rows], [row.nearest for row in rows], [row.recall_at_1 for row in rows]),
        strict=True,
    )
    for (name, style), values in found:
        points = [None if value is None else 100 * value for value in values]
        _add_by_place(figure, places, points, name, style, ".1f")
    return figure


def ranks_figure(diagnosis: DiagnosisEntry) -> go.Figure | None:
    """Effective rank, RankMe and the rank of the loss's gradient by place, beside the width; logarithmic.

    Returns None for fewer than two places.
    """
    rows = diagnosis.layers
    if len(rows) < 2:
        return None
    places = [row.place for row in rows]
    figure = _by_place(places, "rank (dimensions)", diagnosis.cut)
    found: dict[str, list[float | None]] = {
        "effective rank": [row.effective_rank for row in rows],
        "RankMe": [row.rankme for row in rows],
        "rank of the gradient": [row.gradient_rank for row in rows],
        "width": [float(row.width) for row in rows],
    }
    figure.update_xaxes(**_RANK_AXIS)
    for name, values in found.items():
        # Zero has no logarithm; the table holds it.
        _add_by_place(figure, places, [value or None for value in values], name, RANKS[name], ".4g")
    return figure


def dimensions_figure(diagnosis: DiagnosisEntry, styles: Mapping[str, Style]) -> go.Figure | None:
    """Linear accuracy in points against the number of dimensions: components solid, random channels dotted.

    Returns None where nothing was measured.
    """
    curves = [curve for curve in diagnosis.dimensions if curve.dimensions]
    if not curves:
        return None
    figure = empty_figure("number of dimensions", "linear accuracy (points)")
    keys = {place: key for key, place in enumerate(styles)}
    ticks = sorted({dimension for curve in curves for dimension in curve.dimensions})
    ticks = ticks[:: -(-len(ticks) // 7)]
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])
    for curve in curves:
        figure.add_scatter(
            x=curve.dimensions,
            y=[100 * value for value in curve.accuracy],
            mode="lines+markers",
            name=plain_text(f"{curve.place}, {curve.kind}"),
            line={"color": styles[curve.place].color, "dash": CURVE_DASHES[curve.kind], "width": 1.8},
            marker={"symbol": "circle" if curve.kind == "leading components" else "circle-open", "size": 6},
            hovertemplate="%{fullData.name}<br>%{x} dimensions: %{y:.1f}<extra></extra>",
            meta={"key": keys[curve.place], "role": curve.kind},
        )
    return figure


def operation_styles(diagnosis: DiagnosisEntry) -> dict[str, Style]:
    """A style for each operation of the views, in the order of the record."""
    return distinct_styles(list(dict.fromkeys(share.operation for share in diagnosis.augmentation)))


def augmentation_figure(diagnosis: DiagnosisEntry) -> go.Figure | None:
    """What each operation moves at each place, in per cent of the views' covariance, as stacked bars.

    Returns None where the record has no shares.
    """
    if not diagnosis.augmentation:
        return None
    places = list(dict.fromkeys(share.place for share in diagnosis.augmentation))
    figure = _by_place(places, "share (%)", None)
    for operation, style in operation_styles(diagnosis).items():
        held = {s.place: 100 * s.share for s in diagnosis.augmentation if s.operation == operation}
        figure.add_bar(
            x=[held.get(place) for place in places],
            y=list(range(len(places))),
            orientation="h",
            name=plain_text(operation),
            marker={
                "color": style.color,
                "line": {"color": "#ffffff", "width": 1},
                "pattern": {
                    "shape": _PATTERNS[style.dash],
                    "fillmode": "overlay",
                    "fgcolor": "#ffffff",
                    "size": 6,
                },
            },
            customdata=[plain_text(place) for place in places],
            hovertemplate="%{fullData.name}<br>%{customdata}: %{x:.1f} %<extra></extra>",
            meta={"role": "share"},
        )
    figure.update_layout(barmode="stack", bargap=0.3)
    figure.update_xaxes(rangemode="tozero")
    return figure


def alignment_figure(diagnosis: DiagnosisEntry) -> go.Figure | None:
    """|V2' U1| as a heat map, white 0 and dark 1, of at most the 64 leading directions of either map.

    Returns None where the record has no matrix.
    """
    matrix = [row[:MOST_DIRECTIONS] for row in diagnosis.alignment[:MOST_DIRECTIONS]]
    if not matrix or not matrix[0] or len({len(row) for row in matrix}) > 1:
        return None
    figure = empty_figure("output direction of the first map", "input direction of the second map")
    figure.add_heatmap(
        z=matrix,
        x0=1,
        y0=1,
        zmin=0,
        zmax=1,
        colorscale=[[0, "#ffffff"], [0.5, "#5b9bd0"], [1, "#0b2a5c"]],
        colorbar={"thickness": 10, "outlinewidth": 0, "tickvals": [0, 0.5, 1], "len": 0.9},
        hovertemplate="second %{y}, first %{x}: %{z:.2f}<extra></extra>",
        meta={"role": "alignment"},
    )
    figure.update_xaxes(showgrid=False, constrain="domain", tickformat="d", range=[0.5, len(matrix[0]) + 0.5])
    figure.update_yaxes(
        showgrid=False, scaleanchor="x", constrain="domain", tickformat="d", range=[len(matrix) + 0.5, 0.5]
    )
    figure.update_layout(height=360)
    return figure


def _is_numeric(values: np.ndarray | None, dimensions: int) -> TypeGuard[np.ndarray]:
    return values is not None and values.ndim == dimensions and values.size > 0 and values.dtype.kind in "iuf"


def _part(place: str) -> str:
    if place in ("h", "z"):
        return place
    return "head" if place.startswith("head.") else "encoder"


def _depth_color(share: float) -> str:
    """Green to blue to indigo: an order that stays one for every kind of colour blindness."""
    if share < 0.5:
        return between("#1f8f6f", "#0072b2", 2 * share)
    return between("#0072b2", "#332288", 2 * share - 1)


def _by_place(places: Sequence[str], x_title: str, cut: str | None) -> go.Figure:
    """An empty figure with a row for each place; that of the `cut` stands in a band and in bold."""
    figure = empty_figure(x_title, "")
    labels = [_tail(place) for place in places]
    if cut in places:
        row = places.index(cut)
        labels[row] = f"<b>▸ {labels[row]}</b>"
        figure.add_hrect(y0=row - 0.5, y1=row + 0.5, fillcolor=faint("#0072b2", 0.12), line_width=0)
    figure.update_yaxes(
        tickvals=list(range(len(places))),
        ticktext=labels,
        range=[len(places) - 0.4, -0.6],
        showgrid=False,
        ticks="",
    )
    figure.update_layout(height=90 + _ROW * max(len(places), 4), margin={"l": 10, "t": 10})
    return figure


def _add_by_place(
    figure: go.Figure,
    places: Sequence[str],
    values: Sequence[float | None],
    name: str,
    style: Style,
    form: str,
) -> None:
    """Add a measure as a line down the places; one that was measured nowhere adds nothing."""
    if all(value is None for value in values):
        return
    figure.add_scatter(
        x=values,
        y=list(range(len(places))),
        mode="lines+markers",
        name=name,
        line={"color": faint(style.color, 0.55), "dash": style.dash, "width": 1.4},
        marker={"symbol": style.symbol, "color": style.color, "size": 7},
        customdata=[plain_text(place) for place in places],
        hovertemplate=f"%{{fullData.name}}<br>%{{customdata}}: %{{x:{form}}}<extra></extra>",
        meta={"role": name},
    )


def _tail(place: str) -> str:
    """The end of a long name, where places differ, from a dot on if one is near."""
    if len(place) <= _LONGEST:
        return plain_text(place)
    tail = place[1 - _LONGEST :]
    rest = tail.partition(".")[2]
    return plain_text(f"…{rest if 2 * len(rest) >= _LONGEST else tail}")
