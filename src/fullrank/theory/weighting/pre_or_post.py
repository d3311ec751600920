"""Before the head or after it: the bound on the labels that a feature needs, beside a perceptron."""

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fullrank.errors import UsageError
from fullrank.theory.common.flow import Array
from fullrank.theory.common.inputs import Mask
from fullrank.theory.common.theorem import Curve, Numbers, Outcome, Panel, Theorem
from fullrank.theory.weighting.augmentation_models import additive_noise, keep_or_resample
from fullrank.theory.weighting.sample_complexity import (
    advise,
    advise_dropping,
    pre_beats_post,
    samples_needed,
)
from fullrank.theory.weighting.spectral_model import gains
from fullrank.theory.weighting.theorems import KEEP, STRENGTHS, Keep, Seed, Strengths, feature_names, phrase


class PreOrPost(Theorem):
    """How many labels a feature needs at each depth: the bound S(t) beside the mistakes of a perceptron.

    >>> outcome = PreOrPost(strengths="1,1", keep="1,0.5", trials=20).outcome()
    >>> outcome.predicted.tolist(), bool((outcome.simulated <= outcome.predicted).all())
    ([[2.0, 1.5, 1.25], [2.0, 3.0, 5.0]], True)
    """

    FULL: ClassVar[dict[str, Any]] = {"trials": 2000}  # the paper's own counts are not known
    strengths: Strengths = STRENGTHS
    augmentation: Literal["keep", "noise", "drop"] = Field(
        "keep", description="what views do to each feature"
    )
    keep: Keep = KEEP
    noise: Numbers = Field((0.3,) * 5, description="deviation of the noise on each feature")
    trials: int = Field(200, ge=10, le=20000, description="random streams of labelled inputs")
    labels: int = Field(1000, ge=10, le=100000, description="labelled inputs in a stream")
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
                f"Feature {int(np.argmin(gain)) + 1} is lost in every layer, so no depth serves it; keep it "
                "with a probability above 0."
            )
        count = len(gain)
        names, shares = feature_names(count), np.array([0.0, 0.25, 0.5, 0.75, 1.0])
        mistakes, late = self._mistakes(gain, shares)
        errors = mistakes.mean(-1)
        bound = np.array([samples_needed(self.strengths, gain, j, shares) for j in range(count)])
        by_depth = Panel("Labels by depth", "share of the depth (0 input, 1 output)", "labels", log_y=True)
        fine = np.linspace(0, 1, 41)
        curves = []
        for j, name in enumerate(names):
            line = samples_needed(self.strengths, gain, j, fine)
            curves.append(Curve(by_depth.title, name, fine, line, dashed=True))
            curves.append(Curve(by_depth.title, name, shares, errors[j]))
        wins = np.array([pre_beats_post(self.strengths, gain, j) for j in range(count)])
        agreeing, unclear = self._agreement(mistakes, wins)
        within = "" if (mistakes.max(-1) <= bound + 1e-9).all() else " on the whole, though not always"
        remarks = [
            "S bounds the mistakes of a perceptron from above; it is a proxy for the labels needed, derived "
            "here, and how the paper's own theorem relates to it is not known.",
            f"The perceptron's order of pre and post is that of S for {phrase(names, agreeing)}, the "
            f"other for {phrase(names, ~agreeing & ~unclear)}, and within two standard errors for "
            f"{phrase(names, unclear)}.",
            *(advise(self.strengths, gain, j).reason for j in range(count)),
        ]
        if late:
            remarks.append(f"{late} mistakes fall in the last tenth of the streams; give more labels.")
        return Outcome(
            quantity="labels needed: the bound S, and a perceptron's mistakes",
            rows=names,
            columns=("input", "pre (halfway)", "post (output)"),
            predicted=bound[:, ::2],
            simulated=errors[:, ::2],
            verdict=f"By S pre beats post for {phrase(names, wins)}; the perceptron agrees on "
            f"{int(agreeing.sum())} of {count} features, and its mistakes stay within the bound{within}.",
            panels=(by_depth,),
            curves=tuple(curves),
            remarks=tuple(remarks),
        )

    def _mistakes(self, gain: Array, shares: Array) -> tuple[Array, int]:
        """Mistakes (feature, share, trial) of perceptrons that see the same streams, and the late ones."""
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
        """For which features the perceptron orders pre and post as S does, and where the order is unclear."""
        difference = mistakes[:, -1] - mistakes[:, 2]
        mean, error = difference.mean(-1), difference.std(-1) / np.sqrt(self.trials)
        unclear = np.abs(mean) <= 2 * error
        return ~unclear & ((mean > 0) == wins), unclear
