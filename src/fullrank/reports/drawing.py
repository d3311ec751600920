"""What every figure shares: colours, ink, an empty figure, text shown as it is. Torch-free.

Colours are chosen for a light page: six that stay apart under red-green colour blindness, then the same six
dashed and dotted. The page's dark form inverts them, which keeps both hue and contrast.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from fullrank.statistics import live

COLORS = ("#4d4d4d", "#0072b2", "#e66b1f", "#cc79a7", "#332288", "#8c510a")
DASHES = ("solid", "dash", "dot")
SYMBOLS = ("circle", "diamond", "square")
INK = "#666666"
_GRID, _AXIS = "rgba(128,128,128,0.22)", "rgba(128,128,128,0.6)"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Style:
    """How one head or place is drawn in every figure."""

    color: str
    dash: str
    symbol: str


def distinct_styles(names: Sequence[str]) -> dict[str, Style]:
    """A style for each name, all unlike one another up to 18; the first, compared against, is grey.

    >>> distinct_styles(["none", "linear:48"])["linear:48"]
    Style(color='#0072b2', dash='solid', symbol='circle')
    """
    styles = [
        Style(color, dash, symbol) for dash, symbol in zip(DASHES, SYMBOLS, strict=True) for color in COLORS
    ]
    return {name: styles[i % len(styles)] for i, name in enumerate(names)}


def log_or_nan(values: np.ndarray) -> np.ndarray:
    """Natural logarithm; NaN for what is numerically zero or not finite.

    >>> log_or_nan(np.array([1.0, 0.0, np.nan]))
    array([ 0., nan, nan])
    """
    kept = live(values)
    return np.where(kept, np.log(np.where(kept, values, 1.0)), np.nan)


def empty_figure(x_title: str, y_title: str) -> go.Figure:
    """A figure without data: transparent, mid-grey ink that reads on white and on black, faint grid."""
    axis = {
        "gridcolor": _GRID,
        "linecolor": _AXIS,
        "tickcolor": _AXIS,
        "ticks": "outside",
        "ticklen": 4,
        "zeroline": False,
        "automargin": True,
    }
    return go.Figure(
        layout={
            "template": {},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": _FONT, "size": 12, "color": INK},
            "margin": {"l": 50, "r": 14, "t": 26, "b": 44},
            "xaxis": {**axis, "showline": True, "title": {"text": x_title, "standoff": 8}},
            "yaxis": {**axis, "title": {"text": y_title, "standoff": 8}},
            "hovermode": "closest",
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": _AXIS, "activecolor": INK},
            "legend": {"orientation": "h", "y": -0.25, "x": 0},
        }
    )


def faint(color: str, alpha: float) -> str:
    """The colour `#rrggbb` at an opacity of 0 to 1.

    >>> faint("#0072b2", 0.5)
    'rgba(0,114,178,0.5)'
    """
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def between(first: str, last: str, share: float) -> str:
    """The colour at `share`, 0 to 1, of the way from `first` to `last`, each `#rrggbb`.

    >>> between("#000000", "#ffffff", 0.5)
    '#808080'
    """
    ends = (
        (int(a, 16), int(b, 16))
        for a, b in zip((first[1:3], first[3:5], first[5:]), (last[1:3], last[3:5], last[5:]), strict=True)
    )
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in ends)


def plain_text(text: str) -> str:
    """Text that plotly shows as it is: it reads a few HTML tags in names and labels otherwise."""
    return html.escape(text, quote=False)
