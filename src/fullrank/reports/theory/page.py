"""The page of a theory run: the theorem, predicted beside simulated, its pictures. Torch-free."""

import shlex
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from fullrank.record import Record, TheoryCurve, TheoryEntry, TheoryPanel
from fullrank.reports.drawing import Style, distinct_styles, empty_figure, plain_text
from fullrank.reports.layout import Panel, fill, panels
from fullrank.reports.run.words import machine_line

Line = tuple[TheoryCurve, np.ndarray, np.ndarray]

# On a logarithmic axis, what is below this share of the largest value is rounding, and left out.
_ROUNDING = 1e-12


def render_theory(
    record: Record, theory: TheoryEntry, arrays: Mapping[str, np.ndarray], missing: str = ""
) -> str:
    """The page as text; a panel whose curves are not in `arrays` is left out, and `missing` says why."""
    styles = curve_styles(theory.curves)
    lines = {each.title: lines_of(each.title, theory.curves, arrays) for each in theory.panels}
    return fill(
        "theory.html.j2",
        title=f"Theorem: {theory.theorem}",
        summary=f"{theory.statement} ({theory.source})",
        machine=machine_line(record),
        theory=theory,
        predicted=record.predicted or [],
        simulated=record.simulated or [],
        panels=[_panel(each, lines[each.title], styles) for each in theory.panels if lines[each.title]],
        missing=missing,
        command=theory_command(record),
    )


def theory_command(record: Record) -> str:
    """The command that gives these numbers again.

    A setting of several numbers is written with commas, as the command line takes it.
    """
    settings = dict(record.recipe)
    words = ["fullrank", "theory", str(settings.pop("theorem", ""))]
    if "run" in settings:  # `predict` lays a run beside the theory, and has options of its own
        words += [str(settings.pop("run")), *(f"--{key}={value}" for key, value in settings.items())]
    else:
        for key, value in settings.items():
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words += ["--set", f"{key}={text}"]
    return shlex.join(words)


def curve_styles(curves: list[TheoryCurve]) -> dict[tuple[str, str], Style]:
    """A style for each name in each panel; curves of one name are a bundle and have one colour.

    Of a bundle what is predicted is drawn dashed. The style itself is dashed where all of it is predicted.
    """
    styles = {}
    for title in dict.fromkeys(curve.panel for curve in curves):
        here = [curve for curve in curves if curve.panel == title]
        for name, style in distinct_styles(list(dict.fromkeys(curve.name for curve in here))).items():
            predicted = all(curve.dashed for curve in here if curve.name == name)
            styles[title, name] = Style(style.color, "dash" if predicted else "solid", style.symbol)
    return styles


def lines_of(title: str, curves: list[TheoryCurve], arrays: Mapping[str, np.ndarray]) -> list[Line]:
    """The curves of a panel that have points in `arrays`, with their x and y."""
    return [
        (curve, arrays[f"curves/{number}/x"], arrays[f"curves/{number}/y"])
        for number, curve in enumerate(curves)
        if curve.panel == title and f"curves/{number}/y" in arrays
    ]


def theory_figure(axes: TheoryPanel, lines: list[Line], styles: Mapping[tuple[str, str], Style]) -> go.Figure:
    """The lines of one panel; on a logarithmic axis what is not above 0 leaves a gap."""
    figure = empty_figure(plain_text(axes.x), plain_text(axes.y))
    least = _ROUNDING * max((np.nanmax(y, initial=0.0) for _, _, y in lines), default=0.0)
    for curve, x, y in lines:
        style = styles[axes.title, curve.name]
        figure.add_scatter(
            x=_drawable(x, 0.0 if axes.log_x else None),
            y=_drawable(y, least if axes.log_y else None),
            name=plain_text(curve.name),
            mode="lines+markers" if len(x) < 12 else "lines",
            line={"color": style.color, "dash": "dash" if curve.dashed else "solid", "width": 1.8},
            marker={"size": 6, "symbol": style.symbol},
            hovertemplate=f"{plain_text(curve.name)}<br>%{{x:.4g}}: %{{y:.4g}}<extra></extra>",
        )
    for axis, logarithmic in (("xaxis", axes.log_x), ("yaxis", axes.log_y)):
        if logarithmic:
            figure.update_layout({axis: {"type": "log", "exponentformat": "power", "dtick": None}})
    return figure


def _panel(axes: TheoryPanel, lines: list[Line], styles: Mapping[tuple[str, str], Style]) -> Panel:
    figure = theory_figure(axes, lines, styles)
    key = {curve.name: styles[axes.title, curve.name] for curve, _, _ in lines}
    label = f"{axes.title}: {axes.y} against {axes.x}. Lines: {', '.join(key)}."
    note = "Predicted values are dashed." if any(curve.dashed for curve, _, _ in lines) else ""
    return panels(figure, axes.title, label, note, key if len(key) > 1 else {})[0]


def _drawable(values: np.ndarray, above: float | None) -> list[float | None]:
    """The values, None where they are not finite or, on a logarithmic axis, not above a bound."""
    shown = np.isfinite(values) & (True if above is None else values > above)
    return [float(value) if show else None for value, show in zip(values, shown, strict=True)]
