"""Diffused redundancy: accuracy by number of directions, as figures, tables and sentences. Torch-free."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from fullrank.record import DiagnosisEntry, DimensionCurve, ProbedImages, Record, Score
from fullrank.record.comparisons import by_row, grouped
from fullrank.record.scores import ACCURACY_IN, DIFFUSED, REDUNDANCY_KINDS, WORST_CLASS_IN
from fullrank.reports import drawing
from fullrank.reports.drawing import Style
from fullrank.reports.layout import Panel, panels
from fullrank.reports.numbers import decimals, in_points
from fullrank.reports.text_tables import TextTable
from fullrank.statistics import Estimate

# The share of the full accuracy that DR asks for, as in `probes.diffused`.
SHARE = 0.9
# Figures for so many rows and places; the tables have all.
MOST_FIGURES, _MOST_SAID = 12, 3
_OF_DIAGNOSIS = {
    "random channels": "channels",
    "leading components": "principal",
    "least components": "least",
    "random directions": "random",
}
_SHORT = {"channels": "channels", "principal": "leading", "least": "least", "random": "random"}
STYLES = {
    "random channels": Style("#0072b2", "solid", "circle"),
    "random orthonormal directions": Style("#4d4d4d", "dash", "circle"),
    "leading principal directions": Style("#e66b1f", "solid", "diamond"),
    "least principal directions": Style("#cc79a7", "dot", "square"),
}
MEANING = (
    f"Diffused redundancy DR({SHARE}) is the share of dimensions that can be left out so that 90 % of the "
    "accuracy on all of them remains. Only DR of channels depends on the basis: a rotation of the features "
    "changes it. Random orthonormal directions are the control, which no rotation changes."
)
_TABLE_NOTE = (
    "Linear accuracy in points from k directions; in parentheses the worst class. Leading and least: the "
    "largest and the smallest principal directions. Random: orthonormal directions, the control."
)
_ACCURACY, _WORST = "accuracy", "worst class"
_OF_STATISTIC = {
    **{name: (kind, _ACCURACY) for kind, name in ACCURACY_IN.items()},
    **{name: (kind, _WORST) for kind, name in WORST_CLASS_IN.items()},
}


@dataclass(frozen=True)
class Curve:
    """Accuracy in points by number of directions of one kind, ascending to all of them.

    `worst` is the worst class, empty if it is not known. `diffused` is DR(0.9), None if it is not known.
    """

    dimensions: tuple[int, ...]
    accuracies: tuple[Estimate, ...]
    worst: tuple[Estimate, ...]
    diffused: Estimate | None


@dataclass(frozen=True)
class PlaceCurves:
    """The curves of one row of a study at one place, by kind; `about` names label and features if unusual."""

    row: str
    place: str
    about: str
    curves: dict[str, Curve]

    @property
    def width(self) -> int:
        """The number of channels."""
        return next(iter(self.curves.values())).dimensions[-1]

    @property
    def title(self) -> str:
        """Row, place and what is unusual."""
        parts = (self.row, f"{self.place}{f' ({self.about})' if self.about else ''}")
        return ", ".join(filter(None, parts))


def curves_of_diagnosis(diagnosis: DiagnosisEntry) -> list[PlaceCurves]:
    """The dimension curves of a diagnosis, by place."""
    places = grouped((curve.place, curve) for curve in diagnosis.dimensions if curve.dimensions)
    return [
        PlaceCurves("", place, "", {_OF_DIAGNOSIS[curve.kind]: _recorded(curve) for curve in curves})
        for place, curves in places.items()
    ]


def _recorded(curve: DimensionCurve) -> Curve:
    pairs: list[tuple[float | None, float | None]] = list(zip(curve.low, curve.high, strict=True))
    pairs = pairs or [(None, None)] * len(curve.accuracy)
    return Curve(
        tuple(curve.dimensions),
        tuple(_points(mean, *ends) for mean, ends in zip(curve.accuracy, pairs, strict=True)),
        tuple(_points(each) for each in curve.worst_class),
        None if curve.diffused is None else Estimate(curve.diffused),
    )


def curves_of_scores(scores: Iterable[Score]) -> list[PlaceCurves]:
    """The curves of one model's scores, by place."""
    return _curves([("", score) for score in scores])


def curves_of_record(record: Record, names: Mapping[str, str]) -> list[PlaceCurves]:
    """The curves of a run or study, means over seeds; `names` has the short name of each row."""
    several = len(names) > 1
    return _curves(
        (names[row] if several else "", score)
        for row, runs in by_row(record.runs).items()
        for run in runs
        for score in run.scores
    )


def _curves(scores: Iterable[tuple[str, Score]]) -> list[PlaceCurves]:
    groups = grouped(
        ((row, score.place, _about(score)), score) for row, score in scores if score.kind.by_directions
    )
    return [PlaceCurves(*key, _by_kind(of_place)) for key, of_place in groups.items()]


def _about(score: Score) -> str:
    parts = [f"label {score.label}"] if score.label != "label" else []
    return ", ".join(parts + ([f"{score.features} features"] if score.features != "raw" else []))


def _by_kind(scores: Sequence[Score]) -> dict[str, Curve]:
    """The curves of one row and place, for each kind with all of its points."""
    points = grouped(
        ((*_OF_STATISTIC[score.statistic], int(score.subject)), score)
        for score in scores
        if score.statistic != DIFFUSED
    )
    diffused = grouped(
        (score.subject.partition(",")[0], score.value) for score in scores if score.statistic == DIFFUSED
    )
    curves = {}
    for kind in REDUNDANCY_KINDS:
        sizes = sorted(k for key, what, k in points if (key, what) == (kind, _ACCURACY))
        if sizes:
            worst = [points.get((kind, _WORST, k)) for k in sizes]
            curves[kind] = Curve(
                tuple(sizes),
                tuple(_over_seeds(points[kind, _ACCURACY, k]) for k in sizes),
                tuple(_over_seeds(each) for each in worst if each) if all(worst) else (),
                Estimate.of(diffused[kind]) if kind in diffused else None,
            )
    return curves


def _over_seeds(scores: Sequence[Score]) -> Estimate:
    """The mean over seeds in points; of one seed with its interval over draws."""
    if len(scores) == 1:
        return _points(scores[0].value, scores[0].low, scores[0].high)
    return Estimate.of([100 * score.value for score in scores])


def _points(mean: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(100 * mean, *(None if end is None else 100 * end for end in (low, high)))


def redundancy_figure(places: PlaceCurves) -> go.Figure:
    """Accuracy in points against the number of directions, with intervals; thin lines are the worst class."""
    figure = drawing.empty_figure("number of directions", "linear accuracy (points)")
    ticks = sorted({k for curve in places.curves.values() for k in curve.dimensions})
    ticks = ticks[:: -(-len(ticks) // 7)]
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])
    full = next(iter(places.curves.values())).accuracies[-1].mean
    dash = {"color": drawing.INK, "dash": "dot", "width": 1}
    # Intervals over two seeds are many times as wide as the curves, and are cut.
    figure.update_yaxes(range=[-3, 1.06 * _highest(places)])
    figure.add_hline(y=SHARE * full, line=dash, layer="below")
    for kind, curve in places.curves.items():
        name, means = REDUNDANCY_KINDS[kind], [each.mean for each in curve.accuracies]
        style = STYLES[name]
        if curve.worst:
            worst, line = [each.mean for each in curve.worst], style.line(1, 0.55)
            said = "worst class in %{x}: %{y:.1f}"
            drawing.add_line(figure, curve.dimensions, worst, name, said, "worst class", line=line)
        look: dict[str, Any] = {"line": style.line(1.8), "marker": style.marker(6)}
        look["error_y"] = drawing.error_bars(curve.accuracies)
        drawing.add_line(figure, curve.dimensions, means, name, "%{x} directions: %{y:.1f}", kind, **look)
    return figure


def _highest(places: PlaceCurves) -> float:
    """The end of the highest interval over draws, at most 100."""
    ends = [each.mean + (each.half or 0.0) for curve in places.curves.values() for each in curve.accuracies]
    return max(1.0, min(100.0, max(ends)))


def redundancy_section(
    every: Sequence[PlaceCurves], intervals: str, images: Iterable[ProbedImages] = ()
) -> dict[str, Any] | None:
    """What a page shows; None without curves. `intervals` says over what the intervals are."""
    chance = max((each.chance for each in images), default=None)
    if not every:
        return None
    drawn = every[:MOST_FIGURES]
    return {
        "panels": [panel for each in drawn for panel in _panel(each, intervals)],
        # The table says the same of many.
        "sentences": [
            sentence for each in every if len(every) <= _MOST_SAID for sentence in sentences(each, chance)
        ],
        "overview": overview_table(every) if len(every) > 1 else None,
        "tables": [numbers_table(each) for each in every],
        "meaning": MEANING,
        "left_out": f"Drawn: {len(drawn)} of {len(every)}." if len(drawn) < len(every) else "",
    }


def _panel(places: PlaceCurves, intervals: str) -> list[Panel]:
    shown = [REDUNDANCY_KINDS[kind] for kind in places.curves]
    thin = " Thin: the worst class." if any(curve.worst for curve in places.curves.values()) else ""
    bars = any(each.half for curve in places.curves.values() for each in curve.accuracies)
    what = (
        f"Linear accuracy at {places.title} against the number of directions kept; the table has the numbers."
    )
    note = f"Dotted, level: 90 % of the accuracy on all {places.width:,}.{thin}"
    note += f" Bars: 95 % t intervals over {intervals}." if bars else ""
    key = {name: style for name, style in STYLES.items() if name in shown}
    return panels(redundancy_figure(places), f"Accuracy in few directions: {places.title}", what, note, key)


def sentences(places: PlaceCurves, chance: float | None = None) -> list[str]:
    """DR of channels and of the control side by side, and what the channels cost the worst class.

    `chance` is the accuracy of the best constant guess, 0 to 1.
    """
    curves = places.curves
    if not {"channels", "random"} <= set(curves):
        return []
    channels, control = (curves[kind].diffused for kind in ("channels", "random"))
    if channels is None or control is None:
        return []
    said = (
        f"{places.title}: DR({SHARE}) is {_share(channels)} for channels, which depends on the basis, and "
        f"{_share(control)} for random orthonormal directions, which does not."
    )
    guess = chance is not None and 100 * chance >= SHARE * curves["channels"].accuracies[-1].mean
    guessed = ["A constant guess reaches as much, so this DR says nothing."] if guess else []
    return [f"{said}{_kept(places.width, channels, control)}", *_cost(places), *guessed]


def _kept(width: int, channels: Estimate, control: Estimate) -> str:
    """How many channels and directions that is; "" for a mean over seeds."""
    if channels.half is not None or control.half is not None:
        return ""
    some, others = (round((1 - each.mean) * width) for each in (channels, control))
    return f" It takes {some:,} random channels and {others:,} random directions of {width:,}."


def _cost(places: PlaceCurves) -> list[str]:
    """What the least number of channels costs the worst class; nothing if that is not known."""
    curve = places.curves["channels"]
    if not curve.worst:
        return []
    enough = SHARE * curve.accuracies[-1].mean * (1 - 1e-12)
    at = next(i for i, each in enumerate(curve.accuracies) if each.mean >= enough)
    if at == len(curve.dimensions) - 1:
        return []
    few, every = in_points(curve.worst[at].mean), in_points(curve.worst[-1].mean)
    accuracy = f"{in_points(curve.accuracies[at].mean)} of {in_points(curve.accuracies[-1].mean)} points"
    k = "1 random channel" if curve.dimensions[at] == 1 else f"{curve.dimensions[at]:,} random channels"
    with_k = f"With {k} of {places.title}"
    return [f"{with_k}, the accuracy is {accuracy}, and that of the worst class {few} of {every}."]


def overview_table(every: Sequence[PlaceCurves]) -> TextTable:
    """DR of each kind, and the accuracies on all features, for each row and place."""
    columns = ("", "accuracy", "worst class", *(f"DR, {name}" for name in _SHORT.values()))
    rows = [
        (each.title, *_full(each), *(_share(curve.diffused) if curve else "–" for curve in _in_order(each)))
        for each in every
    ]
    caption = f"Accuracies on all features in points. DR({SHARE}) of each kind of directions."
    return TextTable("Diffused redundancy", columns, tuple(rows), caption)


def _full(places: PlaceCurves) -> tuple[str, str]:
    curve = next(iter(places.curves.values()))
    return in_points(curve.accuracies[-1].mean), in_points(curve.worst[-1].mean if curve.worst else None)


def _in_order(places: PlaceCurves) -> list[Curve | None]:
    return [places.curves.get(kind) for kind in _SHORT]


def numbers_table(places: PlaceCurves) -> TextTable:
    """A row for each k, a column for each kind; the last row is DR."""
    sizes = sorted({k for curve in places.curves.values() for k in curve.dimensions})
    kinds = [kind for kind in _SHORT if kind in places.curves]
    rows = [(f"{k:,}", *(_cell(places.curves[kind], k) for kind in kinds)) for k in sizes]
    diffused = [_share(places.curves[kind].diffused) for kind in kinds]
    if set(diffused) != {"–"}:
        rows.append((f"DR({SHARE})", *diffused))
    columns = ("k", *(_SHORT[kind] for kind in kinds))
    bars = any(each.half for curve in places.curves.values() for each in curve.accuracies)
    note = f"{_TABLE_NOTE}{' ±: half of the 95 % t interval.' if bars else ''}"
    return TextTable(f"Accuracy in few directions: {places.title}", columns, tuple(rows), note)


def _cell(curve: Curve, k: int) -> str:
    """An accuracy with half of its interval, and in parentheses that of the worst class."""
    if k not in curve.dimensions:
        return "–"
    at = curve.dimensions.index(k)
    accuracy = curve.accuracies[at]
    half = f" ±{in_points(accuracy.half)}" if accuracy.half else ""
    return f"{in_points(accuracy.mean)}{half}" + (
        f" ({in_points(curve.worst[at].mean)})" if curve.worst else ""
    )


def _share(estimate: Estimate | None) -> str:
    """A share with two decimals, and half of its interval over seeds where there is one."""
    if estimate is None:
        return "–"
    return decimals(estimate.mean, 2) + ("" if estimate.half is None else f" ± {decimals(estimate.half, 2)}")
