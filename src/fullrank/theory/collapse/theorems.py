"""P1's theorems as demos: strong augmentation, the implicit low-rank bias of two layers, and depth."""

import itertools
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fullrank.theory.collapse.aligned_modes import (
    divergence_time,
    fixed_mode_velocity,
    limit_mode_velocity,
)
from fullrank.theory.collapse.infonce_flow import (
    collapse_count,
    driving_matrix,
    exact_weights,
    moving_velocity,
    softmax_weights,
)
from fullrank.theory.collapse.inner_products import inner_driving_matrix, inner_residual, limit_velocity
from fullrank.theory.collapse.linear_stack import (
    Network,
    fixed_velocity,
    linear,
    rectified,
    relative_imbalance,
)
from fullrank.theory.collapse.toy_training import (
    OnStep,
    Schedule,
    ToyRun,
    stacked_layers,
    strong_augmentation,
)
from fullrank.theory.common.flow import Array, Weights, integrate
from fullrank.theory.common.theorem import Curve, Outcome, Panel, SteppedTheorem

# An eigenvalue of the embedding covariance below this counts as collapsed, as in P1's plots.
COLLAPSED = 1e-3
_SAMPLES = 256


class StrongAugmentation(SteppedTheorem):
    """Theorem 1: X of one negative eigenvalue takes a singular value of W to zero; and P1's first toy."""

    FULL: ClassVar[dict[str, Any]] = {"steps": 10_000}

    noise: float = Field(2.0, ge=0, le=10, description="standard deviation of the augmentation's noise")
    width: int = Field(16, ge=1, le=64, description="inputs and outputs of the layer")
    augmented: int = Field(8, ge=0, description="coordinates that the augmentation moves, the last ones")
    steps: int = Field(2000, ge=1, description="SGD steps of the toy")
    learning_rate: float = Field(1e-3, gt=0, description="of the toy")
    temperature: float = Field(0.1, ge=1e-3, le=100, description="of the toy's softmax")
    time: float = Field(2.0, gt=0, le=50, description="length of the theorem's flow")
    seed: int = Field(0, ge=0, description="of data, start and noise")

    @property
    def total_steps(self) -> int:
        """The steps of the toy."""
        return self.steps

    def outcome(self, on_step: OnStep | None = None) -> Outcome:
        """The flow with X held fixed against its closed form, and the toy against its Gaussian limit."""
        toy = strong_augmentation(
            self.noise, _schedule(self), width=self.width, augmented=self.augmented, on_step=on_step
        )
        start = toy.weights[0][0]
        x, views = self._samples()
        alpha = softmax_weights(x @ start.T, views @ start.T)
        # Divided by the number of samples, so that time does not depend on it.
        drive = driving_matrix(x, views, alpha) / _SAMPLES
        times = np.linspace(0, self.time, 33)
        exact = _values(exact_weights(start, drive, times))
        fixed = integrate(fixed_velocity(drive), (start,), times, rtol=1e-8)
        moving = integrate(moving_velocity(x, views), (start,), times / _SAMPLES, rtol=1e-5, atol=1e-9)
        limit = self._limit(toy)
        kept = _values(moving.weights[0])
        falling = collapse_count(drive, self.width)
        lost = int((kept[-1] < 0.5 * kept[0]).sum())
        clean = self.width - self.augmented
        final = toy.singular_values[0][-1]
        if 0 < clean < self.width:
            found, expected = (values[:clean].mean() / values[clean:].mean() for values in (final, limit[-1]))
            gap = f"the clean values end at {found:.3g} times the augmented ones, {expected:.3g} predicted"
        else:
            gap = f"the values end between {final[-1]:.3g} and {final[0]:.3g}"
        return Outcome(
            quantity="singular value of W",
            rows=("distances, X fixed", "inner products, SGD"),
            columns=tuple(str(index + 1) for index in range(self.width)),
            predicted=np.stack([exact[-1], limit[-1]]),
            simulated=np.stack([_values(fixed.last[0]), final]),
            verdict=f"X has {falling} negative eigenvalues of {self.width}, and under the moving X {lost} "
            f"singular values fell to less than half; in the toy {gap}.",
            panels=(
                Panel("Distances: X fixed and X moving", "time", "singular value of W", log_y=True),
                Panel("Toy: inner products, SGD", "step", "singular value of W", log_y=True),
            ),
            curves=(
                *_bundle("Distances: X fixed and X moving", "X fixed", times, exact, dashed=True),
                *_bundle("Distances: X fixed and X moving", "X moving", times, kept),
                *_bundle("Toy: inner products, SGD", "Gaussian limit", toy.steps, limit, dashed=True),
                *_bundle("Toy: inner products, SGD", "SGD", toy.steps, toy.singular_values[0]),
            ),
            remarks=(
                "Theorem 1 speaks of squared distances, embeddings that are not normalised and an X that "
                f"stays fixed; its flow here is on {_SAMPLES} samples with noise in the second view only, "
                "where uniform softmax weights make X negative once the noise's variance is twice that "
                "of the data.",
                "The toy is the paper's: inner products, a bias, noise in both views, SGD. Its X is positive "
                "where W is small, so noise shrinks a direction, and does not take it to zero.",
                "The toy's prediction is the gradient flow for Gaussian views and endless negatives, derived "
                f"here: its gains end at sqrt(T) = {self.temperature**0.5:.3g} and sqrt(T)/(1 + noise^2) = "
                f"{self.temperature**0.5 / (1 + self.noise**2):.3g}; with 128 in a batch the clean ones end "
                "higher.",
                f"The {clean} largest values are taken for the clean ones, so without noise the two groups "
                "differ only by what sorting does.",
                "A last value near zero in the toy is the bias: it takes an output direction for itself "
                "while its squared length is above 2 T/(1 + noise^2) (derived here).",
            ),
        )

    def _samples(self) -> tuple[Array, Array]:
        rng = np.random.default_rng(self.seed)
        x = rng.standard_normal((_SAMPLES, self.width))
        views = x.copy()
        views[:, self.width - self.augmented :] += self.noise * rng.standard_normal(
            (_SAMPLES, self.augmented)
        )
        return x, views

    def _limit(self, toy: ToyRun) -> Array:
        moment = np.ones(self.width)
        moment[self.width - self.augmented :] += self.noise**2
        velocity = limit_velocity(np.diag(moment), np.eye(self.width), self.temperature)
        start = (toy.weights[0][0], toy.biases[0])
        flow = integrate(velocity, start, toy.steps * self.learning_rate, rtol=1e-6, atol=1e-9)
        return _values(flow.weights[0])


class _Stacked(SteppedTheorem):
    """The settings of P1's second toy, stacked layers that start with a given spectrum."""

    FULL: ClassVar[dict[str, Any]] = {"steps": 10_000}

    learning_rate: float = Field(1e-2, gt=0, description="of SGD")
    decay: float = Field(0.35, ge=0, le=1, description="the start's singular values are exp(-decay i)")
    noise: float = Field(1e-3, ge=0, le=10, description="standard deviation of the augmentation's noise")
    width: int = Field(16, ge=2, le=64, description="inputs and outputs of each layer")
    temperature: float = Field(0.1, ge=1e-3, le=100, description="of the softmax")
    seed: int = Field(0, ge=0, description="of data, start and noise")


class ImplicitRegularization(_Stacked):
    """Theorem 3: two aligned layers grow their large singular values first; and P1's second toy."""

    steps: int = Field(2000, ge=1, description="SGD steps of the toy")

    @property
    def total_steps(self) -> int:
        """The steps of the toy."""
        return self.steps

    def outcome(self, on_step: OnStep | None = None) -> Outcome:
        """Theorem 3's law against the two-layer flow with X fixed, and against the toy with X saturating."""
        start = np.exp(-self.decay * np.arange(self.width))
        drive = self._drive()
        gains, vectors = np.linalg.eigh(drive)
        end = divergence_time(start, gains, 2)
        times = np.linspace(0, 0.9 * end, 33)
        law = integrate(fixed_mode_velocity(gains), (start, start), times)
        turn = np.linalg.qr(np.random.default_rng(self.seed).standard_normal((2, self.width, self.width)))[0]
        aligned = (turn[0] * start @ vectors.T, turn[1] * start @ turn[0].T)
        flow = integrate(fixed_velocity(drive), aligned, times)
        blow_up = integrate(fixed_velocity(drive), aligned, [0.0, 2 * end], rtol=1e-8).diverged_at or np.inf
        toy = stacked_layers(
            2, _schedule(self), width=self.width, decay=self.decay, noise=self.noise, on_step=on_step
        )
        limit = _limit_values(self, start, 2, toy.steps)
        collapsed, before = int(toy.collapsed(COLLAPSED)[-1]), int(toy.collapsed(COLLAPSED)[0])
        balance = relative_imbalance(toy.weights)[:, 0]
        error = max(
            float(np.abs(_values(matrix) / np.sort(values)[::-1] - 1).max())
            for matrix, values in zip(flow.last, law.last, strict=True)
        )
        return Outcome(
            quantity="singular value",
            rows=("W1, X fixed", "W2, X fixed", "W1, toy", "W2, toy"),
            columns=tuple(str(index + 1) for index in range(self.width)),
            predicted=np.stack([*(np.sort(values)[::-1] for values in law.last), limit[-1], limit[-1]]),
            simulated=np.stack(
                [*(_values(matrix) for matrix in flow.last), *(layer[-1] for layer in toy.singular_values)]
            ),
            verdict=f"Theorem 3's law and the flow of two aligned layers agree to {error:.1g} of each value; "
            f"in the toy {collapsed} of {self.width} dimensions are collapsed after {self.steps} steps, "
            f"{_collapsed(limit[-1], 2)} predicted, {before} at the start.",
            panels=(
                Panel("Two aligned layers, X fixed", "time", "singular value", log_y=True),
                Panel("Toy: two layers, SGD", "step", "singular value of W1", log_y=True),
                Panel("Toy: balance of the layers", "step", "relative imbalance"),
            ),
            curves=(
                *_bundle("Two aligned layers, X fixed", "Theorem 3", times, law.weights[0], dashed=True),
                *_bundle("Two aligned layers, X fixed", "flow", times, _values(flow.weights[0])),
                *_bundle("Toy: two layers, SGD", "Gaussian limit", toy.steps, limit, dashed=True),
                *_bundle("Toy: two layers, SGD", "SGD", toy.steps, toy.singular_values[0]),
                Curve("Toy: balance of the layers", "SGD", toy.steps, balance),
            ),
            remarks=(
                f"With X fixed the largest value leaves every bound in finite time: at t = {end:.5g} "
                f"predicted, {blow_up:.5g} in the flow, which is shown up to t = {times[-1]:.5g}.",
                "The toy's prediction takes the X of Gaussian views and endless negatives (derived here), "
                "under which values stop growing, for layers aligned and balanced from the start; the toy's "
                "start in random bases is neither.",
                f"The toy's relative imbalance went from {balance[0]:.2f} to {balance[-1]:.2f}; nearly "
                "equal singular values leave their vectors free to turn, so alignment to the identity is not "
                "expected.",
            ),
        )

    def _drive(self) -> Array:
        rng = np.random.default_rng(self.seed)
        x = rng.standard_normal((_SAMPLES, self.width))
        x_a, x_b = x + self.noise * rng.standard_normal((2, *x.shape))
        none = np.zeros((_SAMPLES, 1))
        return inner_driving_matrix(x_a, x_b, inner_residual(none, none, self.temperature), self.temperature)


class Depth(_Stacked):
    """More linear layers collapse more dimensions: P1's depth sweep, with and without ReLU between them."""

    depth: int = Field(4, ge=1, le=8, description="the deepest stack; all from one layer on are run")
    steps: int = Field(600, ge=1, description="SGD steps of each stack")

    @property
    def total_steps(self) -> int:
        """The steps of every stack: one layer, and each deeper depth twice."""
        return self.steps * (2 * self.depth - 1)

    def outcome(self, on_step: OnStep | None = None) -> Outcome:
        """Collapsed dimensions at each depth: the law of aligned balanced layers against SGD."""
        start = np.exp(-self.decay * np.arange(self.width))
        depths = range(1, self.depth + 1)
        done = itertools.count()

        def counted(_: int) -> None:
            if on_step is not None:
                on_step(next(done) + 1)

        stacks = [self._run(depth, linear, counted) for depth in depths]
        # One layer has no place for a ReLU.
        nonlinear = [stacks[0], *(self._run(depth, rectified, counted) for depth in depths[1:])]
        predicted = [
            _collapsed(_limit_values(self, start, depth, run.steps)[-1], depth)
            for depth, run in zip(depths, stacks, strict=True)
        ]
        found = [[float(run.collapsed(COLLAPSED)[-1]) for run in runs] for runs in (stacks, nonlinear)]
        before = [[int(run.collapsed(COLLAPSED)[0]) for run in runs] for runs in (stacks, nonlinear)]
        return Outcome(
            quantity=f"collapsed dimensions of {self.width}",
            rows=("linear", "ReLU between layers"),
            columns=tuple(f"depth {depth}" for depth in depths),
            predicted=np.array([predicted, predicted], np.float64),
            simulated=np.array(found),
            verdict=f"After {self.steps} steps {_listed(found[0])} of {self.width} dimensions are collapsed "
            f"in linear stacks of depth 1 to {self.depth}, {_listed(predicted)} predicted; with ReLU between "
            f"the layers {_listed(found[1])}.",
            panels=(
                Panel("Linear stacks", "index", "eigenvalue of the embedding covariance", log_y=True),
                Panel("ReLU between layers", "index", "eigenvalue of the embedding covariance", log_y=True),
            ),
            curves=tuple(
                Curve(panel, f"depth {depth}", np.arange(1.0, self.width + 1), run.spectra[-1])
                for panel, runs in (("Linear stacks", stacks), ("ReLU between layers", nonlinear))
                for depth, run in zip(depths, runs, strict=True)
            ),
            remarks=(
                f"At the start {_listed(before[0])} dimensions are collapsed in the linear stacks and "
                f"{_listed(before[1])} with ReLU; collapsed is an eigenvalue of the embedding covariance "
                f"below {COLLAPSED:g}.",
                "The paper says that more layers collapse more; the predicted numbers are derived here, for "
                "layers aligned and balanced from the start, Gaussian views and endless negatives. The toy "
                "starts in random bases.",
                "The theory does not speak of ReLU: its row repeats the linear prediction for comparison.",
            ),
        )

    def _run(self, depth: int, network: Network, on_step: OnStep) -> ToyRun:
        return stacked_layers(
            depth,
            _schedule(self),
            network=network,
            width=self.width,
            decay=self.decay,
            noise=self.noise,
            on_step=on_step,
        )


def _schedule(settings: StrongAugmentation | ImplicitRegularization | Depth) -> Schedule:
    return Schedule(
        learning_rate=settings.learning_rate,
        steps=settings.steps,
        temperature=settings.temperature,
        seed=settings.seed,
    )


def _limit_values(settings: _Stacked, start: Array, depth: int, steps: Array) -> Array:
    """The aligned singular values (T, K) of each layer at those steps, under the saturating X."""
    moment = np.full(len(start), 1 + settings.noise**2)
    velocity = limit_mode_velocity(moment, np.ones(len(start)), settings.temperature)
    balanced: Weights = (start,) * depth
    flow = integrate(velocity, balanced, steps * settings.learning_rate, rtol=1e-6, atol=1e-9)
    return flow.weights[0]


def _collapsed(values: Array, depth: int) -> int:
    return int((values ** (2 * depth) < COLLAPSED).sum())


def _values(matrices: Array) -> Array:
    return np.asarray(np.linalg.svd(matrices, compute_uv=False))


def _bundle(panel: str, name: str, x: Array, values: Array, dashed: bool = False) -> tuple[Curve, ...]:
    # Curves of one name share a line of the key.
    return tuple(Curve(panel, name, x, column, dashed) for column in values.T)


def _listed(numbers: list[float] | list[int]) -> str:
    return ", ".join(f"{number:.0f}" for number in numbers)
