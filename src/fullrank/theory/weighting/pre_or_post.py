"""A demo of P2's claim: which features need fewer labels before the head, by a bound and a perceptron."""

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fullrank.errors import UsageError
from fullrank.theory.common.flow import Array
from fullrank.theory.common.inputs import Mask
from fullrank.theory.common.theorem import Curve, Numbers, Outcome, Panel, Statement, Theorem, measure
from fullrank.theory.weighting.augmentation_models import additive_noise, keep_or_resample
from fullrank.theory.weighting.sample_complexity import (
    advise,
    advise_dropping,
    pre_beats_post,
    samples_needed,
)
from fullrank.theory.weighting.spectral_model import gains
from fullrank.theory.weighting.statements import PRE_OR_POST
from fullrank.theory.weighting.theorems import KEEP, STRENGTHS, Keep, Seed, Strengths, feature_names, phrase

_NOTE = "Dashed: the bound S. Solid: the mistakes of a perceptron."
_ENDS = Panel("Input, before the head, after it", "feature", "labels", log_y=True, note=_NOTE)
_BY_DEPTH = Panel(
    "Labels by depth", "share of the depth (0 input, 1 output)", "labels", log_y=True, note=_NOTE
)


class PreOrPost(Theorem):
    """How many labels a feature needs at each depth: the bound S(t) and the mistakes of a perceptron.

    >>> outcome = PreOrPost(strengths="1,1", keep="1,0.5", trials=20).outcome()
    >>> outcome.predicted.tolist(), bool((outcome.simulated <= outcome.predicted).all())
    ([[2.0, 1.5, 1.25], [2.0, 3.0, 5.0]], True)
    """

    STATEMENT: ClassVar[Statement] = PRE_OR_POST
    FULL: ClassVar[dict[str, Any]] = {"trials": 2000}  # more of ours: the paper's own counts are not known

    strengths: Strengths = STRENGTHS
    augmentation: Literal["keep", "noise", "drop"] = Field(
        "keep", description="what a view does to each feature"
    )
    keep: Keep = KEEP
    noise: Numbers = Field((0.3,) * 5, description="standard deviation of the noise on each feature")
    trials: int = Field(200, ge=10, le=20000, description="number of random streams of labelled inputs")
    labels: int = Field(1000, ge=10, le=100000, description="number of labelled inputs in a stream")
    seed: Seed = 0

    def outcome(self) -> Outcome:
        """Predict S at the input, halfway and at the output; count a perceptron's mistakes at each."""
        if self.augmentation == "drop":
            nothing = advise_dropping(self.strengths, np.zeros(len(self.strengths)), 0).reason
            raise UsageError(f"augmentation 'drop': {nothing} Take keep or noise.")
        model = keep_or_resample if self.augmentation == "keep" else additive_noise
        gain = gains(*model(self.strengths, self.keep if self.augmentation == "keep" else self.noise))
        if not gain.all():
            raise UsageError(
                f"Feature {int(np.argmin(gain)) + 1} is lost in every layer, so no depth can be advised for "
                "it; "
                "keep it with a probability above 0."
            )
        count = len(gain)
        names, shares = feature_names(count), np.array([0.0, 0.25, 0.5, 0.75, 1.0])
        mistakes, late = self._mistakes(gain, shares)
        errors = mistakes.mean(-1)
        bound = np.array([samples_needed(self.strengths, gain, j, shares) for j in range(count)])
        wins = np.array([pre_beats_post(self.strengths, gain, j) for j in range(count)])
        agreeing, unclear = self._agreement(mistakes, wins)
        remarks = [
            "S bounds the mistakes of a perceptron from above. It stands for the number of labels needed; "
            "the bound "
            "and its use here are derived in this project.",
        ]
        if late:
            remarks.append(f"{late} mistakes fall in the last tenth of the streams; give more --labels.")
        columns = ("input", "pre (halfway)", "post (output)")
        before = (errors[:, 2] < errors[:, -1]).sum()
        return Outcome(
            quantity="labels needed: the bound S as predicted, a perceptron's mistakes as simulated",
            rows=names,
            columns=columns,
            predicted=bound[:, ::2],
            simulated=errors[:, ::2],
            verdict=self._verdict(names, wins, agreeing),
            panels=(_ENDS, _BY_DEPTH),
            curves=self._curves(names, gain, errors, shares),
            explanation=(
                f"The perceptron finds the same order of pre and post for {phrase(names, agreeing)}, and the "
                f"opposite order for {phrase(names, ~agreeing & ~unclear)}. The order is within two standard "
                f"errors for {phrase(names, unclear)}.",
                *(advise(self.strengths, gain, j).reason for j in range(count)),
            ),
            measures=(measure("features that need fewer labels before the head", wins.sum(), before),),
            remarks=tuple(remarks),
        )

    def _curves(self, names: tuple[str, ...], gain: Array, errors: Array, shares: Array) -> tuple[Curve, ...]:
        """The bound at the input and the output, feature by feature; the bound and the mistakes by depth."""
        fine, number = np.linspace(0, 1, 41), np.arange(1.0, len(names) + 1)
        lines = np.array([samples_needed(self.strengths, gain, j, fine) for j in range(len(names))])
        curves = []
        for column, (label, at) in enumerate((("input", 0), ("pre (halfway)", 20), ("post (output)", 40))):
            curves.append(Curve(_ENDS.title, label, number, lines[:, at], dashed=True))
            curves.append(Curve(_ENDS.title, label, number, errors[:, 2 * column]))
        for name, line, found in zip(names, lines, errors, strict=True):
            curves.append(Curve(_BY_DEPTH.title, name, fine, line, dashed=True))
            curves.append(Curve(_BY_DEPTH.title, name, shares, found))
        return tuple(curves)

    @staticmethod
    def _verdict(names: tuple[str, ...], wins: Mask, agreeing: Mask) -> str:
        return (
            f"By the bound S, {phrase(names, wins)} should need fewer labels before the head and "
            f"{phrase(names, ~wins)} after it; a perceptron clearly agrees on {int(agreeing.sum())} of "
            f"{len(names)}."
        )

    def _mistakes(self, gain: Array, shares: Array) -> tuple[Array, int]:
        """Mistakes (feature, share, trial) of perceptrons on the same streams, and how many were late."""
        generator = np.random.default_rng(self.seed)
        count = len(gain)
        weights = (np.asarray(self.strengths) * gain ** shares[:, None])[None, :, None]
        learners = np.zeros((count, len(shares), self.trials, count))
        mistakes = np.zeros(learners.shape[:-1])
        late = 0
        for step in range(self.labels):
            signs = generator.choice(np.array([-1.0, 1.0]), size=(self.trials, count))
            inputs = weights * signs
            labels = signs.T[:, None]
            wrong = (learners * inputs).sum(-1) * labels <= 0
            learners += (wrong * labels)[..., None] * inputs
            mistakes += wrong
            late += int(wrong.sum()) if step >= 0.9 * self.labels else 0
        return mistakes, late

    def _agreement(self, mistakes: Array, wins: Mask) -> tuple[Mask, Mask]:
        """Features for which the perceptron orders pre and post as S does, and those where it is unclear."""
        difference = mistakes[:, -1] - mistakes[:, 2]
        mean, error = difference.mean(-1), difference.std(-1) / np.sqrt(self.trials)
        unclear = np.abs(mean) <= 2 * error
        return ~unclear & ((mean > 0) == wins), unclear
