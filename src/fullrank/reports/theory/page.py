"""The page of a theory run: the theorem, predicted beside simulated, its pictures. Torch-free."""

import shlex
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from fullrank.record import Record, TheoryCurve, TheoryEntry, TheoryPanel
from fullrank.reports.drawing import Style, distinct_styles, empty_figure, plain_text
from fullrank.reports.layout import Page, Panel, fill, panels
from fullrank.reports.run.words import machine_line

Line = tuple[TheoryCurve, np.ndarray, np.ndarray]

# On a logarithmic axis, what is below this share of the largest value is rounding, and left out.
_ROUNDING = 1e-12


def render_theory(
    record: Record, theory: TheoryEntry, arrays: Mapping[str, np.ndarray], missing: str = ""
) -> Page:
    """The page; a panel whose curves are not in `arrays` is left out, and `missing` says why."""
    lines = [
        (curve, arrays[f"curves/{number}/x"], arrays[f"curves/{number}/y"])
        for number, curve in enumerate(theory.curves)
        if f"curves/{number}/y" in arrays
    ]
    shown = {axes: [line for line in lines if line[0].panel == axes.title] for axes in theory.panels}
    return fill(
        "theory.html.j2",
        title=f"Theorem: {theory.theorem}",
        summary=f"{theory.statement} ({theory.source})",
        machine=machine_line(record),
        theory=theory,
        predicted=record.predicted or [],
        simulated=record.simulated or [],
        panels=[_panel(axes, here) for axes, here in shown.items() if here],
        missing=missing,
        command=theory_command(record),
    )


def theory_command(record: Record) -> str:
    """The command that gives these numbers again; a setting of several numbers is written with commas."""
    settings = dict(record.recipe)
    words = ["fullrank", "theory", str(settings.pop("theorem", ""))]
    if "run" in settings:  # `predict` lays a run beside the theory, and has options of its own
        words += [str(settings.pop("run")), *(f"--{key}={value}" for key, value in settings.items())]
    else:
        for key, value in settings.items():
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words += ["--set", f"{key}={text}"]
    return shlex.join(words)


def _panel(axes: TheoryPanel, lines: list[Line]) -> Panel:
    """A panel, in which curves of one name are a bundle of one colour; its key is dashed where all are."""
    styles = {}
    for name, style in distinct_styles(list(dict.fromkeys(curve.name for curve, _, _ in lines))).items():
        predicted = all(curve.dashed for curve, _, _ in lines if curve.name == name)
        styles[name] = Style(style.color, "dash" if predicted else "solid", style.symbol)
    label = f"{axes.title}: {axes.y} against {axes.x}. Lines: {', '.join(styles)}."
    note = "Predicted values are dashed." if any(curve.dashed for curve, _, _ in lines) else ""
    key = styles if len(styles) > 1 else {}
    return panels(_figure(axes, lines, styles), axes.title, label, note, key)[0]


def _figure(axes: TheoryPanel, lines: list[Line], styles: dict[str, Style]) -> go.Figure:
    """The lines of one panel; on a logarithmic axis what is not above 0 leaves a gap."""
    figure = empty_figure(plain_text(axes.x), plain_text(axes.y))
    least = _ROUNDING * max((np.nanmax(y, initial=0.0) for _, _, y in lines), default=0.0)
    for curve, x, y in lines:
        style = styles[curve.name]
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


def _drawable(values: np.ndarray, above: float | None) -> list[float | None]:
    """The values, None where they are not finite or, on a logarithmic axis, not above a bound."""
    shown = np.isfinite(values) & (True if above is None else values > above)
    return [float(value) if show else None for value, show in zip(values, shown, strict=True)]
