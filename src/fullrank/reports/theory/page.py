"""The page of a theory run: its theorem, what happened, figures, and the numbers. Torch-free."""

import shlex
from collections.abc import Mapping
from itertools import cycle

import numpy as np
import plotly.graph_objects as go

from fullrank.record import Record, TheoryCurve, TheoryEntry, TheoryPanel
from fullrank.reports.drawing import COLORS, Style, between, empty_figure, plain_text
from fullrank.reports.layout import Page, Panel, fill, panels
from fullrank.reports.run.words import machine_line

Line = tuple[TheoryCurve, np.ndarray, np.ndarray]

# On a logarithmic axis, values below this share of the largest are rounding, and left out.
_ROUNDING = 1e-12
# Blue and orange first, as in a comparison of two; the ramp goes from light to dark.
_COLORS = (*COLORS[1:], COLORS[0])
# Up to this ratio of the largest to the smallest value, digits between powers of ten are labelled.
_NARROW = 1e3
_RAMP = ("#9cc3e6", "#003c73")


def render_theory(
    record: Record, theory: TheoryEntry, arrays: Mapping[str, np.ndarray], missing: str = ""
) -> Page:
    """The page of a theory run.

    Args:
        record: The record of a theory run.
        theory: Its entry on the theorem.
        arrays: The points of the curves; a panel without points is left out.
        missing: Why arrays are missing, for the reader of the page.
    """
    lines = [
        (curve, arrays[f"curves/{number}/x"], arrays[f"curves/{number}/y"])
        for number, curve in enumerate(theory.curves)
        if f"curves/{number}/y" in arrays
    ]
    shown = {axes: [line for line in lines if line[0].panel == axes.title] for axes in theory.panels}
    stated = theory.explained
    title = f"Theory: {_uncapitalised(stated.title if stated else theory.theorem)}"
    return fill(
        "theory.html.j2",
        title=f"{title}, for several values of {_spaced(theory.sweep)}" if theory.sweep else title,
        summary=stated.words if stated else f"{theory.statement} ({theory.source})",
        stated=stated,
        machine=machine_line(record),
        theory=theory,
        predicted=record.predicted or [],
        simulated=record.simulated or [],
        panels=[_panel(axes, here, bool(theory.sweep)) for axes, here in shown.items() if here],
        missing=missing,
        command=theory_command(record),
        sweep=f"fullrank theory {theory.theorem} {stated.example}" if stated and not theory.sweep else "",
    )


def theory_command(record: Record) -> str:
    """The command that gives these numbers again; several numbers are written with commas."""
    settings = dict(record.recipe)
    words = ["fullrank", "theory", str(settings.pop("theorem", ""))]
    if "run" in settings:  # `predict` compares a run with the theory, and has options of its own
        words += [str(settings.pop("run")), *(f"--{key}={value}" for key, value in settings.items())]
    else:
        for key, value in settings.items():
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words += ["--set", f"{key}={text}"]
    return shlex.join(words)


def _panel(axes: TheoryPanel, lines: list[Line], swept: bool) -> Panel:
    """A panel; lines of one name share a colour and an entry of the key."""
    styles = _styles([curve for curve, _, _ in lines], swept)
    label = f"{axes.title}: {axes.y} against {axes.x}. Lines: {', '.join(styles)}."
    dashed = any(curve.dashed for curve, _, _ in lines)
    note = axes.note or ("Predicted values are dashed." if dashed else "")
    key = styles if len(styles) > 1 else {}
    heading = axes.title[:1].upper() + axes.title[1:]
    return panels(_figure(axes, lines, styles), heading, label, note, key)[0]


def _styles(curves: list[TheoryCurve], swept: bool) -> dict[str, Style]:
    """A style for each name: its colour, and a dash if all lines of the name are dashed."""
    names = list(dict.fromkeys(curve.name for curve in curves))
    colors: dict[str, str] = dict(zip(names, cycle(_COLORS)))
    if swept and len(names) > 1:  # the values of a setting have an order, so their colours have one too
        colors = {name: between(*_RAMP, place / (len(names) - 1)) for place, name in enumerate(names)}
    solid = {curve.name for curve in curves if not curve.dashed}
    return {name: Style(colors[name], "solid" if name in solid else "dash", "circle") for name in names}


def _figure(axes: TheoryPanel, lines: list[Line], styles: dict[str, Style]) -> go.Figure:
    """The lines of one panel; on a logarithmic axis, values of 0 or less leave a gap."""
    figure = empty_figure(plain_text(axes.x), plain_text(axes.y))
    least = _ROUNDING * max((np.nanmax(y, initial=0.0) for _, _, y in lines), default=0.0)
    for curve, x, y in lines:
        style = styles[curve.name]
        figure.add_scatter(
            x=_drawable(x, 0.0 if axes.log_x else None),
            y=_drawable(y, least if axes.log_y else None),
            name=plain_text(curve.name),
            mode="lines+markers" if len(x) < 12 else "lines",
            line={"color": style.color, "dash": _dash(curve), "width": 1.8},
            marker={"size": 6, "symbol": style.symbol},
            hovertemplate=f"{plain_text(curve.name)}<br>%{{x:.4g}}: %{{y:.4g}}<extra></extra>",
        )
    for axis, logarithmic in (("xaxis", axes.log_x), ("yaxis", axes.log_y)):
        if logarithmic:
            letter = axis[0]
            drawn = [value for trace in figure.data for value in trace[letter] if value]
            # Over few decades plotly would label every digit, and the labels would overlap: 1, 2 and 5 do.
            narrow = bool(drawn) and max(drawn) < _NARROW * min(drawn)
            ticks = {"dtick": "D2" if narrow else None}
            figure.update_layout({axis: {"type": "log", "exponentformat": "power", **ticks}})
    return figure


def _uncapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]


def _spaced(key: str) -> str:
    return key.replace("_", " ")


def _dash(curve: TheoryCurve) -> str:
    return "dash" if curve.dashed else "dot" if curve.dotted else "solid"


def _drawable(values: np.ndarray, above: float | None) -> list[float | None]:
    """The values, None where they are not finite or, on a logarithmic axis, not above a bound."""
    shown = np.isfinite(values) & (True if above is None else values > above)
    return [float(value) if show else None for value, show in zip(values, shown, strict=True)]
