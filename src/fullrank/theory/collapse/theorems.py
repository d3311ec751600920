"""P1's Theorem 1 as a demo: strong augmentation takes directions from a linear layer."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.linalg import svdvals
from pydantic import Field

from fullrank.record import TheoryMeasure
from fullrank.theory.collapse import infonce_flow, linear_stack
from fullrank.theory.collapse.inner_products import limit_velocity
from fullrank.theory.collapse.statements import STRONG_AUGMENTATION
from fullrank.theory.collapse.toy_theorem import SAMPLES, Noise, Rate, ToyTheorem, bundle
from fullrank.theory.collapse.toy_training import ToyRun, strong_augmentation
from fullrank.theory.common.flow import Array, integrate
from fullrank.theory.common.theorem import (
    START_AND_END,
    Curve,
    OnStep,
    Outcome,
    Panel,
    Statement,
    counted,
    measure,
)

# A direction counts as collapsed if W passes it less than half as strongly at the end as at the start.
_LOST = 0.5
# With data of variance 1, noise of twice that variance makes X negative (docs/theory/collapse.md).
_BOUNDARY = 2**0.5

_OVER_TIME = Panel(
    "Theorem 1 over time",
    "time",
    "strength of a direction in W",
    log_y=True,
    note="Dashed: X stays as it is at the start, as in Theorem 1; one line for each eigenvector. Solid: X "
    "moves "
    "with W, as in training; the singular values of W on the clean and on the augmented inputs.",
)
_TOY = Panel(
    "The paper's toy, trained by SGD",
    "step",
    "singular value of W",
    log_y=True,
    note="Dashed: the prediction for Gaussian data. Solid: SGD.",
)
_ENDS = Panel(
    START_AND_END,
    "direction: the clean inputs first, then the augmented ones",
    "singular value of W",
    log_y=True,
    note="Dotted: the start. Solid: the end of training with the X that moves.",
)


@dataclass(frozen=True)
class _Flows:
    """X at the start, and W over time (T, D, D): X fixed in closed form, X fixed simulated, X moving."""

    drive: Array
    exact: Array
    fixed: Array
    moving: Array


class StrongAugmentation(ToyTheorem):
    """Theorem 1: each negative eigenvalue of X takes a singular value of W to zero; and P1's first toy."""

    STATEMENT: ClassVar[Statement] = STRONG_AUGMENTATION

    learning_rate: Rate = 1e-3
    noise: Noise = 2.0
    width: int = Field(16, ge=1, le=64, description="number of inputs and of outputs of the layer")
    augmented: int = Field(
        8, ge=0, description="number of inputs that the noise moves, counted from the last"
    )
    time: float = Field(2.0, gt=0, le=50, description="how long the flow of Theorem 1 runs")

    def outcome(self, on_step: OnStep | None = None) -> Outcome:
        """The flow with X fixed against its closed form, and the toy against its Gaussian limit."""
        sizes = {"width": self.width, "augmented": self.augmented}
        toy = strong_augmentation(self.noise, self._schedule, on_step=on_step, **sizes)
        limit, times = self._limit(toy), np.linspace(0, self.time, 33)
        flows = self._flows(toy.weights[0][0], times)
        predicted = infonce_flow.collapse_count(flows.drive, self.width)
        lost = sum(int((part[-1] < _LOST * part[0]).sum()) for part in self._parts(flows.moving).values())
        trained, ends = toy.singular_values[0][-1], svdvals(limit[-1])
        measures = [measure("collapsed directions", predicted, lost)]
        if 0 < self._clean < self.width:
            ratios = (
                values[: self._clean].mean() / values[self._clean :].mean() for values in (ends, trained)
            )
            measures.append(measure("clean over augmented, in the toy", *ratios))
        return Outcome(
            quantity="singular value of W at the end",
            rows=("Theorem 1, X fixed", "toy, SGD"),
            columns=tuple(map(str, range(1, self.width + 1))),
            predicted=np.stack([svdvals(flows.exact[-1]), ends]),
            simulated=np.stack([svdvals(flows.fixed[-1]), trained]),
            verdict=self._verdict(predicted, lost),
            panels=(_ENDS, _OVER_TIME, _TOY),
            curves=(*self._start_and_end(flows.moving), *self._over_time(flows, times, toy, limit)),
            explanation=self._explanation(predicted, lost, measures[1:]),
            remarks=self._remarks(),
            measures=tuple(measures),
        )

    def _flows(self, start: Array, times: Array) -> _Flows:
        rng = np.random.default_rng(self.seed)
        x = rng.standard_normal((SAMPLES, self.width))
        views = x.copy()
        views[:, self._clean :] += self.noise * rng.standard_normal((SAMPLES, self.augmented))
        alpha = infonce_flow.softmax_weights(x @ start.T, views @ start.T)
        # Divided by the number of samples, so that time does not depend on it.
        drive = infonce_flow.driving_matrix(x, views, alpha) / SAMPLES
        fixed = integrate(linear_stack.fixed_velocity(drive), (start,), times, rtol=1e-8)
        velocity = infonce_flow.moving_velocity(x, views)
        moving = integrate(velocity, (start,), times / SAMPLES, rtol=1e-5, atol=1e-9)
        exact = infonce_flow.exact_weights(start, drive, times)
        return _Flows(drive, exact, fixed.weights[0], moving.weights[0])

    def _limit(self, toy: ToyRun) -> Array:
        """The toy's weights (T, D, D) under the gradient flow of its Gaussian limit."""
        moment = np.ones(self.width)
        moment[self._clean :] += self.noise**2
        velocity = limit_velocity(np.diag(moment), np.eye(self.width), self.temperature)
        start = (toy.weights[0][0], toy.biases[0])
        return integrate(velocity, start, toy.steps * self.learning_rate, rtol=1e-6, atol=1e-9).weights[0]

    @property
    def _clean(self) -> int:
        return self.width - self.augmented

    def _parts(self, weights: Array) -> dict[str, Array]:
        """The singular values (T, n) of the columns of W that read the clean and the augmented inputs."""
        columns = {"clean": weights[..., : self._clean], "augmented": weights[..., self._clean :]}
        return {name: svdvals(part) for name, part in columns.items() if part.shape[-1]}

    def _start_and_end(self, moving: Array) -> list[Curve]:
        curves, first = [], 1
        for name, values in self._parts(moving).items():
            x = np.arange(first, first + values.shape[1], dtype=np.float64)
            curves.append(Curve(START_AND_END, name, x, values[0], dotted=True))
            curves.append(Curve(START_AND_END, name, x, values[-1]))
            first += values.shape[1]
        return curves

    def _over_time(self, flows: _Flows, times: Array, toy: ToyRun, limit: Array) -> list[Curve]:
        bundles = [
            (_OVER_TIME, times, self._along_eigenvectors(flows), True),
            (_OVER_TIME, times, self._parts(flows.moving), False),
            (_TOY, toy.steps, self._parts(limit), True),
            (_TOY, toy.steps, self._parts(toy.weights[0]), False),
        ]
        return [
            curve
            for panel, x, parts, dashed in bundles
            for name, values in parts.items()
            for curve in bundle(panel, name, x, values, dashed=dashed)
        ]

    def _along_eigenvectors(self, flows: _Flows) -> dict[str, Array]:
        """|W(t) u| for each eigenvector u of the fixed X, in the group of inputs in which most of u lies."""
        vectors = np.linalg.eigh(flows.drive)[1]
        strengths = np.linalg.norm(flows.exact @ vectors, axis=1)
        augmented = (vectors[self._clean :] ** 2).sum(0) > 0.5
        groups = {"clean": strengths[:, ~augmented], "augmented": strengths[:, augmented]}
        return {name: values for name, values in groups.items() if values.shape[1]}

    def _verdict(self, predicted: int, lost: int) -> str:
        if lost:
            return (
                f"At noise {self.noise:g}, {lost} of {self.width} directions collapse; Theorem 1 predicts "
                f"{predicted}."
            )
        although = f", although Theorem 1 predicts {predicted}" if predicted else ""
        return (
            f"At noise {self.noise:g}, none of {self.width} directions collapses{although}. "
            f"Collapse starts at a noise of about {_BOUNDARY:.1f}."
        )

    def _explanation(self, predicted: int, lost: int, ratios: list[TheoryMeasure]) -> tuple[str, ...]:
        sentences = [
            f"The data have variance 1 in every direction. The noise moves the last {self.augmented} inputs "
            "of "
            f"one view, with variance {self.noise**2:.3g}. While W is small, X becomes negative in a "
            "direction "
            "where this variance is above twice that of the data: from a noise of √2 = "
            f"{_BOUNDARY:.2f} on. At the start of this run, X has "
            f"{counted(predicted, 'negative eigenvalue')}.",
            "A direction counts as collapsed if W passes it less than half as strongly at the end as at the "
            f"start. The end is time {self.time:g}; with a longer --time the values shrink further.",
        ]
        if lost < predicted:
            sentences.append(
                "Theorem 1 keeps X as it is at the start. In training, X changes with W, and its eigenvalues "
                "move towards zero. Near the boundary a direction therefore stops shrinking."
            )
        for ratio in ratios:
            sentences.append(
                f"In the paper's toy the clean directions end {ratio.simulated:.3g} times as strong as the "
                f"augmented ones ({ratio.predicted:.3g} times predicted). The toy uses another loss: there, "
                "noise shrinks a direction but does not take it to zero."
            )
        return tuple(sentences)

    def _remarks(self) -> tuple[str, ...]:
        root = self.temperature**0.5
        return (
            "Theorem 1 is about squared distances, embeddings that are not normalised, and an X that stays "
            f"fixed. Its flow runs here on {SAMPLES} samples, with noise in the second view only.",
            "The toy is the paper's: a loss of inner products, a bias, noise in both views, plain SGD. Its X "
            "is "
            "positive where W is small, so no direction vanishes.",
            "The toy's prediction is derived in this project, for Gaussian views and infinitely many "
            "negatives. "
            f"The clean values end at √T = {root:.3g}, the augmented ones at √T/(1 + noise²) = "
            f"{root / (1 + self.noise**2):.3g}, with T the temperature. With a batch of 128, the clean "
            "values "
            "end higher.",
            f"The ratio in the toy compares the {self._clean} largest singular values with the rest.",
            "If the toy's last value is near zero, the bias is the cause: it takes one output direction for "
            "itself while its squared length is above 2T/(1 + noise²).",
        )
