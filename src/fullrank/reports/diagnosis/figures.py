"""A diagnosis -> plotly figures; pure functions, nothing is read and nothing is drawn. Torch-free."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import plotly.graph_objects as go

from fullrank.record import DiagnosisEntry, Spectrum
from fullrank.reports import drawing
from fullrank.reports.diagnosis.words import LAYER_FIELDS, in_order
from fullrank.reports.drawing import Arrays, Style
from fullrank.reports.run.tables import base_place

_Shown = Callable[[float], float | None]

MOST_DIRECTIONS = 64
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
_SOLID, _DOT = Style(drawing.INK, "solid", "circle"), Style(drawing.INK, "dot", "circle")
TIME_STYLES = {"effective rank": _SOLID, "live dimensions": _DOT}
# From white to dark blue: an order for every kind of colour blindness.
SEQUENTIAL = [[0, "#ffffff"], [0.5, "#5b9bd0"], [1, "#0b2a5c"]]
_COLORS = {"h": "#e66b1f", "head": "#b8578c", "z": "#4d4d4d"}
_PATTERNS = {"solid": "", "dash": "/", "dot": "."}
_FIELDS = LAYER_FIELDS | {"nearest neighbours": "nearest", "width": "width"}
_ROW, _LONGEST = 25, 16
_RANK_TICKS = [step * 10**power for power in range(6) for step in (1, 3)]
_RANK_AXIS = {"type": "log", "tickvals": _RANK_TICKS, "ticktext": [f"{tick:,}" for tick in _RANK_TICKS]}


def place_styles(places: Sequence[str]) -> dict[str, Style]:
    """A style for each place: layers from green to indigo, h orange, the head pink, z grey, slices dotted."""
    bases = dict.fromkeys(map(base_place, places))
    parts = {base: "head" if base.startswith("head.") else base for base in bases}
    layers = [base for base in bases if parts[base] not in _COLORS]
    styles = {}
    for place in places:
        base = base_place(place)
        color = _COLORS.get(parts[base]) or _depth_color(layers.index(base) / max(len(layers) - 1, 1))
        dash = "dot" if base != place else "dash" if parts[base] in ("head", "z") else "solid"
        styles[place] = Style(color, dash, "circle")
    return styles


def spectra_figure(diagnosis: DiagnosisEntry, styles: Mapping[str, Style]) -> go.Figure | None:
    """ln(s_k / s_1) of every place against k / D, falling to a cross where dimensions are not live."""
    places = in_order(diagnosis, diagnosis.spectrum)
    return spectra_lines({place: diagnosis.spectrum[place] for place in places}, styles)


def spectra_lines(spectra: Mapping[str, Spectrum], styles: Mapping[str, Style]) -> go.Figure | None:
    """ln(s_k / s_1) of named spectra against k / D, falling to a cross where dimensions are not live."""
    if not spectra:
        return None
    ln = {name: drawing.log_or_nan(np.array(each.singular_values)) for name, each in spectra.items()}
    logs = {name: values - values[:1] for name, values in ln.items()}
    floor = 1.08 * min([-1.0, *(values[np.isfinite(values)].min(initial=-1.0) for values in logs.values())])
    x_title, y_title = "share of the dimensions (%), largest first", "ln of singular value / largest"
    figure = drawing.empty_figure(x_title, y_title)
    figure.update_xaxes(range=[0, 101])
    for key, (place, values) in enumerate(logs.items()):
        width, style = values.size, styles[place]
        index = np.arange(1, width + 1)[:: drawing.stride(width)]
        x, y, said = 100 * index / width, values[index - 1], f"%{{customdata}} of {width}: %{{y:.2f}}"
        line = style.line(3 if place == "h" else 1.7)
        drawing.add_line(figure, x, y, place, said, "spectrum", key, line=line, customdata=index)
        alive = int(np.isfinite(values).sum())
        if alive < width:
            ends = [100 * max(alive, 1) / width, 100 * (alive + 1) / width]
            heights = [values[alive - 1] if alive else 0.0, floor]
            marker = {"symbol": ["line-ns", "x"], "size": 8, "color": style.color}
            line, said = style.line(1), f"{alive} of {width} dimensions are live"
            drawing.add_line(figure, ends, heights, place, said, "lost", key, line=line, marker=marker)
    return figure


def spectrum_over_time_figure(arrays: Arrays, name: str) -> go.Figure | None:
    """ln of the 1st, 2nd, 4th, 8th, ... singular value of a watched module against the training step."""
    series = drawing.series_of(arrays, f"spectrum/{name}/step", f"spectrum/{name}/singular_values", 2)
    return None if series is None else drawing.values_over_time(*series, "step", "ln singular value")


def ranks_over_time_figure(
    arrays: Arrays, names: Sequence[str], styles: Mapping[str, Style]
) -> go.Figure | None:
    """Effective rank, solid, and live dimensions, dotted, of watched modules against the training step."""
    figure = drawing.empty_figure("step", "rank (dimensions)")
    keys = {name: key for key, name in enumerate(styles)}
    highest, shown = 1.0, np.array([])
    for name, (measure, style) in product(names, TIME_STYLES.items()):
        key = f"spectrum/{name}/{measure.replace(' ', '_')}"
        series = drawing.series_of(arrays, f"spectrum/{name}/step", key)
        if series is None:
            continue
        steps, ranks = (each[drawing.even_choice(len(each))] for each in series)
        ranks = np.where(np.isfinite(ranks) & (ranks > 0), ranks, np.nan)
        if np.isnan(ranks).all():
            continue
        highest, shown = max(highest, float(np.nanmax(ranks))), np.union1d(shown, steps)
        line = {"color": styles[name].color, "dash": style.dash, "width": 1.8}
        look = {"mode": drawing.line_mode(len(steps)), "line": line, "marker": {"size": 5}}
        title, said = f"{name}, {measure}", "step %{x:,d}: %{y:.4g}"
        drawing.add_line(figure, steps, ranks, title, said, measure, keys[name], **look)
    if not figure.data:
        return None
    figure.update_xaxes(range=drawing.span(shown))
    # From 1 on, so that a fall is as high as it is, and a rank that stays looks level.
    figure.update_yaxes(**_RANK_AXIS, range=[np.log10(0.9), np.log10(1.2 * highest)])
    return figure


def loss_over_time_figure(arrays: Arrays) -> go.Figure | None:
    """The mean loss between two looks at a watched training against the step of the later one."""
    series = drawing.series_of(arrays, "loss/step", "loss/value")
    if series is None:
        return None
    steps, losses = (each[drawing.even_choice(len(each))] for each in series)
    losses = np.where(np.isfinite(losses), losses, np.nan)
    if np.isnan(losses).all():
        return None
    figure = drawing.empty_figure("step", "loss")
    line, said = {"color": drawing.INK, "width": 1.8}, "step %{x:,d}: %{y:.4g}"
    drawing.add_line(
        figure, steps, losses, "loss", said, "loss", mode=drawing.line_mode(len(steps)), line=line
    )
    figure.update_xaxes(range=drawing.span(steps))
    return figure


def accuracies_figure(diagnosis: DiagnosisEntry) -> go.Figure | None:
    """Linear, nearest-neighbour and recall@1 accuracy in points by place, the place to cut at in a band."""
    return _measures_by_place(diagnosis, "accuracy (points)", ACCURACIES, ".1f", lambda share: 100 * share)


def ranks_figure(diagnosis: DiagnosisEntry) -> go.Figure | None:
    """Effective rank, RankMe and the rank of the loss's gradient by place, beside the width; logarithmic."""
    # Zero has no logarithm; the table holds it.
    figure = _measures_by_place(diagnosis, "rank (dimensions)", RANKS, ".4g", lambda rank: rank or None)
    return figure and figure.update_xaxes(**_RANK_AXIS)


def operation_styles(diagnosis: DiagnosisEntry) -> dict[str, Style]:
    """A style for each operation of the views, in the order of the record."""
    return drawing.distinct_styles(list(dict.fromkeys(share.operation for share in diagnosis.augmentation)))


def augmentation_figure(diagnosis: DiagnosisEntry) -> go.Figure | None:
    """What each operation moves at each place, in per cent of the views' covariance, as stacked bars."""
    if not diagnosis.augmentation:
        return None
    places = list(dict.fromkeys(share.place for share in diagnosis.augmentation))
    figure = by_place(places, "share (%)", None)
    for operation, style in operation_styles(diagnosis).items():
        shares = {s.place: 100 * s.share for s in diagnosis.augmentation if s.operation == operation}
        pattern = {"shape": _PATTERNS[style.dash], "fillmode": "overlay", "fgcolor": "#ffffff", "size": 6}
        figure.add_bar(
            x=[shares.get(place) for place in places],
            y=list(range(len(places))),
            orientation="h",
            name=drawing.plain_text(operation),
            marker={"color": style.color, "line": {"color": "#ffffff", "width": 1}, "pattern": pattern},
            customdata=[drawing.plain_text(place) for place in places],
            hovertemplate="%{fullData.name}<br>%{customdata}: %{x:.1f} %<extra></extra>",
            meta={"role": "share"},
        )
    figure.update_layout(barmode="stack", bargap=0.3)
    figure.update_xaxes(rangemode="tozero")
    return figure


def alignment_figure(diagnosis: DiagnosisEntry) -> go.Figure | None:
    """|V2' U1| as a heat map, white 0 and dark 1, of at most the 64 leading directions of either map."""
    matrix = [row[:MOST_DIRECTIONS] for row in diagnosis.alignment[:MOST_DIRECTIONS]]
    if not matrix or not matrix[0] or len({len(row) for row in matrix}) > 1:
        return None
    figure = drawing.empty_figure("output direction of the first map", "input direction of the second map")
    figure.add_heatmap(
        z=matrix,
        x0=1,
        y0=1,
        zmin=0,
        zmax=1,
        colorscale=SEQUENTIAL,
        colorbar={"thickness": 10, "outlinewidth": 0, "tickvals": [0, 0.5, 1], "len": 0.9},
        hovertemplate="second %{y}, first %{x}: %{z:.2f}<extra></extra>",
        meta={"role": "alignment"},
    )
    axis = {"showgrid": False, "constrain": "domain", "tickformat": "d"}
    figure.update_xaxes(**axis, range=[0.5, len(matrix[0]) + 0.5])
    figure.update_yaxes(**axis, scaleanchor="x", range=[len(matrix) + 0.5, 0.5])
    figure.update_layout(height=360)
    return figure


def _depth_color(share: float) -> str:
    """Green to blue to indigo: an order that stays one for every kind of colour blindness."""
    if share < 0.5:
        return drawing.between("#1f8f6f", "#0072b2", 2 * share)
    return drawing.between("#0072b2", "#332288", 2 * share - 1)


def by_place(places: Sequence[str], x_title: str, cut: str | None) -> go.Figure:
    """An empty figure with a row for each place; that of the `cut` is in a band and in bold."""
    figure = drawing.empty_figure(x_title, "")
    labels = [short_place(place) for place in places]
    if cut in places:
        row = places.index(cut)
        labels[row] = f"<b>▸ {labels[row]}</b>"
        figure.add_hrect(y0=row - 0.5, y1=row + 0.5, fillcolor=drawing.faint("#0072b2", 0.12), line_width=0)
    ticks = {"tickvals": list(range(len(places))), "ticktext": labels, "ticks": ""}
    figure.update_yaxes(**ticks, range=[len(places) - 0.4, -0.6], showgrid=False)
    figure.update_layout(height=90 + _ROW * max(len(places), 4), margin={"l": 10, "t": 10})
    return figure


def _measures_by_place(
    diagnosis: DiagnosisEntry, x_title: str, styles: Mapping[str, Style], form: str, shown: _Shown
) -> go.Figure | None:
    """A line down the places for each measure of `styles` that was taken anywhere; None for one place."""
    rows = [row for row in diagnosis.layers if {getattr(row, _FIELDS[name]) for name in styles} != {None}]
    if len(rows) < 2:
        return None
    places = [row.place for row in rows]
    figure = by_place(places, x_title, diagnosis.cut)
    for name, style in styles.items():
        values = [getattr(row, _FIELDS[name]) for row in rows]
        values = [None if value is None else shown(value) for value in values]
        if any(value is not None for value in values):
            y, labels = list(range(len(places))), [drawing.plain_text(place) for place in places]
            look: dict[str, Any] = {"line": style.line(1.4, 0.55), "marker": style.marker(7)}
            said = f"%{{customdata}}: %{{x:{form}}}"
            drawing.add_line(figure, values, y, name, said, name, **look, customdata=labels)
    return figure


def short_place(place: str) -> str:
    """The end of a long name, where places differ, from a dot on if one is near."""
    if len(place) <= _LONGEST:
        return drawing.plain_text(place)
    tail = place[1 - _LONGEST :]
    rest = tail.partition(".")[2]
    return drawing.plain_text(f"…{rest if 2 * len(rest) >= _LONGEST else tail}")
