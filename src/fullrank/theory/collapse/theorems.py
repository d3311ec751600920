"""P1's theorems as demos: strong augmentation, the implicit low-rank bias of two layers, and depth."""

import itertools
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.linalg import svdvals
from pydantic import Field

from fullrank.theory.collapse import infonce_flow, linear_stack
from fullrank.theory.collapse.aligned_modes import divergence_time, fixed_mode_velocity, limit_mode_velocity
from fullrank.theory.collapse.inner_products import inner_driving_matrix, inner_residual, limit_velocity
from fullrank.theory.collapse.toy_training import Schedule, ToyRun, stacked_layers, strong_augmentation
from fullrank.theory.common.flow import Array, Trajectory, integrate
from fullrank.theory.common.theorem import Curve, OnStep, Outcome, Panel, SteppedTheorem, listed

# An eigenvalue of the embedding covariance below this counts as collapsed, as in P1's plots.
COLLAPSED = 1e-3
_SAMPLES = 256

Steps = Annotated[int, Field(ge=1, description="SGD steps of each toy")]
Rate = Annotated[float, Field(gt=0, description="learning rate of SGD")]
Noise = Annotated[float, Field(ge=0, le=10, description="standard deviation of the augmentation's noise")]


class _Toy(SteppedTheorem):
    """The settings that P1's toys share."""

    FULL: ClassVar[dict[str, Any]] = {"steps": 10_000}

    steps: Steps = 2000
    learning_rate: Rate = 1e-2
    noise: Noise = 1e-3
    temperature: float = Field(0.1, ge=1e-3, le=100, description="temperature of the toy's softmax")
    seed: int = Field(0, ge=0, description="seed of data, start and noise")

    @property
    def total_steps(self) -> int:
        """The steps of the toy."""
        return self.steps

    @property
    def _schedule(self) -> Schedule:
        return Schedule(**self.model_dump(include={"steps", "learning_rate", "temperature", "seed"}))


class StrongAugmentation(_Toy):
    """Theorem 1: X of one negative eigenvalue takes a singular value of W to zero; and P1's first toy."""

    learning_rate: Rate = 1e-3
    noise: Noise = 2.0
    width: int = Field(16, ge=1, le=64, description="inputs and outputs of the layer")
    augmented: int = Field(8, ge=0, description="coordinates that the augmentation moves, the last ones")
    time: float = Field(2.0, gt=0, le=50, description="length of the theorem's flow")

    def outcome(self, on_step: OnStep | None = None) -> Outcome:
        """The flow with X held fixed against its closed form, and the toy against its Gaussian limit."""
        sizes = {"width": self.width, "augmented": self.augmented}
        toy = strong_augmentation(self.noise, self._schedule, on_step=on_step, **sizes)
        start, limit, trained = toy.weights[0][0], self._limit(toy), toy.singular_values[0]
        times = np.linspace(0, self.time, 33)
        drive, fixed, moving = self._flows(start, times)
        exact, moved = svdvals(infonce_flow.exact_weights(start, drive, times)), svdvals(moving.weights[0])
        lost = int((moved[-1] < 0.5 * moved[0]).sum())
        distances = Panel("Distances: X fixed and X moving", "time", "singular value of W", log_y=True)
        products = Panel("Toy: inner products, SGD", "step", "singular value of W", log_y=True)
        return Outcome(
            quantity="singular value of W",
            rows=("distances, X fixed", "inner products, SGD"),
            columns=tuple(map(str, range(1, self.width + 1))),
            predicted=np.stack([exact[-1], limit[-1]]),
            simulated=np.stack([svdvals(fixed.last[0]), trained[-1]]),
            verdict=f"X has {infonce_flow.collapse_count(drive, self.width)} negative eigenvalues of "
            f"{self.width}, and under the moving X {lost} singular values fell to less than half; in the toy "
            f"{self._clean_over_augmented(trained[-1], limit[-1])}.",
            panels=(distances, products),
            curves=(
                *_bundle(distances, "X fixed", times, exact, dashed=True),
                *_bundle(distances, "X moving", times, moved),
                *_bundle(products, "Gaussian limit", toy.steps, limit, dashed=True),
                *_bundle(products, "SGD", toy.steps, trained),
            ),
            remarks=self._remarks(),
        )

    def _flows(self, start: Array, times: Array) -> tuple[Array, Trajectory, Trajectory]:
        """X at the start, and the flows while it stays fixed and while it moves."""
        rng = np.random.default_rng(self.seed)
        x = rng.standard_normal((_SAMPLES, self.width))
        views = x.copy()
        views[:, self._clean :] += self.noise * rng.standard_normal((_SAMPLES, self.augmented))
        alpha = infonce_flow.softmax_weights(x @ start.T, views @ start.T)
        # Divided by the number of samples, so that time does not depend on it.
        drive = infonce_flow.driving_matrix(x, views, alpha) / _SAMPLES
        fixed = integrate(linear_stack.fixed_velocity(drive), (start,), times, rtol=1e-8)
        moving = integrate(
            infonce_flow.moving_velocity(x, views), (start,), times / _SAMPLES, rtol=1e-5, atol=1e-9
        )
        return drive, fixed, moving

    def _limit(self, toy: ToyRun) -> Array:
        """The toy's singular values (T, D) under the gradient flow of its Gaussian limit."""
        moment = np.ones(self.width)
        moment[self._clean :] += self.noise**2
        velocity = limit_velocity(np.diag(moment), np.eye(self.width), self.temperature)
        start = (toy.weights[0][0], toy.biases[0])
        flow = integrate(velocity, start, toy.steps * self.learning_rate, rtol=1e-6, atol=1e-9)
        return svdvals(flow.weights[0])

    @property
    def _clean(self) -> int:
        return self.width - self.augmented

    def _clean_over_augmented(self, trained: Array, limit: Array) -> str:
        if not 0 < self._clean < self.width:
            return f"the values end between {trained[-1]:.3g} and {trained[0]:.3g}"
        ratio, predicted = (
            values[: self._clean].mean() / values[self._clean :].mean() for values in (trained, limit)
        )
        return f"the clean values end at {ratio:.3g} times the augmented ones, {predicted:.3g} predicted"

    def _remarks(self) -> tuple[str, ...]:
        root = self.temperature**0.5
        return (
            "Theorem 1 is about squared distances, embeddings that are not normalised and an X that "
            f"stays fixed. Its flow here is on {_SAMPLES} samples with noise in the second view only, where "
            "uniform softmax weights make X negative once the noise's variance is twice that of the data.",
            "The toy is the paper's: inner products, a bias, noise in both views, SGD. Its X is positive "
            "where W is small, so noise shrinks a direction, and does not take it to zero.",
            "The toy's prediction is the gradient flow for Gaussian views and endless negatives, derived "
            f"here: its gains end at sqrt(T) = {root:.3g} and sqrt(T)/(1 + noise^2) = "
            f"{root / (1 + self.noise**2):.3g}; with 128 in a batch the clean ones end higher.",
            f"The {self._clean} largest values are taken for the clean ones, so without noise the two groups "
            "differ only by what sorting does.",
            "A last value near zero in the toy is the bias: it takes an output direction for itself "
            "while its squared length is above 2 T/(1 + noise^2) (derived here).",
        )


class _Stacked(_Toy):
    """The settings of P1's second toy, stacked layers that start with a given spectrum."""

    decay: float = Field(0.35, ge=0, le=1, description="the start's singular values are exp(-decay i)")
    width: int = Field(16, ge=2, le=64, description="inputs and outputs of each layer")

    @property
    def _start(self) -> Array:
        return np.asarray(np.exp(-self.decay * np.arange(self.width)))

    def _run(self, depth: int, network: linear_stack.Network, on_step: OnStep | None) -> ToyRun:
        settings = self.model_dump(include={"width", "decay", "noise"})
        return stacked_layers(depth, self._schedule, network=network, on_step=on_step, **settings)

    def _limit(self, depth: int, steps: Array) -> Array:
        """The aligned singular values (T, K) of each layer at those steps, under the saturating X."""
        ones = np.ones(self.width)
        velocity = limit_mode_velocity((1 + self.noise**2) * ones, ones, self.temperature)
        times = steps * self.learning_rate
        return integrate(velocity, (self._start,) * depth, times, rtol=1e-6, atol=1e-9).weights[0]


class ImplicitRegularization(_Stacked):
    """Theorem 3: two aligned layers grow their large singular values first; and P1's second toy."""

    def outcome(self, on_step: OnStep | None = None) -> Outcome:
        """Theorem 3's law against the two-layer flow with X fixed, and against the toy with X saturating."""
        law, flow, end, simulated_end = self._flows()
        toy = self._run(2, linear_stack.linear, on_step)
        limit, trained, collapsed = self._limit(2, toy.steps), toy.singular_values, toy.collapsed(COLLAPSED)
        balance = linear_stack.relative_imbalance(toy.weights)[:, 0]
        predicted = np.stack([np.sort(values)[::-1] for values in law.last])
        simulated = np.stack([svdvals(matrix) for matrix in flow.last])
        aligned = Panel("Two aligned layers, X fixed", "time", "singular value", log_y=True)
        first = Panel("Toy: two layers, SGD", "step", "singular value of W1", log_y=True)
        balances = Panel("Toy: balance of the layers", "step", "relative imbalance")
        return Outcome(
            quantity="singular value",
            rows=("W1, X fixed", "W2, X fixed", "W1, toy", "W2, toy"),
            columns=tuple(map(str, range(1, self.width + 1))),
            predicted=np.stack([*predicted, limit[-1], limit[-1]]),
            simulated=np.stack([*simulated, *(layer[-1] for layer in trained)]),
            verdict=f"Theorem 3's law and the flow of two aligned layers agree to "
            f"{np.abs(simulated / predicted - 1).max():.1g} of each value; in the toy {collapsed[-1]:.0f} of "
            f"{self.width} dimensions are collapsed after {self.steps} steps, {_collapsed(limit[-1], 2)} "
            f"predicted, {collapsed[0]:.0f} at the start.",
            panels=(aligned, first, balances),
            curves=(
                *_bundle(aligned, "Theorem 3", law.times, law.weights[0], dashed=True),
                *_bundle(aligned, "flow", law.times, svdvals(flow.weights[0])),
                *_bundle(first, "Gaussian limit", toy.steps, limit, dashed=True),
                *_bundle(first, "SGD", toy.steps, trained[0]),
                Curve(balances.title, "SGD", toy.steps, balance),
            ),
            remarks=(
                f"With X fixed the largest value leaves every bound in finite time: at t = {end:.5g} "
                f"predicted, {simulated_end:.5g} in the flow, which is shown up to t = {law.times[-1]:.5g}.",
                "The toy's prediction takes the X of Gaussian views and endless negatives (derived here), "
                "under which values stop growing, for layers aligned and balanced from the start; the toy's "
                "start in random bases is neither.",
                f"The toy's relative imbalance went from {balance[0]:.2f} to {balance[-1]:.2f}; nearly "
                "equal singular values leave their vectors free to turn, so alignment to the identity is not "
                "expected.",
            ),
        )

    def _flows(self) -> tuple[Trajectory, Trajectory, float, float]:
        """Two aligned layers with X fixed: their law, their flow, and when the two leave every bound."""
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
        x = rng.standard_normal((_SAMPLES, self.width))
        x_a, x_b = x + self.noise * rng.standard_normal((2, *x.shape))
        none = np.zeros((_SAMPLES, 1))
        return inner_driving_matrix(x_a, x_b, inner_residual(none, none, self.temperature), self.temperature)


class Depth(_Stacked):
    """More linear layers collapse more dimensions: P1's depth sweep, with and without ReLU between them."""

    steps: Steps = 600
    depth: int = Field(4, ge=1, le=8, description="the deepest stack; all from one layer on are run")

    @property
    def total_steps(self) -> int:
        """The steps of every stack: one layer, and each deeper depth twice."""
        return self.steps * (2 * self.depth - 1)

    def outcome(self, on_step: OnStep | None = None) -> Outcome:
        """Collapsed dimensions at each depth: the law of aligned balanced layers against SGD."""
        depths = range(1, self.depth + 1)
        done = itertools.count(1)

        def counted(_: int) -> None:
            if on_step is not None:
                on_step(next(done))

        stacks = [self._run(depth, linear_stack.linear, counted) for depth in depths]
        # One layer has no place for a ReLU.
        nonlinear = [stacks[0], *(self._run(depth, linear_stack.rectified, counted) for depth in depths[1:])]
        titles = ("Linear stacks", "ReLU between layers")
        predicted = [_collapsed(self._limit(depth, stacks[0].steps)[-1], depth) for depth in depths]
        simulated = np.array([[run.collapsed(COLLAPSED) for run in runs] for runs in (stacks, nonlinear)])
        return Outcome(
            quantity=f"collapsed dimensions of {self.width}",
            rows=("linear", "ReLU between layers"),
            columns=tuple(f"depth {depth}" for depth in depths),
            predicted=np.array([predicted, predicted], np.float64),
            simulated=simulated[..., -1],
            verdict=f"After {self.steps} steps {listed(simulated[0, :, -1])} of {self.width} dimensions are "
            f"collapsed in linear stacks of depth 1 to {self.depth}, {listed(predicted)} predicted; with "
            f"ReLU between the layers {listed(simulated[1, :, -1])}.",
            panels=tuple(
                Panel(title, "index", "eigenvalue of the embedding covariance", log_y=True)
                for title in titles
            ),
            curves=tuple(
                Curve(title, f"depth {depth}", np.arange(1.0, self.width + 1), run.spectra[-1])
                for title, runs in zip(titles, (stacks, nonlinear), strict=True)
                for depth, run in zip(depths, runs, strict=True)
            ),
            remarks=(
                f"At the start {listed(simulated[0, :, 0])} dimensions are collapsed in the linear stacks "
                f"and {listed(simulated[1, :, 0])} with ReLU; collapsed is an eigenvalue of the embedding "
                f"covariance below {COLLAPSED:g}.",
                "The paper says that more layers collapse more; the predicted numbers are derived here, for "
                "layers aligned and balanced from the start, Gaussian views and endless negatives. The toy "
                "starts in random bases.",
                "The theory does not speak of ReLU: its row repeats the linear prediction for comparison.",
            ),
        )


def _collapsed(values: Array, depth: int) -> int:
    return int((values ** (2 * depth) < COLLAPSED).sum())


def _bundle(panel: Panel, name: str, x: Array, values: Array, dashed: bool = False) -> tuple[Curve, ...]:
    # Curves of one name share a line of the key.
    return tuple(Curve(panel.title, name, x, column, dashed=dashed) for column in values.T)
