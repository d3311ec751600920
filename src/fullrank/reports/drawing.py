"""What every figure shares: colours, styles, axes, lines, error bars, series over training. Torch-free."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import plotly.graph_objects as go

from fullrank.statistics import Estimate, live

Arrays = Mapping[str, np.ndarray]
Series = tuple[np.ndarray, np.ndarray]

# Apart under red-green colour blindness, on a light page; a dark one inverts them, which keeps the contrast.
COLORS = ("#4d4d4d", "#0072b2", "#e66b1f", "#cc79a7", "#332288", "#8c510a")
LOOKS = (("solid", "circle"), ("dash", "diamond"), ("dot", "square"))
INK = "#666666"
MOST_POINTS, _FEW_POINTS = 1000, 12
_CLEAR, _GRID, _AXIS = "rgba(0,0,0,0)", "rgba(128,128,128,0.22)", "rgba(128,128,128,0.6)"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_TIME_FORMATS = {"epoch": ".1f", "step": ",d"}


@dataclass(frozen=True)
class Style:
    """How one head or place is drawn in every figure."""

    color: str
    dash: str
    symbol: str

    def line(self, width: float, opacity: float | None = None) -> dict[str, Any]:
        """What plotly takes for a line of this style."""
        color = self.color if opacity is None else faint(self.color, opacity)
        return {"color": color, "dash": self.dash, "width": width}

    def marker(self, size: float, hollow: bool = False) -> dict[str, Any]:
        """What plotly takes for a marker of this style."""
        return {"symbol": self.symbol + "-open" * hollow, "color": self.color, "size": size}


def distinct_styles(names: Sequence[str]) -> dict[str, Style]:
    """A style for each name, all different for up to 18 names; the first, compared against, is grey."""
    styles = [Style(color, *look) for look in LOOKS for color in COLORS]
    return dict(zip(names, cycle(styles)))


def empty_figure(x_title: str, y_title: str) -> go.Figure:
    """A figure without data: transparent, mid-grey ink that is legible on white and on black, faint grid."""
    axis = {"gridcolor": _GRID, "linecolor": _AXIS, "tickcolor": _AXIS, "zeroline": False, "automargin": True}
    axis |= {"ticks": "outside", "ticklen": 4}
    return go.Figure(
        layout={
            "template": {},
            "paper_bgcolor": _CLEAR,
            "plot_bgcolor": _CLEAR,
            "font": {"family": _FONT, "size": 12, "color": INK},
            "margin": {"l": 50, "r": 14, "t": 26, "b": 44},
            "xaxis": {**axis, "showline": True, "title": {"text": x_title, "standoff": 8}},
            "yaxis": {**axis, "title": {"text": y_title, "standoff": 8}},
            "hovermode": "closest",
            "modebar": {"bgcolor": _CLEAR, "color": _AXIS, "activecolor": INK},
        }
    )


def figure_by_place(places: Sequence[str], x_title: str, y_title: str) -> go.Figure:
    """A figure without data whose x axis has a tick for each place."""
    figure = empty_figure(x_title, y_title)
    ticks = {"tickvals": list(range(len(places))), "ticktext": [plain_text(place) for place in places]}
    figure.update_xaxes(**ticks, range=[-0.5, len(places) - 0.5], showgrid=False)
    return figure


def add_line(
    figure: go.Figure, x: Any, y: Any, name: str, said: str, role: str, key: int | None = None, **more: Any
) -> None:
    """Add a line, with markers if it has a `marker` or a point without neighbours, which no line would show.

    A pointer shows its name and `said`, if there is that.
    """
    template = {"hovertemplate": f"%{{fullData.name}}<br>{said}<extra></extra>"}
    hover = template if said else {"hoverinfo": "skip"}
    meta = {"role": role} if key is None else {"key": key, "role": role}
    mode = more.setdefault("mode", "lines+markers" if "marker" in more else "lines")
    if "markers" not in mode and has_lone_points(x, y):
        more["mode"] = mode.replace("lines", "lines+markers")
    figure.add_scatter(x=x, y=y, name=plain_text(name), meta=meta, **hover, **more)


def has_lone_points(x: Any, y: Any) -> bool:
    """Whether a line through the points has one between two gaps, or is a single point.

    >>> has_lone_points([3], [1.0]), has_lone_points([1, 2], [1.0, 2.0])
    (True, False)
    """
    drawn = np.isfinite(np.asarray(x, float)) & np.isfinite(np.asarray(y, float))
    beside = np.zeros(len(drawn) + 2, bool)
    beside[1:-1] = drawn
    return bool((drawn & ~beside[:-2] & ~beside[2:]).any())


def error_bars(estimates: Sequence[Estimate], least: float = -math.inf) -> dict[str, Any]:
    """The 95 % intervals of means, all of it drawn at `least` or above; invisible where there is none."""
    bars: dict[str, list[float]] = {"array": [], "arrayminus": []}
    for estimate in estimates:
        mean, half = max(estimate.mean, least), estimate.half or 0.0
        bars["array"].append(max(estimate.mean + half, least) - mean)
        bars["arrayminus"].append(mean - max(estimate.mean - half, least))
    visible = any(estimate.half is not None for estimate in estimates)
    return {**bars, "thickness": 1.2, "width": 0, "visible": visible}


def series_of(arrays: Arrays, times: str, values: str, dimensions: int = 1) -> Series | None:
    """Times (T,) and as many values, of one or two dimensions; None unless both are there and numbers."""
    x, y = (arrays.get(name, np.zeros(0)) for name in (times, values))
    numbers = all(each.size and each.dtype.kind in "iuf" for each in (x, y))
    return (x, y) if numbers and (x.ndim, y.ndim) == (1, dimensions) and len(x) == len(y) else None


def values_over_time(x: np.ndarray, values: np.ndarray, unit: str, y_title: str) -> go.Figure | None:
    """ln of the 1st, 2nd, 4th, 8th, ... and last of descending `values` (T, D) against `x` (T,)."""
    chosen = even_choice(len(x))
    x, logs, width = x[chosen], log_or_nan(values[chosen]), values.shape[1]
    alive = np.isfinite(logs)
    if not alive.any():
        return None
    ranks = [*(2**i for i in range((width - 1).bit_length())), width]
    figure = empty_figure(unit, y_title)
    # Lines are named where the last numbers are: those of a later time may all be missing.
    last = int(np.flatnonzero(alive.any(axis=1))[-1])
    room, labelled = 0.05 * float(np.ptp(logs[alive])), np.inf
    for i, rank in enumerate(ranks):
        end = logs[last, rank - 1]
        # Values descend with rank, so a label is free if it is well below the last one.
        free = bool(end < labelled - room)
        labelled = end if free else labelled
        # One hue from dark to light: the order of the lines is the order of their ranks.
        color = between("#003c73", "#82afd7", i / max(len(ranks) - 1, 1))
        look: dict[str, Any] = {
            "mode": f"{line_mode(len(x))}+text",
            "text": [f" {rank}" if free and time == last else "" for time in range(len(x))],
            "textposition": "middle right",
            "textfont": {"color": INK, "size": 11},
            "cliponaxis": False,
            "line": {"color": color, "width": 1.8},
            "marker": {"size": 5},
        }
        said = f"{unit} %{{x:{_TIME_FORMATS[unit]}}}: %{{y:.2f}}"
        add_line(figure, x, logs[:, rank - 1], f"singular value {rank}", said, "rank", **look)
    figure.update_layout(margin={"r": 34})
    figure.update_xaxes(range=span(x))
    return figure


def log_or_nan(values: np.ndarray) -> np.ndarray:
    """Natural logarithm; NaN for what is not live."""
    return np.log(np.where(live(values), values, np.nan))


def even_choice(count: int) -> np.ndarray:
    """Indices of at most 1000 of `count` points, evenly spread, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int)


def stride(count: int) -> int:
    """Every how many of `count` points are drawn, so that they are at most 1000."""
    return max(1, -(-count // MOST_POINTS))


def span(x: np.ndarray) -> list[float]:
    """The range of an axis that shows all of `x` and little else."""
    first, last = float(x.min()), float(x.max())
    room = 0.02 * (last - first) or 0.5
    return [first - room, last + room]


def line_mode(count: int) -> str:
    """How a line through so many points is drawn: few points have dots, since one point makes no line."""
    return "lines+markers" if count <= _FEW_POINTS else "lines"


def faint(color: str, opacity: float) -> str:
    """The colour `#rrggbb` at an opacity of 0 to 1."""
    return f"rgba({','.join(map(str, bytes.fromhex(color[1:])))},{opacity})"


def between(first: str, last: str, share: float) -> str:
    """The colour at `share`, 0 to 1, of the way from `first` to `last`, each `#rrggbb`."""
    ends = zip(bytes.fromhex(first[1:]), bytes.fromhex(last[1:]), strict=True)
    return "#" + bytes(round(a + share * (b - a)) for a, b in ends).hex()


def plain_text(text: str) -> str:
    """Text that plotly shows unchanged; it would interpret a few HTML tags in names and labels."""
    return html.escape(text, quote=False)
