"""P1's stacked layers as demos: the implicit low-rank bias of two layers, and the effect of depth."""

import itertools
from typing import Any, ClassVar

import numpy as np
from numpy.linalg import svdvals
from pydantic import Field

from fullrank.theory.collapse import linear_stack
from fullrank.theory.collapse.aligned_modes import divergence_time, fixed_mode_velocity, limit_mode_velocity
from fullrank.theory.collapse.inner_products import inner_driving_matrix, inner_residual
from fullrank.theory.collapse.statements import DEPTH, IMPLICIT_REGULARIZATION
from fullrank.theory.collapse.toy_theorem import SAMPLES, Steps, ToyTheorem, bundle
from fullrank.theory.collapse.toy_training import ToyRun, collapsed_dimensions, stacked_layers
from fullrank.theory.common.flow import Array, Trajectory, integrate
from fullrank.theory.common.theorem import (
    START_AND_END,
    Curve,
    OnStep,
    Outcome,
    Panel,
    Statement,
    listed,
    measure,
)

COLLAPSED = 1e-3
_COUNTED = (
    f"A dimension counts as collapsed if its eigenvalue of the embedding covariance is below {COLLAPSED:g} "
    "times "
    "the largest one."
)
_SPECTRUM = "eigenvalue relative to the largest"
_ENDS_NOTE = "Dotted: the start. Solid: the end."
_COUNTS = Panel(
    "Collapsed dimensions during training",
    "step",
    "collapsed dimensions",
    note="Dashed: predicted for aligned layers and Gaussian data. Solid: SGD.",
)
_RECTIFIED = Panel("With a ReLU between the layers", "index", _SPECTRUM, log_y=True, note=_ENDS_NOTE)


class _Stacked(ToyTheorem):
    """The settings of P1's second toy, stacked layers that start with a given spectrum."""

    FULL: ClassVar[dict[str, Any]] = {"steps": 10_000, "decay": 0.35, "scale": 1.0}

    decay: float = Field(0.1, ge=0, le=1, description="singular values start as scale * exp(-decay i)")
    scale: float = Field(0.1, gt=0, le=10, description="largest singular value of each layer at the start")
    width: int = Field(16, ge=2, le=64, description="number of inputs and of outputs of each layer")

    @property
    def _start(self) -> Array:
        return np.asarray(self.scale * np.exp(-self.decay * np.arange(self.width)))

    @property
    def _index(self) -> Array:
        return np.arange(1.0, self.width + 1)

    def _run(self, depth: int, network: linear_stack.Network, on_step: OnStep | None) -> ToyRun:
        settings = self.model_dump(include={"width", "decay", "scale", "noise"})
        return stacked_layers(depth, self._schedule, network=network, on_step=on_step, **settings)

    def _limit(self, depth: int, steps: Array) -> Array:
        """The aligned singular values (T, K) of each layer at those steps, under the saturating X."""
        ones = np.ones(self.width)
        velocity = limit_mode_velocity((1 + self.noise**2) * ones, ones, self.temperature)
        times = steps * self.learning_rate
        return integrate(velocity, (self._start,) * depth, times, rtol=1e-6, atol=1e-9).weights[0]

    def _low_rank_start(self, counts: str) -> tuple[str, ...]:
        """Why a start has collapsed dimensions already."""
        return (
            f"The start itself is low-rank ({counts} collapsed): its singular values fall as "
            f"exp(-{self.decay:g} i), and those of the layers multiply. A smaller --decay starts with all "
            "dimensions alive.",
        )


_COME_BACK = (
    "Dimensions come back because growth ends. The loss has a minimum at which all directions are equally "
    "strong. "
    "The large values reach it first and stop; the small ones catch up later. So this collapse depends on "
    "when "
    "training stops: with more --steps more dimensions come back, and each further layer delays it."
)


class ImplicitRegularization(_Stacked):
    """Theorem 3: two aligned layers grow their large singular values first; and P1's second toy."""

    STATEMENT: ClassVar[Statement] = IMPLICIT_REGULARIZATION

    steps: Steps = 1000

    def outcome(self, on_step: OnStep | None = None) -> Outcome:
        """Theorem 3's law against the two-layer flow with X fixed, and against the toy with X saturating."""
        law, flow, end, simulated_end = self._flows()
        toy = self._run(2, linear_stack.linear, on_step)
        limit, trained = self._limit(2, toy.steps), toy.singular_values
        predicted = np.stack([np.sort(values)[::-1] for values in law.last])
        simulated = np.stack([svdvals(matrix) for matrix in flow.last])
        spectra = svdvals(linear_stack.product(flow.weights)) ** 2
        law_counts = collapsed_dimensions(np.sort((law.weights[0] * law.weights[1]) ** 2)[:, ::-1], COLLAPSED)
        counts = (collapsed_dimensions(limit**4, COLLAPSED), toy.collapsed(COLLAPSED))
        return Outcome(
            quantity="singular value at the end",
            rows=("W1, X fixed", "W2, X fixed", "W1, toy", "W2, toy"),
            columns=tuple(map(str, range(1, self.width + 1))),
            predicted=np.stack([*predicted, limit[-1], limit[-1]]),
            simulated=np.stack([*simulated, *(layer[-1] for layer in trained)]),
            verdict=self._verdict(law_counts, counts[1], toy.steps),
            panels=self._panels(),
            curves=(
                *_start_and_end(START_AND_END, "Theorem 3's flow", self._index, spectra),
                *_start_and_end(START_AND_END, "toy", self._index, toy.spectra),
                *bundle(self._panels()[1], "singular values", law.times, law.weights[0], dashed=True),
                *bundle(self._panels()[1], "singular values", law.times, svdvals(flow.weights[0])),
                Curve(_COUNTS.title, "two layers", toy.steps, counts[0], dashed=True),
                Curve(_COUNTS.title, "two layers", toy.steps, counts[1]),
                *bundle(self._panels()[3], "singular values", toy.steps, limit, dashed=True),
                *bundle(self._panels()[3], "singular values", toy.steps, trained[0]),
            ),
            explanation=self._explanation(law_counts, counts[1]),
            remarks=self._remarks(toy, end, simulated_end, law.times[-1]),
            measures=(
                measure(
                    "collapsed dimensions, Theorem 3",
                    law_counts[-1],
                    float(collapsed_dimensions(spectra[-1], COLLAPSED)),
                ),
                measure("collapsed dimensions, toy", counts[0][-1], counts[1][-1]),
                measure("most collapsed dimensions during the toy", counts[0].max(), counts[1].max()),
            ),
        )

    @staticmethod
    def _panels() -> tuple[Panel, ...]:
        law = "Dashed: Theorem 3's law. Solid: the full flow of both layers."
        return (
            Panel(START_AND_END, "index", _SPECTRUM, log_y=True, note=_ENDS_NOTE),
            Panel("Theorem 3 over time, X fixed", "time", "singular value of W1", log_y=True, note=law),
            _COUNTS,
            Panel(
                "The paper's toy, trained by SGD", "step", "singular value of W1", False, True, _COUNTS.note
            ),
        )

    def _flows(self) -> tuple[Trajectory, Trajectory, float, float]:
        """Two aligned layers with X fixed: their law, their flow, and the time at which each diverges."""
        start, drive = self._start, self._drive()
        gains, vectors = np.linalg.eigh(drive)
        end = divergence_time(start, gains, 2)
        times = np.linspace(0, 0.9 * end, 33)
        turn = np.linalg.qr(np.random.default_rng(self.seed).standard_normal((2, self.width, self.width)))[0]
        aligned = (turn[0] * start @ vectors.T, turn[1] * start @ turn[0].T)
        velocity = linear_stack.fixed_velocity(drive)
        law = integrate(fixed_mode_velocity(gains), (start, start), times)
        unbounded = integrate(velocity, aligned, [0.0, 2 * end], rtol=1e-8)
        return law, integrate(velocity, aligned, times), end, unbounded.diverged_at or np.inf

    def _drive(self) -> Array:
        rng = np.random.default_rng(self.seed)
        x = rng.standard_normal((SAMPLES, self.width))
        x_a, x_b = x + self.noise * rng.standard_normal((2, *x.shape))
        none = np.zeros((SAMPLES, 1))
        return inner_driving_matrix(x_a, x_b, inner_residual(none, none, self.temperature), self.temperature)

    def _verdict(self, law: Array, toy: Array, steps: Array) -> str:
        most = int(toy.argmax())
        peak = (
            f"up to {toy[most]:.0f} collapse in the toy (step {steps[most]:.0f}), and {toy[-1]:.0f}"
            if 0 < most < len(toy) - 1
            else f"{toy[-1]:.0f} in the toy"
        )
        return (
            f"Of {self.width} dimensions, {law[0]:.0f} are collapsed at the start and {law[-1]:.0f} after "
            f"Theorem 3's flow; {peak} are collapsed after {self.steps} steps."
        )

    def _explanation(self, law: Array, toy: Array) -> tuple[str, ...]:
        return (
            _COUNTED,
            "Theorem 3 keeps X fixed. The largest singular value then runs away from the small ones, so the "
            f"number of collapsed dimensions changes from {law[0]:.0f} to {law[-1]:.0f}, without any "
            "augmentation.",
            *((_COME_BACK,) if toy[-1] < toy.max() else ()),
            *(self._low_rank_start(f"{toy[0]:.0f} of {self.width}") if toy[0] else ()),
        )

    def _remarks(self, toy: ToyRun, end: float, simulated: float, shown: float) -> tuple[str, ...]:
        balance = linear_stack.relative_imbalance(toy.weights)[:, 0]
        return (
            "With X fixed, the largest value grows without bound in finite time: at t = "
            f"{end:.5g} predicted, {simulated:.5g} in the flow. The figure ends at t = {shown:.5g}.",
            "The toy's prediction is derived in this project: Gaussian views, infinitely many negatives, and "
            "layers that are aligned and balanced from the start. The toy starts in random bases.",
            "The default start is small and nearly flat, so that the effect can be seen to arise. --full "
            "takes "
            "the paper's start: scale 1 and decay 0.35, with 10,000 steps.",
            f"The relative imbalance of the toy's layers changed from {balance[0]:.2f} to {balance[-1]:.2f}. "
            "Nearly equal singular values leave their vectors free to turn, so the layers need not align.",
        )


class Depth(_Stacked):
    """More linear layers collapse more dimensions: P1's depth sweep, with and without ReLU between them."""

    STATEMENT: ClassVar[Statement] = DEPTH

    steps: Steps = 800
    decay: float = Field(0.055, ge=0, le=1, description="singular values start as scale * exp(-decay i)")
    scale: float = Field(0.35, gt=0, le=10, description="largest singular value of each layer at the start")
    depth: int = Field(
        4, ge=1, le=8, description="number of layers of the deepest stack; all below are run too"
    )

    @property
    def total_steps(self) -> int:
        """The steps of every stack: one layer, and each deeper depth twice."""
        return self.steps * (2 * self.depth - 1)

    def outcome(self, on_step: OnStep | None = None) -> Outcome:
        """Collapsed dimensions at each depth: the law of aligned balanced layers against SGD."""
        depths = range(1, self.depth + 1)
        names = tuple(f"{depth} layer{'s' * (depth > 1)}" for depth in depths)
        done = itertools.count(1)

        def counted(_: int) -> None:
            if on_step is not None:
                on_step(next(done))

        stacks = [self._run(depth, linear_stack.linear, counted) for depth in depths]
        # One layer has no place for a ReLU.
        nonlinear = [stacks[0], *(self._run(depth, linear_stack.rectified, counted) for depth in depths[1:])]
        steps = stacks[0].steps
        limits = [
            collapsed_dimensions(self._limit(depth, steps) ** (2 * depth), COLLAPSED) for depth in depths
        ]
        predicted = np.array([counts[-1] for counts in limits])
        simulated = np.array([[run.collapsed(COLLAPSED) for run in runs] for runs in (stacks, nonlinear)])
        ends = Panel(START_AND_END, "index", _SPECTRUM, log_y=True, note=_ENDS_NOTE)
        return Outcome(
            quantity=f"collapsed dimensions of {self.width} at the end",
            rows=("linear", "ReLU between layers"),
            columns=names,
            predicted=np.array([predicted, predicted]),
            simulated=simulated[..., -1],
            verdict=f"After {self.steps} steps, {listed(simulated[0, :, -1])} of {self.width} dimensions are "
            f"collapsed with {listed(depths)} linear layers; {listed(predicted)} are predicted, and "
            f"{listed(simulated[0, :, 0])} were collapsed at the start.",
            panels=(ends, _COUNTS) + ((_RECTIFIED,) if self.depth > 1 else ()),
            curves=(
                *_spectra(START_AND_END, names, stacks),
                *(Curve(_COUNTS.title, *pair, dashed=True) for pair in _lines(names, steps, limits)),
                *(Curve(_COUNTS.title, *pair) for pair in _lines(names, steps, simulated[0])),
                *(_spectra(_RECTIFIED.title, names[1:], nonlinear[1:])),
            ),
            explanation=self._explanation(simulated, names, [*stacks, *nonlinear[1:]]),
            remarks=(
                "The paper reports that more layers collapse more. The predicted numbers are derived in this "
                "project, for layers that are aligned and balanced from the start, Gaussian views and "
                "infinitely "
                "many negatives. The toy starts in random bases.",
                "The default start is small and nearly flat, so that the effect can be seen to arise. --full "
                "takes the paper's start: scale 1 and decay 0.35, with 10,000 steps.",
                "The theory says nothing about ReLU. Its row repeats the linear prediction for comparison.",
            ),
            measures=tuple(
                measure(f"collapsed dimensions, {name}", *pair)
                for name, *pair in zip(names, predicted, simulated[0, :, -1], strict=True)
            ),
        )

    def _explanation(self, counts: Array, names: tuple[str, ...], runs: list[ToyRun]) -> tuple[str, ...]:
        start, end, most = counts[0, :, 0], counts[0, :, -1], counts[0].max(axis=1)
        # At chance the loss is the logarithm of the batch: such a stack has not begun to learn.
        chance = 0.9 * np.log(self._schedule.batch)
        labels = [*names, *(f"{name} with ReLU" for name in names[1:])]
        waiting = [label for label, run in zip(labels, runs, strict=True) if run.losses[-1] > chance]
        return (
            _COUNTED,
            "One layer grows all its values at the same rate, so none is left behind. In deeper stacks the "
            "large "
            f"values reach their final size first; at that time the small ones are still small. With ReLU, "
            f"{listed(counts[1, :, -1])} dimensions are collapsed at the end.",
            *((_COME_BACK,) if (end < most).any() else ()),
            *(self._low_rank_start(f"{listed(start)} of {self.width}") if start.any() else ()),
            *(
                (
                    f"After {self.steps} steps, the loss is still near its value at chance with "
                    f"{' and '.join(waiting)}: these stacks have hardly begun to learn. Take more --steps.",
                )
                if waiting
                else ()
            ),
        )


def _start_and_end(panel: str, name: str, index: Array, spectra: Array) -> list[Curve]:
    """The first and the last of spectra (T, D), each divided by its largest eigenvalue."""
    first, last = (values / values.max() for values in (spectra[0], spectra[-1]))
    return [Curve(panel, name, index, first, dotted=True), Curve(panel, name, index, last)]


def _spectra(panel: str, names: tuple[str, ...], runs: list[ToyRun]) -> list[Curve]:
    pairs = zip(names, runs, strict=True)
    index = np.arange(1.0, runs[0].spectra.shape[1] + 1) if runs else np.zeros(0)
    return [curve for name, run in pairs for curve in _start_and_end(panel, name, index, run.spectra)]


def _lines(names: tuple[str, ...], x: Array, lines: Any) -> list[tuple[str, Array, Array]]:
    return [(name, x, line) for name, line in zip(names, lines, strict=True)]
