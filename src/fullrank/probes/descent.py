"""Solvers of penalised logistic regression: L-BFGS and Newton's method, several fits in one pass."""

import math
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fullrank.probes.design import Design

_MAX_ITERATIONS = 3000
# Iterations with one whitening. The first one, with equal class probabilities in every row, ends sooner.
_FIRST_STAGE, _STAGE = 8, 50
# Newton's method takes over after _PATIENCE iterations if there are at most _EXACT coefficients. The Hessian
# vanishes in directions in which the loss is linear, so a part of the gradient is added to it.
_EXACT, _PATIENCE, _DAMPING = 1024, 200, 0.001
# Steps that L-BFGS remembers.
_HISTORY = 10
# A line search ends when the slope is this part of the first slope, or after this number of trials.
_FLATTER, _TRIALS = 0.9, 30
# Largest rounding error of a loss, relative to it, by the precision of a pass.
_ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-7}
# Size of a block of the channels; it stays in a CPU's cache between the two products.
_CACHED = 2**20
# The whitening is computed from this many rows, or from this many for each channel if that is more.
_WHITENING_ROWS, _ROWS_PER_CHANNEL = 4096, 8
# Most numbers in memory at once, 128 MiB: the logits of a pass (penalties x classes x rows), and the
# coefficients of all descents together with the steps that they remember.
_LOGITS = 2**24
MOST_COEFFICIENTS = _LOGITS // (2 * _HISTORY)
# Added only to the whitening matrix, so that it factors for every penalty; the optimum does not change.
_FLOOR = 1e-12


@dataclass(frozen=True)
class Point:
    """Coefficients C (K, R + 1), the loss there, and its gradient."""

    coefficients: Tensor
    loss: float
    gradient: Tensor


@dataclass(frozen=True)
class Problem:
    """The penalised loss of coefficients C (K, R + 1) on a design, its gradient and its Hessian."""

    design: Design
    targets: Tensor
    # The precision of the products with the rows; all else is float64.
    precision: torch.dtype = torch.float64

    def at(self, coefficients: Sequence[Tensor], penalties: Sequence[float]) -> list[Point]:
        """The points at P sets of coefficients (K, R + 1), each with its own penalty, from one pass."""
        stacked, channels = torch.stack(list(coefficients)), self.design.channels
        count, classes, _ = stacked.shape
        flat, rows = stacked.flatten(0, 1), channels.shape[1]
        losses, gradients = stacked.new_zeros(count), torch.zeros_like(flat)
        rounded = flat.to(self.precision)
        step = max(1, _LOGITS // len(flat))
        if channels.device.type == "cpu":
            step = max(1, min(step, _CACHED // len(channels)))
        for start in range(0, rows, step):
            some = channels[:, start : start + step].to(self.precision)
            targets = self.targets[start : start + step].expand(count, 1, -1)
            log_odds = (rounded @ some).view(count, classes, -1).log_softmax(1)
            losses -= log_odds.gather(1, targets).sum((1, 2), dtype=torch.float64)
            residual = log_odds.exp_().scatter_add_(1, targets, some.new_full(targets.shape, -1.0))
            gradients += residual.flatten(0, 1) @ some.T
        gradients = gradients.div_(rows).view(stacked.shape)
        ridge, inner = stacked.new_tensor(list(penalties)), stacked[..., :-1]
        gradients[..., :-1] += ridge[:, None, None] * inner
        losses = losses / rows + ridge / 2 * inner.square().sum((1, 2))
        return [Point(*point) for point in zip(coefficients, losses.tolist(), gradients, strict=True)]

    def largest(self, gradient: Tensor) -> float:
        """The largest entry of a gradient (K, R + 1), over the D channels and the bias."""
        inner = self.design.spread(gradient[:, :-1])
        return float(torch.maximum(inner.abs().max(), gradient[:, -1].abs().max()))

    def mean_hessian(self, coefficients: Tensor, penalty: float) -> Tensor:
        """The Hessian's diagonal blocks averaged over the K classes, (R + 1, R + 1)."""
        # For many rows a fixed sample; the end of a descent does not depend on it.
        some = self._sample
        if coefficients.any():
            odds = (coefficients @ some).softmax(0)
            curvature = (1 - odds.square().sum(0)) / len(odds)
            hessian = (some * curvature) @ some.T / some.shape[1]
            hessian.diagonal().add_(self._missed, alpha=float(curvature.mean()))
        else:  # all classes are equally likely in every row, whatever the penalty is
            hessian = self._second_moment * ((1 - 1 / len(coefficients)) / len(coefficients))
        hessian.diagonal()[:-1] += penalty
        hessian.diagonal().add_(_FLOOR)
        return hessian

    def hessian(self, point: Point, penalty: float) -> Tensor:
        """The Hessian itself, (K (R + 1), K (R + 1)), with a slightly larger diagonal."""
        channels = self.design.channels
        classes, width = point.coefficients.shape
        hessian = point.coefficients.new_zeros(classes * width, classes * width)
        blocks = hessian.view(classes, width, classes, width)
        step = max(1, _LOGITS // len(hessian))
        for start in range(0, channels.shape[1], step):
            some = channels[:, start : start + step].double()
            weighted = (point.coefficients @ some).softmax(0)[:, None] * some
            flat = weighted.flatten(0, 1)
            hessian -= flat @ flat.T
            for number in range(classes):
                blocks[number, :, number] += weighted[number] @ some.T
        hessian /= channels.shape[1]
        ridge = hessian.new_full((classes, width), penalty)
        ridge[:, -1] = 0.0
        hessian.diagonal().add_(ridge.flatten() + (_DAMPING * self.largest(point.gradient) + _FLOOR))
        # A constant added to every bias does not change the loss, so the matrix alone has no inverse.
        blocks[:, -1, :, -1] += 1 / classes
        return hessian

    @cached_property
    def _sample(self) -> Tensor:
        channels, rows = self.design.channels, self.design.channels.shape[1]
        wanted = max(_WHITENING_ROWS, _ROWS_PER_CHANNEL * len(channels))
        if rows <= wanted:
            return channels.double()
        # A random sample, because the rows may be sorted by class.
        sample = torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:wanted].sort().values
        return channels[:, sample.to(channels.device)].double()

    @cached_property
    def _missed(self) -> Tensor:
        """The part of the channels' mean squares that the sample misses: of rarely nonzero channels."""
        both = (self.design.channels, self._sample)
        of_all, of_sample = (some.norm(dim=1).double().square() / some.shape[1] for some in both)
        return torch.clamp(of_all - of_sample, min=0)

    @cached_property
    def _second_moment(self) -> Tensor:
        moment = self._sample @ self._sample.T / self._sample.shape[1]
        moment.diagonal().add_(self._missed)
        return moment


@dataclass(frozen=True)
class Reached:
    """The end of a descent: coefficients (K, R + 1), largest entry of the gradient, iterations."""

    coefficients: Tensor
    gradient: float
    iterations: int


# Yields coefficients, receives the point there, and returns the end of the descent.
Descent = Generator[Tensor, Point, Reached]


def descend(
    problem: Problem, penalty: float, tol: float, start: Reached, reached: dict[float, Tensor]
) -> Descent:
    """Find the solution for one penalty, from `start`; `reached` has the solutions found so far."""
    point, iterations, rounding = (yield start.coefficients), 0, _ROUNDING[problem.precision]
    gradient, nearest = problem.largest(point.gradient), math.inf
    while gradient > tol and iterations < _MAX_ITERATIONS:
        loss, before = point.loss, gradient
        if iterations >= _PATIENCE and start.coefficients.numel() <= _EXACT:
            curvature, steps = _Curvature(problem.hessian(point, penalty)), 1
        else:
            curvature = _Curvature(problem.mean_hessian(point.coefficients, penalty))
            steps = _STAGE if point.coefficients.any() else _FIRST_STAGE
        for _ in range(steps):
            better = yield from _search(point, curvature.descent(point.gradient), rounding)
            if better is None:
                break
            curvature.add(better.coefficients - point.coefficients, better.gradient - point.gradient)
            point, iterations, gradient = better, iterations + 1, problem.largest(better.gradient)
            if gradient <= tol:
                break
        larger = min((each for each in reached if each > penalty), default=math.inf)
        if gradient > tol and larger < nearest:
            nearest, other = larger, (yield reached[larger])
            if other.loss < point.loss:
                point, gradient = other, problem.largest(other.gradient)
                continue
        if gradient >= before and point.loss >= loss * (1 - rounding):
            break  # The search is within rounding: this precision allows no further gain.
    reached[penalty] = point.coefficients
    return Reached(point.coefficients, gradient, start.iterations + iterations)


def run_together(problem: Problem, penalties: Sequence[float], descents: Sequence[Descent]) -> list[Reached]:
    """Run descents together: the points that they need are computed in one pass each round."""
    solved: dict[int, Reached] = {}
    requests = {number: next(descent) for number, descent in enumerate(descents)}
    while requests:
        points = problem.at(list(requests.values()), [penalties[number] for number in requests])
        for number, point in zip(list(requests), points, strict=True):
            try:
                requests[number] = descents[number].send(point)
            except StopIteration as end:
                solved[number] = end.value
                del requests[number]
    return [solved[number] for number in range(len(descents))]


class _Curvature:
    """L-BFGS's estimate of the Hessian: the Hessian at the start, corrected by the latest steps.

    Source: Nocedal & Wright, Numerical Optimization (2006), Algorithm 7.4.
    """

    def __init__(self, hessian: Tensor):
        self._whitener: Tensor = torch.linalg.cholesky(hessian)
        self._scale = 1.0
        self._pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=_HISTORY)

    def add(self, step: Tensor, change: Tensor) -> None:
        """Add the change of the gradient over a step; skip it if rounding leaves no positive curvature."""
        curvature = _product(step, change)
        if curvature > 0:
            self._pairs.append((step, change, curvature))
            self._scale = curvature / _product(change, self._solve(change))

    def descent(self, gradient: Tensor) -> Tensor:
        """The quasi-Newton direction (K, R + 1), minus the inverse Hessian times the gradient."""
        rest, shares = gradient, []
        for step, change, curvature in reversed(self._pairs):
            shares.append(_product(step, rest) / curvature)
            rest = rest - shares[-1] * change
        direction = -self._scale * self._solve(rest)
        for (step, change, curvature), share in zip(self._pairs, reversed(shares), strict=True):
            direction = direction - (share + _product(change, direction) / curvature) * step
        return direction

    def _solve(self, gradient: Tensor) -> Tensor:
        if len(self._whitener) == gradient.numel():
            return torch.cholesky_solve(gradient.reshape(-1, 1), self._whitener).view_as(gradient)
        return torch.cholesky_solve(gradient.T, self._whitener).T


def _search(start: Point, direction: Tensor, rounding: float) -> Generator[Tensor, Point, Point | None]:
    """A point along `direction` with a sufficiently smaller slope, or None if rounding hides it."""
    # The loss is convex: the sign of its slope tells on which side the minimum is. Near the minimum, losses
    # differ by less than rounding but slopes by more, so a loss may rise by rounding.
    slope = _product(start.gradient, direction)
    highest = start.loss * (1 + rounding)
    low, high, length = 0.0, math.inf, 1.0
    for _ in range(_TRIALS if slope < 0 else 0):
        point = yield start.coefficients + length * direction
        new_slope = _product(point.gradient, direction)
        if new_slope > -_FLATTER * slope or point.loss > highest:
            high = length
        elif new_slope < _FLATTER * slope:
            low = length
        else:
            return point
        length = (low + high) / 2 if math.isfinite(high) else 4 * length
    return None


def _product(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.reshape(-1), b.reshape(-1)))
