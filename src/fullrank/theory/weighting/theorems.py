"""The demos of the second paper's half: each lays closed forms beside a flow that knows nothing of them."""

from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from fullrank.theory.common.flow import Array, Trajectory, Velocity, Weights
from fullrank.theory.common.inputs import Indices, Mask
from fullrank.theory.common.steady_state import learning_time, remaining_gradient, settle
from fullrank.theory.common.theorem import Curve, Numbers, Outcome, Panel, Theorem, listed
from fullrank.theory.weighting import fixed_reweighting
from fullrank.theory.weighting.augmentation_models import keep_or_resample
from fullrank.theory.weighting.diagonal_nets import absent_above, relu_velocity, relu_weights, symmetric_relu
from fullrank.theory.weighting.spectral_model import (
    balanced_start,
    gains,
    layer_weights,
    measured_weights,
    spectral_velocity,
)
from fullrank.theory.weighting.weight_decay import decay_loss, decayed_gains, decayed_velocity

STRENGTHS, KEEP = (2.0, 1.0, 0.5, 1.0, 0.7), (1.0, 0.9, 1.0, 0.3, 0.6)
_CLOSE = 1e-4
# Solver steps come by the thousand; a line on a page needs no more points than these.
_POINTS = 150

WEAKEST, STRONGEST = 1e-3, 1e3


def _in_range(strengths: tuple[float, ...]) -> tuple[float, ...]:
    # Beyond these a flow takes minutes or its moments overflow; what is not above 0 is refused by the theory.
    wrong = [value for value in strengths if value > 0 and not WEAKEST <= value <= STRONGEST]
    if wrong:
        raise ValueError(f"{wrong[0]:g} is not from {WEAKEST:g} to {STRONGEST:g}")
    return strengths


Strengths = Annotated[
    Numbers, AfterValidator(_in_range), Field(description="strength of each feature in the input")
]
Keep = Annotated[Numbers, Field(description="probability that a view keeps each feature, 0 to 1")]
Depth = Annotated[int, Field(ge=1, le=12, description="number of linear layers")]
Seed = Annotated[int, Field(ge=0, description="seed of what is drawn")]

TIME_PANEL = Panel("Weight over time", "time", "weight after the last layer", log_x=True)
_WEIGHTS = "weight of each feature"


class _Features(Theorem):
    """Independent features that a view keeps or draws anew."""

    strengths: Strengths = STRENGTHS
    keep: Keep = KEEP

    @property
    def _moments(self) -> tuple[Array, Array]:
        return keep_or_resample(self.strengths, self.keep)

    @property
    def _names(self) -> tuple[str, ...]:
        return feature_names(len(self.strengths))


class FeatureWeighting(_Features):
    r"""Layer l of L weights feature i by :math:`\phi_i w_i^{l/L}` with :math:`w_i = k_i / \phi_i`.

    >>> FeatureWeighting(strengths="4,1", keep="1,1").outcome().predicted
    array([[2., 1.],
           [1., 1.]])
    """

    depth: Depth = 2
    scale: float = Field(0.6, gt=0, le=2, description="scale of the balanced start")
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
        depths = Panel("Weight by depth", "share of the depth (0 input, 1 output)", "weight", log_y=True)
        shares, layers = np.linspace(0, 1, 41), np.arange(self.depth + 1) / self.depth
        curves = over_time(path, names, self.strengths, predicted[-1])
        for i in np.flatnonzero(gain):
            line = self.strengths[i] * gain[i] ** shares
            curves.append(Curve(depths.title, names[i], shares, line, dashed=True))
            weights = np.array([self.strengths[i], *simulated[:, i]])
            curves.append(Curve(depths.title, names[i], layers, weights))
        return Outcome(
            quantity=_WEIGHTS,
            rows=layer_names(self.depth),
            columns=names,
            predicted=predicted,
            simulated=simulated,
            verdict=f"Features that enter at {listed(self.strengths)} leave at {listed(simulated[-1])}, "
            f"predicted {listed(predicted[-1])}; over all {self.depth} layers {gap(predicted, simulated)}.",
            panels=(depths, TIME_PANEL),
            curves=tuple(curves),
            remarks=(
                "The form is derived here for linear, balanced layers and independent features; balanced "
                "starts lead there, and small ones nearly.",
                self._slowest(learning_time(*moments, self.depth, self.scale)),
                *shortfall(predicted, simulated, velocity, path),
            ),
        )

    def _slowest(self, times: Array) -> str:
        slowest = int(np.argmax(times))
        if np.isfinite(times[slowest]):
            return (
                f"From a start of scale {self.scale:g} feature {slowest + 1} is learned last, after time "
                f"{times[slowest]:.3g} or so."
            )
        return f"Views never agree on feature {slowest + 1}: it fades everywhere, as a power of time only."


class WeightDecay(_Features):
    """Weight decay takes a feature below its threshold out of every layer; a kept one may not be the lowest.

    >>> WeightDecay(strengths="1,1", keep="1,0.3").outcome().predicted.round(3)
    array([[0.987, 0.   ],
           [0.974, 0.   ],
           [0.987, 0.   ],
           [0.974, 0.   ]])
    """

    decay: float = Field(0.1, gt=0, le=1e3, description="weight decay lambda of the sum of squared weights")
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
        remarks = (
            "From a start below a feature's border descent loses it: 0 is always a minimum.",
            "The largest local minimum is simulated from the net that has no decay, the global one as the "
            "lower end of that run and of one from half of each feature's border.",
            *shortfall(predicted, simulated, velocity, good),
        )
        return Outcome(
            quantity=_WEIGHTS,
            rows=tuple(
                f"{minimum}, {layer}"
                for minimum in ("largest local minimum", "global minimum")
                for layer in layer_names(self.depth)
            ),
            columns=names,
            predicted=predicted,
            simulated=simulated,
            verdict=f"At decay {self.decay:g} 0 is the only minimum for "
            f"{phrase(names, minima.largest_local == 0)}, and the lower of two for "
            f"{phrase(names, minima.largest_local != minima.best)}, which a good start keeps; "
            f"{gap(predicted, simulated)}.",
            panels=(Panel("Decay", "weight decay", "weight after the last layer", log_x=True), TIME_PANEL),
            curves=(
                *self._by_decay(moments, ends[0][-1]),
                *over_time(good, names, self.strengths, local[-1]),
            ),
            remarks=remarks if self.depth > 1 else remarks[1:],
        )

    def _diagonal(self, gain: Array) -> Weights:
        return (np.diag(gain ** (1 / self.depth)),) * self.depth

    def _by_decay(self, moments: tuple[Array, Array], simulated: Array) -> list[Curve]:
        decays = np.geomspace(self.decay / 30, self.decay * 30, 121)
        largest = [decayed_gains(*moments, decay, self.depth).largest_local for decay in decays]
        lines = (np.array(largest) * self.strengths).T
        curves = []
        for name, line, end in zip(self._names, lines, simulated, strict=True):
            curves.append(Curve("Decay", name, decays, line, dashed=True))
            curves.append(Curve("Decay", name, np.array([self.decay]), np.array([end])))
        return curves


class AbsentFeatures(_Features):
    """Behind a symmetrised ReLU a feature that is too weak to pass is alive below the head and 0 above it.

    >>> AbsentFeatures().outcome().predicted.round(2)
    array([[1.7 , 1.32, 0.4 ],
           [1.  , 0.9 , 0.  ]])
    """

    strengths: Strengths = (2.0, 1.0, 0.5)
    keep: Keep = (1.0, 0.9, 1.0)
    threshold: float = Field(0.5, ge=0, le=1e3, description="threshold of the symmetrised ReLU")
    start: float = Field(0.8, ge=1e-6, le=1e3, description="initial weight of every channel in both layers")

    def outcome(self) -> Outcome:
        """Predict the weights before and after the head; simulate the flow of both layers."""
        names = self._names
        first = np.full(len(names), self.start)
        predicted = relu_weights(first, first, self.strengths, self.keep, self.threshold)
        velocity = relu_velocity(self.strengths, self.keep, self.threshold)
        path = settle(velocity, (first, first))
        shown = spread(len(path.times))
        before = np.abs(path.weights[0][shown]) * self.strengths
        after = np.abs(path.weights[1][shown] * symmetric_relu(before, self.threshold))
        simulated = np.stack([before[-1], after[-1]])
        panels = [Panel(f"{side} the head", "time", "weight", log_x=True) for side in ("Before", "After")]
        absent = absent_above(first, self.strengths, self.threshold)
        return Outcome(
            quantity=_WEIGHTS,
            rows=("before the head (pre)", "after the head (post)"),
            columns=names,
            predicted=predicted,
            simulated=simulated,
            verdict=f"{phrase(names, absent).capitalize()} should be absent after the head and keep "
            f"{listed(predicted[0, absent])} before it; the flow leaves {listed(simulated[1, absent])} after "
            f"and {listed(simulated[0, absent])} before; {gap(predicted, simulated)}.",
            panels=tuple(panels),
            curves=tuple(
                Curve(panel.title, name, path.times[shown][1:], line)
                for panel, weights in zip(panels, (before, after), strict=True)
                for name, line in zip(names, weights[1:].T, strict=True)
            ),
            remarks=(
                "The condition is derived here for a diagonal net with a fixed threshold; the authors' code "
                "learns it from 0, and the paper's own theorem is not known.",
                "An absent feature keeps the weight it started with: nothing trains it.",
                *shortfall(predicted, simulated, velocity, path),
            ),
        )


class Reweighting(_Features):
    """A fixed reweighting head leaves z as it was and makes features of late channels stronger in h.

    >>> Reweighting(strengths="2,1", keep="1,0.5", kappa=2).outcome().predicted
    array([[1. , 1. ],
           [1. , 0.5]])
    """

    kappa: float = Field(1.5, ge=1, le=10, description="ratio of the weights of neighbouring channels")
    start: float = Field(1e-8, ge=1e-30, le=1, description="deviation of the encoder's initial weights")
    seed: Seed = 0

    def outcome(self) -> Outcome:
        """Predict h and z with features in the channels that speed gives them; simulate their race."""
        moments, names = self._moments, self._names
        channels = fixed_reweighting.channels_by_speed(*moments)
        post = np.asarray(self.strengths) * gains(*moments)
        predicted = fixed_reweighting.reweighted_weights(post, channels, self.kappa)
        head = fixed_reweighting.reweighting(len(names), self.kappa)
        start = np.random.default_rng(self.seed).normal(scale=self.start, size=(len(names), len(names)))
        velocity = fixed_reweighting.reweighted_velocity(*moments, head)
        learned = channels >= 0
        speeds = 4 * head[channels[learned]] ** 2 * np.diag(moments[1])[learned]
        horizon = 20 * (1 - np.log(self.start)) / speeds.min() if len(speeds) else 1.0
        path = settle(velocity, (start,), horizon=float(horizon), atol=self.start * 1e-7)
        h, z = path.last[0], head[:, None] * path.last[0]
        simulated = np.stack([measured_weights((layer,), self.strengths)[0] for layer in (h, z)])
        in_place = z[channels[learned], learned] ** 2 / (z**2)[:, learned].sum(0)
        by_channel = Panel("Weight by channel", "channel", "weight", log_y=True)
        at = channels[learned].astype(np.float64)
        return Outcome(
            quantity=_WEIGHTS,
            rows=("before the head (h)", "after the head (z)"),
            columns=names,
            predicted=predicted,
            simulated=simulated,
            verdict=f"Features weigh {listed(simulated[1])} after the head, predicted {listed(predicted[1])} "
            f"at any kappa, and before it {listed(simulated[0])}, predicted {listed(predicted[0])} "
            f"from channels {listed(channels)}; {gap(predicted, simulated)}.",
            panels=(by_channel, TIME_PANEL),
            curves=(
                Curve(by_channel.title, "before", at, simulated[0, learned]),
                Curve(by_channel.title, "after", at, simulated[1, learned]),
                Curve(by_channel.title, "before, predicted", at, predicted[0, learned], dashed=True),
                Curve(by_channel.title, "after, predicted", at, predicted[1, learned], dashed=True),
                *over_time(path, names, self.strengths, predicted[0]),
            ),
            remarks=(
                *self._remarks(fixed_reweighting.order_margin(*moments, self.kappa), in_place),
                *shortfall(predicted[1:], simulated[1:], velocity, path),
            ),
        )

    def _remarks(self, margin: float, in_place: Array) -> list[str]:
        least = f"{100 * in_place.min(initial=1):.4g} % or more of each feature went where speed predicts"
        remarks = [
            "Derived here for a linear encoder: the loss fixes z up to a rotation of channels, and the speed "
            "of learning from a small start decides which feature a channel holds.",
            f"The order holds with margin {margin:.3g}: about {self.start**margin:.2g} of an amplitude "
            f"should be misplaced, and {least}."
            if margin > 0
            else f"The order of channels is not predicted here (margin {margin:.3g}): they mix, or a "
            f"feature on which views agree more takes one over; {least}.",
            "An optimizer of the Adam family rescales each channel's gradient and so undoes this order.",
        ]
        if self.kappa > 1:
            subnormal, gone = fixed_reweighting.lost_in_float32(self.kappa)
            remarks.append(
                "An endless head of this kappa has "
                f"{fixed_reweighting.effective_channels(self.kappa):.3g} effective channels; in float32 its "
                f"weights are subnormal from channel {subnormal} and 0 from channel {gone}."
            )
        return remarks


def feature_names(count: int) -> tuple[str, ...]:
    """The columns of an outcome: "feature 1", "feature 2" and so on."""
    return tuple(f"feature {number}" for number in range(1, count + 1))


def layer_names(depth: int) -> tuple[str, ...]:
    """The rows of an outcome, "layer 1 (pre)" and so on; only of two layers is the first before the head."""
    ends = {depth: " (post)"} | ({1: " (pre)"} if depth == 2 else {})
    return tuple(f"layer {number}{ends.get(number, '')}" for number in range(1, depth + 1))


def over_time(path: Trajectory, names: tuple[str, ...], strengths: Any, ends: Array) -> list[Curve]:
    """The weights after the last layer over time, and the predicted weights."""
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
    """The largest relative gap, as the end of a sentence."""
    return f"prediction and simulation differ by {relative_gap(predicted, simulated).max():.1e} at most"


def shortfall(predicted: Array, simulated: Array, velocity: Velocity, path: Trajectory) -> list[str]:
    """Which features the flow left short of the prediction, with the gradient that remained."""
    far: Mask = np.asarray(relative_gap(predicted, simulated).max(axis=0) > _CLOSE)
    if path.diverged_at is not None:
        return [f"The flow left every bound at time {path.diverged_at:.6g}; what is shown is from before."]
    if not far.any():
        return []
    left = remaining_gradient(velocity, path.last)
    return [
        f"{phrase(feature_names(len(far)), far).capitalize()} had not come to the prediction by time "
        f"{path.times[-1]:.3g}; the remaining gradient has norm {left:.1e}."
    ]


def phrase(names: tuple[str, ...], which: Any) -> str:
    """The names at which `which` is true, as in "feature 1, feature 3 and feature 4"."""
    *first, last = [name for name, taken in zip(names, which, strict=True) if taken] or ["no feature"]
    return f"{', '.join(first)} and {last}" if first else last
