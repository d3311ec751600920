"""Two targets side by side -> plotly figures; pure functions, nothing is read or drawn. Torch-free."""

import numpy as np
import plotly.graph_objects as go

from fullrank.record import DiagnosisEntry, SideBySide
from fullrank.reports import drawing
from fullrank.reports.diagnosis import beside as words
from fullrank.reports.diagnosis.figures import ACCURACIES, by_place, spectra_lines
from fullrank.reports.drawing import Style

# The other target is grey, as what is compared against is in every figure.
SIDES = (Style("#0072b2", "solid", "circle"), Style("#4d4d4d", "dash", "diamond"))
_KNOWN = {
    "linear": ACCURACIES["linear"],
    "nearest": ACCURACIES["nearest neighbours"],
    "recall_at_1": ACCURACIES["recall@1"],
}
# The dots of a place are spread over so much of its row, and each has so many pixels.
_SPREAD, _LINE = 0.6, 15


def score_styles(beside: SideBySide) -> dict[str, Style]:
    """A style for each accuracy that was compared, by its title."""
    names = list(dict.fromkeys(each.name for each in beside.scores))
    others = drawing.distinct_styles([name for name in names if name not in _KNOWN])
    return {words.score_title(name): (_KNOWN | others)[name] for name in names}


def differences_figure(entry: DiagnosisEntry, beside: SideBySide) -> go.Figure | None:
    """Each difference of accuracies with its interval, around zero; filled where it is beyond chance."""
    if not beside.scores:
        return None
    names = words.names_of(entry, beside)
    pairs = list(dict.fromkeys(words.pair_title(each.place, each.against) for each in beside.scores))
    title = f"points of accuracy, {names.now} less {names.before}"
    figure = by_place(pairs, drawing.plain_text(title), None)
    figure.add_vline(x=0, line={"color": drawing.INK, "width": 1})
    styles = score_styles(beside)
    figure.update_layout(height=max(190, 90 + _LINE * len(pairs) * len(styles)))
    for position, (name, style) in enumerate(styles.items()):
        scores = [each for each in beside.scores if words.score_title(each.name) == name]
        shift = _SPREAD * (position / max(len(styles) - 1, 1) - 0.5) if len(styles) > 1 else 0.0
        differences = np.array([[each.difference, each.low, each.high] for each in scores]).T * 100
        middle, low, high = differences
        bars = {"array": (high - middle).tolist(), "arrayminus": (middle - low).tolist()}
        drawing.add_line(
            figure,
            middle.tolist(),
            [pairs.index(words.pair_title(each.place, each.against)) + shift for each in scores],
            name,
            "%{customdata[0]}: %{x:+.1f}, %{customdata[1]:+.1f} to %{customdata[2]:+.1f}",
            "difference",
            mode="markers",
            marker={
                "symbol": [style.symbol + "-open" * (not each.apart) for each in scores],
                "color": style.color,
                "size": 9,
            },
            error_x={**bars, "type": "data", "thickness": 1.4, "width": 0, "color": style.color},
            customdata=[
                [
                    drawing.plain_text(words.pair_title(each.place, each.against)),
                    100 * each.low,
                    100 * each.high,
                ]
                for each in scores
            ],
        )
    return figure


def sides_figure(entry: DiagnosisEntry, beside: SideBySide) -> tuple[go.Figure | None, dict[str, Style]]:
    """The spectra of both at the main place, and the style of each; no figure unless both are there."""
    names, (place, against) = words.names_of(entry, beside), beside.main_places
    now, before = entry.spectrum.get(place), beside.spectrum.get(against)
    styles = {names.now: SIDES[0], names.before: SIDES[1]}
    if now is None or before is None:
        return None, {}
    return spectra_lines({names.now: now, names.before: before}, styles), styles
