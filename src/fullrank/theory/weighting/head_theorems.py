"""P2's claims on heads as demos: features that a head hides, and a fixed reweighting head."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from fullrank.theory.common.flow import Array
from fullrank.theory.common.inputs import Indices, Mask
from fullrank.theory.common.steady_state import settle
from fullrank.theory.common.theorem import Curve, Outcome, Panel, Statement, listed, measure
from fullrank.theory.weighting import fixed_reweighting
from fullrank.theory.weighting.diagonal_nets import absent_above, relu_velocity, relu_weights, symmetric_relu
from fullrank.theory.weighting.spectral_model import gains, measured_weights
from fullrank.theory.weighting.statements import ABSENT_FEATURES, REWEIGHTING
from fullrank.theory.weighting.theorems import (
    ENDS_PANEL,
    LOST,
    TIME_PANEL,
    WEIGHTS,
    FeatureTheorem,
    Keep,
    Seed,
    Strengths,
    gap,
    over_time,
    phrase,
    shortfall,
    spread,
    start_and_end,
    unequal,
)

_BY_CHANNEL = "Dashed: predicted. Solid: simulated."


class AbsentFeatures(FeatureTheorem):
    """A feature too weak to pass a symmetrised ReLU is alive before the head and 0 after it.

    >>> AbsentFeatures().outcome().predicted.round(2)
    array([[1.7 , 1.32, 0.4 ],
           [1.  , 0.9 , 0.  ]])
    """

    STATEMENT: ClassVar[Statement] = ABSENT_FEATURES

    strengths: Strengths = (2.0, 1.0, 0.5)
    keep: Keep = (1.0, 0.9, 1.0)
    threshold: float = Field(0.5, ge=0, le=1e3, description="threshold of the symmetrised ReLU")
    start: float = Field(
        0.8, ge=1e-6, le=1e3, description="weight of every channel in both layers at the start"
    )

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
        start, simulated = np.stack([before[0], after[0]]), np.stack([before[-1], after[-1]])
        panels = [Panel(f"{side} the head", "time", "weight", log_x=True) for side in ("Before", "After")]
        absent = absent_above(first, self.strengths, self.threshold)
        rows = ("before the head (pre)", "after the head (post)")
        return Outcome(
            quantity=WEIGHTS,
            rows=rows,
            columns=names,
            predicted=predicted,
            simulated=simulated,
            verdict=self._verdict(absent, simulated, gap(predicted, simulated)),
            panels=(ENDS_PANEL, *panels),
            curves=(
                *start_and_end(rows, start, simulated, predicted),
                *(
                    Curve(panel.title, name, path.times[shown][1:], line)
                    for panel, weights in zip(panels, (before, after), strict=True)
                    for name, line in zip(names, weights[1:].T, strict=True)
                ),
            ),
            explanation=(
                f"A feature passes the ReLU only if {self.start:g} times its strength is above the threshold "
                f"{self.threshold:g}. These products are {listed(first * self.strengths)}.",
                "A feature that does not pass has no output, so nothing trains it: before the head it keeps "
                "the "
                "weight of the start. A probe before the head can still read it, and one after the head "
                "cannot.",
            ),
            measures=(
                measure("features absent after the head", absent.sum(), (simulated[1] < LOST).sum()),
                measure(
                    "features absent before the head",
                    (predicted[0] < LOST).sum(),
                    (simulated[0] < LOST).sum(),
                ),
            ),
            remarks=(
                "The condition is derived in this project for a net that does not mix features and a fixed "
                "threshold. In the authors' code the threshold is learned and starts at 0.",
                *shortfall(predicted, simulated, velocity, path),
            ),
        )

    def _verdict(self, absent: Mask, simulated: Array, agreement: str) -> str:
        least = self.start * min(self.strengths)
        if not absent.any():
            return (
                f"No feature is absent after the head at threshold {self.threshold:g}; from {least:g} on, "
                "the "
                f"weakest one is. {agreement[0].upper()}{agreement[1:]}."
            )
        return (
            f"Absent after the head, but with weight {listed(simulated[0, absent])} before it: "
            f"{phrase(self._names, absent)}; {agreement}."
        )


class Reweighting(FeatureTheorem):
    """A fixed reweighting head leaves z unchanged and makes features of late channels stronger in h.

    >>> Reweighting(strengths="2,1", keep="1,0.5", kappa=2).outcome().predicted
    array([[1. , 1. ],
           [1. , 0.5]])
    """

    STATEMENT: ClassVar[Statement] = REWEIGHTING

    kappa: float = Field(1.5, ge=1, le=10, description="ratio of the weights of neighbouring channels")
    start: float = Field(
        1e-8, ge=1e-30, le=1, description="standard deviation of the encoder's weights at the start"
    )
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
        simulated, at_start = (
            np.stack([measured_weights((layer,), self.strengths)[0] for layer in pair])
            for pair in ((h, z), (start, head[:, None] * start))
        )
        in_place = z[channels[learned], learned] ** 2 / (z**2)[:, learned].sum(0)
        rows = ("before the head (h)", "after the head (z)")
        by_channel = Panel("Weight by channel", "channel", "weight", log_y=True, note=_BY_CHANNEL)
        order = np.argsort(channels[learned])
        at = channels[learned][order].astype(np.float64)
        return Outcome(
            quantity=WEIGHTS,
            rows=rows,
            columns=names,
            predicted=predicted,
            simulated=simulated,
            verdict=self._verdict(channels, simulated, gap(predicted, simulated)),
            panels=(ENDS_PANEL, by_channel, TIME_PANEL),
            curves=(
                *start_and_end(rows, at_start, simulated, predicted),
                *(
                    Curve(by_channel.title, row, at, table[number, learned][order], dashed=dashed)
                    for number, row in enumerate(rows)
                    for table, dashed in ((predicted, True), (simulated, False))
                ),
                *over_time(path, names, self.strengths, predicted[0]),
            ),
            explanation=(
                "The encoder makes up for the head: after it, each feature has the weight that it would have "
                f"without a head ({listed(predicted[1])}).",
                f"Before the head, a feature in channel c is {self.kappa:g} to the power c times as strong "
                "as "
                f"after it. Features 1 to {len(names)} are predicted in channels {listed(channels)}: those "
                "that "
                "are learned faster take earlier channels.",
            ),
            measures=(
                measure("before over after the head, largest", *map(_strengthened, (predicted, simulated))),
                measure(
                    "largest over smallest weight, after the head",
                    *map(unequal, (predicted[1], simulated[1])),
                ),
            ),
            remarks=(
                *self._remarks(fixed_reweighting.order_margin(*moments, self.kappa), in_place),
                *shortfall(predicted[1:], simulated[1:], velocity, path),
            ),
        )

    def _verdict(self, channels: Indices, simulated: Array, agreement: str) -> str:
        if self.kappa == 1:
            return f"With kappa 1 the head changes nothing; {agreement}."
        late = int(np.argmax(channels))
        ratio = simulated[0, late] / simulated[1, late] if simulated[1, late] > LOST else np.inf
        return (
            f"After the head the weights are those without a head. Before it, {self._names[late]} is "
            f"{ratio:.3g} "
            f"times as strong as after it, since it sits in channel {channels[late]:.0f}; {agreement}."
        )

    def _remarks(self, margin: float, in_place: Array) -> list[str]:
        share = f"{100 * in_place.min(initial=1):.4g} % of each feature or more is where speed predicts it"
        remarks = [
            "Derived in this project for a linear encoder. The loss fixes z up to a rotation of its "
            "channels; the "
            "speed of learning from a small start decides which channel holds which feature.",
            f"The order of the channels is predicted with margin {margin:.3g}: about "
            f"{self.start**margin:.2g} of an "
            f"amplitude should be misplaced. In the simulation, {share}."
            if margin > 0
            else f"The order of the channels is not predicted here (margin {margin:.3g}): channels mix, or a "
            f"feature on which views agree more takes over another's channel. In the simulation, {share}.",
            "Optimizers of the Adam family rescale each channel's gradient and so undo this order.",
        ]
        if self.kappa > 1:
            subnormal, gone = fixed_reweighting.lost_in_float32(self.kappa)
            remarks.append(
                "A head of this kappa and any width has at most "
                f"{fixed_reweighting.effective_channels(self.kappa):.3g} effective channels. In float32 its "
                f"weights are subnormal from channel {subnormal} and 0 from channel {gone}."
            )
        return remarks


def _strengthened(weights: Array) -> float:
    """How much stronger before the head than after it the most strengthened feature is."""
    before, after = weights[:, weights[1] > LOST]
    return float((before / after).max(initial=1.0))
