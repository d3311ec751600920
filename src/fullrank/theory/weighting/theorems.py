"""Our linear model of P2 as demos: how layers weight features, and which ones weight decay removes."""

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import AfterValidator, Field

from fullrank.theory.common.flow import Array, Trajectory, Velocity, Weights
from fullrank.theory.common.inputs import Indices, Mask
from fullrank.theory.common.steady_state import learning_time, remaining_gradient, settle
from fullrank.theory.common.theorem import (
    START_AND_END,
    Curve,
    Numbers,
    Outcome,
    Panel,
    Statement,
    Theorem,
    listed,
    measure,
)
from fullrank.theory.weighting.augmentation_models import keep_or_resample
from fullrank.theory.weighting.spectral_model import (
    balanced_start,
    gains,
    layer_weights,
    measured_weights,
    spectral_velocity,
)
from fullrank.theory.weighting.statements import FEATURE_WEIGHTING, WEIGHT_DECAY
from fullrank.theory.weighting.weight_decay import (
    DecayMinima,
    decay_loss,
    decay_thresholds,
    decayed_gains,
    decayed_velocity,
)

STRENGTHS, KEEP = (2.0, 1.0, 0.5, 1.0, 0.7), (1.0, 0.9, 1.0, 0.3, 0.6)
_CLOSE = 1e-4
# A solver takes thousands of steps; a line on a page needs no more points than this.
_POINTS = 150
# Below this a weight counts as lost; a lost one falls to 1e-40 or so, a kept one stays near its prediction.
LOST = 1e-6

WEAKEST, STRONGEST = 1e-3, 1e3


def _in_range(strengths: tuple[float, ...]) -> tuple[float, ...]:
    # Outside these limits a flow takes minutes or overflows. The theory refuses values of 0 or less.
    wrong = [value for value in strengths if value > 0 and not WEAKEST <= value <= STRONGEST]
    if wrong:
        raise ValueError(f"{wrong[0]:g} is not from {WEAKEST:g} to {STRONGEST:g}")
    return strengths


Strengths = Annotated[
    Numbers, AfterValidator(_in_range), Field(description="strength of each feature in the input")
]
Keep = Annotated[Numbers, Field(description="probability that a view keeps each feature, from 0 to 1")]
Depth = Annotated[int, Field(ge=1, le=12, description="number of linear layers")]
Seed = Annotated[int, Field(ge=0, description="random seed")]

TIME_PANEL = Panel(
    "Weight over time",
    "time",
    "weight after the last layer",
    log_x=True,
    note="Dashed: the predicted end. Solid: the simulated training.",
)
ENDS_PANEL = Panel(
    START_AND_END,
    "feature",
    "weight",
    note="Dotted: the start of training. Solid: its end. Dashed: the predicted end.",
)
WEIGHTS = "weight of each feature"


_BY_DEPTH = "Dashed: predicted. Solid: the simulated layers."
_BY_DECAY = "Dashed: predicted, from a good start. Marker: the simulation at this weight decay."


class FeatureTheorem(Theorem):
    """Independent features that a view keeps or draws anew."""

    strengths: Strengths = STRENGTHS
    keep: Keep = KEEP

    @property
    def _moments(self) -> tuple[Array, Array]:
        return keep_or_resample(self.strengths, self.keep)

    @property
    def _names(self) -> tuple[str, ...]:
        return feature_names(len(self.strengths))


class FeatureWeighting(FeatureTheorem):
    r"""Layer l of L weights feature i by :math:`\phi_i w_i^{l/L}` with :math:`w_i = k_i / \phi_i`.

    >>> FeatureWeighting(strengths="4,1", keep="1,1").outcome().predicted
    array([[2., 1.],
           [1., 1.]])
    """

    STATEMENT: ClassVar[Statement] = FEATURE_WEIGHTING

    depth: Depth = 2
    scale: float = Field(0.6, gt=0, le=2, description="size of the weights at the start")
    seed: Seed = 0

    def outcome(self) -> Outcome:
        """Predict from the strengths; simulate the full matrices from a random balanced start."""
        moments, names = self._moments, self._names
        gain = gains(*moments)
        predicted = layer_weights(self.strengths, gain, self.depth)
        velocity = spectral_velocity(*moments)
        start = balanced_start(self.depth, len(names), scale=self.scale, seed=self.seed)
        path = settle(velocity, start)
        simulated = measured_weights(path.last, self.strengths)
        depths = Panel(
            "Weight by depth", "share of the depth (0 input, 1 output)", "weight", log_y=True, note=_BY_DEPTH
        )
        shares, layers = np.linspace(0, 1, 41), np.arange(self.depth + 1) / self.depth
        rows = layer_names(self.depth)
        curves = start_and_end(rows, measured_weights(start, self.strengths), simulated, predicted)
        for i in np.flatnonzero(gain):
            line = self.strengths[i] * gain[i] ** shares
            curves.append(Curve(depths.title, names[i], shares, line, dashed=True))
            weights = np.array([self.strengths[i], *simulated[:, i]])
            curves.append(Curve(depths.title, names[i], layers, weights))
        return Outcome(
            quantity=WEIGHTS,
            rows=rows,
            columns=names,
            predicted=predicted,
            simulated=simulated,
            verdict=self._verdict(simulated, gap(predicted, simulated)),
            panels=(ENDS_PANEL, depths, TIME_PANEL),
            curves=(*curves, *over_time(path, names, self.strengths, predicted[-1])),
            explanation=self._explanation(predicted),
            measures=(
                measure(
                    "largest over smallest weight, layer 1", unequal(predicted[0]), unequal(simulated[0])
                ),
                measure(
                    "largest over smallest weight, output", unequal(predicted[-1]), unequal(simulated[-1])
                ),
            ),
            remarks=(
                "The form is derived in this project for linear, balanced layers and independent features. "
                "Training that starts balanced ends in it; training from a small start comes close.",
                self._slowest(learning_time(*moments, self.depth, self.scale)),
                *shortfall(predicted, simulated, velocity, path),
            ),
        )

    def _verdict(self, simulated: Array, agreement: str) -> str:
        ratios = [unequal(row) for row in (np.asarray(self.strengths), *simulated)]
        if not np.isfinite(ratios).all():
            return f"A feature on which views never agree disappears from every layer; {agreement}."
        places = ["in the input", *(f"after {name}" for name in layer_names(self.depth))]
        spread = ", ".join(f"{ratio:.3g} {place}" for ratio, place in zip(ratios, places, strict=True))
        return f"The largest weight over the smallest is {spread}; {agreement}."

    def _explanation(self, predicted: Array) -> tuple[str, ...]:
        least = int(np.argmin(self.keep))
        steps = " and ".join(
            f"{row[least]:.3g} after layer {layer}" for layer, row in enumerate(predicted, 1)
        )
        return (
            f"Views keep feature {least + 1} least often (probability {self.keep[least]:g}). Its weight is "
            f"{self.strengths[least]:g} in the input, {steps}.",
            "At the output each weight is the probability of keeping the feature, whatever its strength in "
            "the "
            "input. So unequal augmentation makes weights more unequal with depth, and unequal strengths "
            "become "
            "more equal.",
        )

    def _slowest(self, times: Array) -> str:
        slowest = int(np.argmax(times))
        if np.isfinite(times[slowest]):
            return (
                f"From a start of scale {self.scale:g}, feature {slowest + 1} is learned last, at about time "
                f"{times[slowest]:.3g}."
            )
        return f"Views never agree on feature {slowest + 1}: it fades in every layer, as a power of time."


class WeightDecay(FeatureTheorem):
    """Weight decay above a feature's threshold removes it from every layer; below, the start may decide.

    >>> WeightDecay(strengths="1,1", keep="1,0.3").outcome().predicted.round(3)
    array([[0.987, 0.   ],
           [0.974, 0.   ],
           [0.987, 0.   ],
           [0.974, 0.   ]])
    """

    STATEMENT: ClassVar[Statement] = WEIGHT_DECAY

    decay: float = Field(0.1, gt=0, le=1e3, description="weight decay: factor of the sum of squared weights")
    depth: Depth = 2

    def outcome(self) -> Outcome:
        """Predict both minima; simulate from the net without decay, and from below each border."""
        moments, names = self._moments, self._names
        minima = decayed_gains(*moments, self.decay, self.depth)
        velocity = decayed_velocity(*moments, self.decay)
        free = gains(*moments)
        below = np.where(np.isfinite(minima.border), minima.border / 2, free / 2)
        good, small = (settle(velocity, self._diagonal(gain)) for gain in (free, below))
        ends = [measured_weights(path.last, self.strengths) for path in (good, small)]
        losses = [decay_loss(end[-1] / self.strengths, *moments, self.decay, self.depth) for end in ends]
        lowest = np.where(losses[0] < losses[1], ends[0], ends[1])
        local, best = (
            layer_weights(self.strengths, gain, self.depth) for gain in (minima.largest_local, minima.best)
        )
        predicted, simulated = np.concatenate([local, best]), np.concatenate([ends[0], lowest])
        rows = layer_names(self.depth)
        start = measured_weights(self._diagonal(free), self.strengths)
        kept = [
            ((weights[-1] > LOST).sum(), (found > LOST).sum())
            for weights, found in ((local, ends[0][-1]), (best, lowest[-1]))
        ]
        return Outcome(
            quantity=WEIGHTS,
            rows=tuple(f"{minimum}, {layer}" for minimum in ("good start", "lowest loss") for layer in rows),
            columns=names,
            predicted=predicted,
            simulated=simulated,
            verdict=self._verdict(minima, gap(predicted, simulated)),
            panels=(
                ENDS_PANEL,
                Panel("Weight by decay", "weight decay", "weight after the last layer", True, note=_BY_DECAY),
                TIME_PANEL,
            ),
            curves=(
                *start_and_end(rows, start, ends[0], local),
                *self._by_decay(moments, ends[0][-1]),
                *over_time(good, names, self.strengths, local[-1]),
            ),
            explanation=self._explanation(moments),
            measures=(
                measure("features kept from a good start", *kept[0]),
                measure("features kept at the lowest loss", *kept[1]),
            ),
            remarks=(
                *(
                    ("Zero is always a minimum: from a start below a feature's border, training loses it.",)
                    if self.depth > 1
                    else ()
                ),
                "A good start is the net trained without decay. The lowest loss is the lower end of that run "
                "and "
                "of one from half of each feature's border.",
                *shortfall(predicted, simulated, velocity, good),
            ),
        )

    def _verdict(self, minima: DecayMinima, agreement: str) -> str:
        names, lost = self._names, minima.largest_local == 0
        between = minima.largest_local != minima.best
        loses = f"the net loses {phrase(names, lost)} in every layer" if lost.any() else "no feature is lost"
        more = (
            f" {phrase(names, between).capitalize()} is kept only from a good start." if between.any() else ""
        )
        return f"At weight decay {self.decay:g} {loses}.{more} {agreement[0].upper()}{agreement[1:]}."

    def _explanation(self, moments: tuple[Array, Array]) -> tuple[str, ...]:
        thresholds = decay_thresholds(*moments, self.depth)
        return (
            f"From these values of weight decay on, the features are lost: {listed(thresholds.exists)} "
            "(feature 1 "
            f"to {len(self._names)}).",
            f"From these lower values on, the loss is lower without the feature: {listed(thresholds.wins)}. "
            "Between the two, training keeps it from a good start and loses it from a small one.",
            "A lost feature is lost before the head too, so probing before the head does not help it.",
        )

    def _diagonal(self, gain: Array) -> Weights:
        return (np.diag(gain ** (1 / self.depth)),) * self.depth

    def _by_decay(self, moments: tuple[Array, Array], simulated: Array) -> list[Curve]:
        decays = np.geomspace(self.decay / 30, self.decay * 30, 121)
        largest = [decayed_gains(*moments, decay, self.depth).largest_local for decay in decays]
        lines = (np.array(largest) * self.strengths).T
        curves = []
        for name, line, end in zip(self._names, lines, simulated, strict=True):
            curves.append(Curve("Weight by decay", name, decays, line, dashed=True))
            curves.append(Curve("Weight by decay", name, np.array([self.decay]), np.array([end])))
        return curves


def feature_names(count: int) -> tuple[str, ...]:
    """The columns of an outcome: "feature 1", "feature 2" and so on."""
    return tuple(f"feature {number}" for number in range(1, count + 1))


def layer_names(depth: int) -> tuple[str, ...]:
    """The rows of an outcome: "layer 1 (pre)" and so on. Only a net of two layers has a pre layer."""
    ends = {depth: " (post)"} | ({1: " (pre)"} if depth == 2 else {})
    return tuple(f"layer {number}{ends.get(number, '')}" for number in range(1, depth + 1))


def start_and_end(rows: tuple[str, ...], start: Array, end: Array, predicted: Array) -> list[Curve]:
    """The weights of all features at the start, at the end, and predicted, for the first and last row."""
    number = np.arange(1.0, start.shape[1] + 1)
    curves = []
    for row in dict.fromkeys((0, len(rows) - 1)):
        curves.append(Curve(START_AND_END, rows[row], number, start[row], dotted=True))
        curves.append(Curve(START_AND_END, rows[row], number, end[row]))
        curves.append(Curve(START_AND_END, rows[row], number, predicted[row], dashed=True))
    return curves


def unequal(weights: Array) -> float:
    """The largest over the smallest weight; infinite where one is lost."""
    return float(weights.max() / weights.min()) if weights.min() > LOST else float("inf")


def over_time(path: Trajectory, names: tuple[str, ...], strengths: Any, ends: Array) -> list[Curve]:
    """The weights after the last layer over time, and the predicted weights as dashed lines."""
    shown = spread(len(path.times))[1:]
    layers = zip(*(layer[shown] for layer in path.weights), strict=True)
    weights = np.stack([measured_weights(at_one_time, strengths)[-1] for at_one_time in layers])
    times = path.times[shown]
    curves = [Curve(TIME_PANEL.title, name, times, weights[:, i]) for i, name in enumerate(names)]
    for name, end in zip(names, ends, strict=True):
        curves.append(Curve(TIME_PANEL.title, name, times[[0, -1]], np.full(2, end), dashed=True))
    return curves


def spread(count: int) -> Indices:
    """Indices of at most 150 of `count` steps, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).round().astype(np.intp))


def relative_gap(predicted: Array, simulated: Array) -> Array:
    """The gap over the prediction, or over the largest prediction of its row where that is 0."""
    scale = np.where(predicted > 0, predicted, predicted.max(-1, keepdims=True))
    return np.asarray(np.abs(simulated - predicted) / np.where(scale > 0, scale, 1.0))


def gap(predicted: Array, simulated: Array) -> str:
    """How far prediction and simulation are apart, as the end of a sentence."""
    largest = float(relative_gap(predicted, simulated).max())
    return (
        "prediction and simulation agree"
        if largest <= _CLOSE
        else f"prediction and simulation differ by up to {100 * largest:.2g} %"
    )


def shortfall(predicted: Array, simulated: Array, velocity: Velocity, path: Trajectory) -> list[str]:
    """Which features the flow has not brought to the prediction, with the gradient that remains."""
    far: Mask = np.asarray(relative_gap(predicted, simulated).max(axis=0) > _CLOSE)
    if path.diverged_at is not None:
        return [f"The weights grow without bound at time {path.diverged_at:.6g}; the figures end before."]
    if not far.any():
        return []
    left = remaining_gradient(velocity, path.last)
    return [
        f"Not yet at the prediction at time {path.times[-1]:.3g}: {phrase(feature_names(len(far)), far)}. "
        "The "
        f"remaining gradient has norm {left:.1e}."
    ]


def phrase(names: tuple[str, ...], which: Any) -> str:
    """The names at which `which` is true, as in "feature 1, feature 3 and feature 4"."""
    *first, last = [name for name, taken in zip(names, which, strict=True) if taken] or ["no feature"]
    return f"{', '.join(first)} and {last}" if first else last
