"""Multinomial logistic regression, solved to a stated gradient: the problem and its quasi-Newton solver."""

import math
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fullrank.errors import UsageError
from fullrank.probes.probe import feature_matrix

_MAX_ITERATIONS = 3000
# Iterations after which the whitening is computed anew at the point reached.
_STAGE = 50
# Up to so many coefficients, what so many iterations did not reach is left to Newton's method, with the
# Hessian itself. Where the loss is straight it has no curvature: a part of the gradient is added.
_EXACT, _PATIENCE, _DAMPING = 1024, 200, 0.001
# Steps that L-BFGS remembers.
_HISTORY = 10
# A search along a line ends where the slope is this part of the first, or after so many trials.
_FLATTER, _TRIALS = 0.9, 30
# What may be rounding in a loss, relative to it.
_ROUNDING = 1e-12
# Multiplications of one step (N D K) from which more threads are used: 2**25 take one core some 10 ms. On two
# busy cores, two threads made a fit of 1297 x 96 features 12 to 14 times slower than one.
_WORTH_THREADS = 2**25
# Numbers held at once, 128 MiB: the logits of a pass, penalties x classes x rows; and the coefficients of all
# penalties that are solved together, with the steps that their searches remember.
_LOGITS = 2**24
_COEFFICIENTS = _LOGITS // (2 * _HISTORY)
# Added to the whitening matrix only, so that it factors for every penalty; the optimum does not feel it.
_FLOOR = 1e-12


@dataclass(frozen=True)
class LogisticFit:
    """A solved logistic regression: logits are `features @ weight.T + bias`.

    `weight` (K, D) and `bias` (K,) are float64; `gradient` is the largest entry of the gradient per unit of
    feature scale (see `solve_logistic`), and `converged` says whether it came down to `tol`.
    """

    weight: Tensor
    bias: Tensor
    gradient: float
    iterations: int
    converged: bool


def solve_logistic(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    penalty: float,
    tol: float = 1e-6,
    start: LogisticFit | None = None,
) -> LogisticFit:
    r"""Multinomial logistic regression of labels (N,) in 0 to num_classes - 1 on features (N, D).

    .. math:: \min_{W, b}\; \frac1N \sum_i -\log \mathrm{softmax}(W x_i + b)_{y_i}
              + \frac\lambda2 \|W\|_F^2

    The bias is not penalised, and sums to zero over the classes. The solution does not depend on `start`,
    which only saves time. It is reached when the gradient is at most `tol` in every entry, for features
    measured from their mean and in one unit, :math:`s` = root mean squared distance from the mean:
    :math:`\max(|\partial_W| / s, |\partial_b|) \le tol`. So a solution is as exact for features of scale
    1e-6 as for 1e6. If that is not reached (1e-8 is in every test of ours; below, rounding may forbid it),
    `converged` is False and a warning says so.

    L-BFGS runs in coordinates whitened by the Hessian, averaged over classes, at the point where it starts;
    where coefficients are few, Newton's method takes over after 200 iterations. So its speed depends little
    on the features' scales, and collinear, constant or collapsed features and D > N are all welcome.
    Everything is float64. Raises UsageError unless penalty > 0 and tol > 0.

    >>> x, y = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 1])
    >>> fit = solve_logistic(x, y, 2, penalty=0.1, tol=1e-9)
    >>> (x.double() @ fit.weight.T + fit.bias).argmax(1)
    tensor([0, 0, 1, 1])

    Same optimum as scikit-learn's `LogisticRegression(C=1 / (N * penalty))`.
    """
    check_positive("penalty", penalty)
    check_positive("tol", tol)
    features = feature_matrix(features)
    if labels.shape != features.shape[:1] or labels.min() < 0 or labels.max() >= num_classes:
        raise UsageError(
            f"Labels must be {len(features)} class numbers from 0 to {num_classes - 1}, but got shape "
            f"{tuple(labels.shape)} from {labels.min()} to {labels.max()}; number the classes, one a row."
        )
    design = Design.of(features)
    (fit,) = minimise(design, labels, num_classes, [penalty / float(design.unit) ** 2], tol, start)
    warn_unless_converged([fit], tol, stacklevel=3)
    return fit


@dataclass(frozen=True)
class Design:
    """Features in the solver's coordinates: float64, mean 0, total variance 1, and a channel of ones.

    `channels` (R + 1, N) has a column for each row of features: x = mean + unit * (basis @ column). With more
    channels than rows, `basis` (D, N) is orthonormal and spans the rows, where the optimum lies; else it is
    None, for the identity. Products of a few classes with so many rows are fastest with the rows last.
    """

    channels: Tensor
    mean: Tensor
    unit: Tensor
    basis: Tensor | None

    @classmethod
    def of(cls, features: Tensor, standardise: bool = False) -> "Design":
        """The design of finite features (N, D), with `standardise` of features in units of their spread."""
        features = features.detach().double()
        mean = features.mean(0)
        rows = features - mean
        size = features.square().mean(0).sqrt()
        unit = rows.new_ones(())
        if standardise:
            unit = _spread_or_one(rows.square().mean(0).sqrt(), size)
            rows = rows / unit
        total = _spread_or_one(rows.square().sum(1).mean().sqrt(), (size / unit).norm())
        rows, unit, basis = rows / total, unit * total, None
        if rows.shape[1] > rows.shape[0]:
            basis, reduced = torch.linalg.qr(rows.T)
            rows = reduced.T
        return cls(torch.cat([rows.T, rows.new_ones(1, len(rows))]), mean, unit, basis)

    def inward(self, weight: Tensor, bias: Tensor) -> Tensor:
        """The coefficients (K, R + 1) of a weight (K, D) and bias (K,) on the features."""
        inner = weight * self.unit
        if self.basis is not None:
            inner = inner @ self.basis
        return torch.cat([inner, (bias + weight @ self.mean)[:, None]], 1)

    def outward(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """The weight (K, D) and bias (K,) on the features of coefficients (K, R + 1)."""
        weight = self.spread(coefficients[:, :-1]) / self.unit
        bias = coefficients[:, -1] - weight @ self.mean
        return weight, bias - bias.mean()

    def spread(self, inner: Tensor) -> Tensor:
        """Coefficients (K, R), or their gradient, over the D channels."""
        return inner if self.basis is None else inner @ self.basis.T


def minimise(
    design: Design,
    targets: Tensor,
    num_classes: int,
    penalties: Sequence[float],
    tol: float,
    start: LogisticFit | None = None,
) -> list[LogisticFit]:
    """Solve for every penalty in the design's coordinates, whitening anew every `_STAGE` iterations.

    Each descent says at which coefficients it wants to know the loss; those of all are computed together, in
    one pass over the features, which costs hardly more than that of one. With each whitening a descent moves
    to the solution of the next larger penalty, if that is known by then and better than where it stands.
    Where the coefficients of all penalties are too many to be held, some are solved after the others.
    """
    channels = design.channels
    coefficients = channels.new_zeros(num_classes, len(channels))
    if start is not None:
        coefficients = design.inward(start.weight, start.bias)
    problem, reached = _Problem(design, targets), dict[float, Tensor]()
    together = max(1, _COEFFICIENTS // coefficients.numel())
    solved: list[LogisticFit] = []
    for first in range(0, len(penalties), together):
        some = penalties[first : first + together]
        with _threads(channels.numel() * num_classes * len(some)):
            solved += _side_by_side(
                problem, some, [_descend(problem, each, tol, coefficients, reached) for each in some]
            )
    return solved


def _side_by_side(
    problem: "_Problem", penalties: Sequence[float], descents: Sequence["_Descent"]
) -> list[LogisticFit]:
    """What descents return, each sent the points that it asks for, all of a round computed together."""
    solved: dict[int, LogisticFit] = {}
    asked = {number: next(descent) for number, descent in enumerate(descents)}
    while asked:
        points = problem.at(list(asked.values()), [penalties[number] for number in asked])
        for number, point in zip(list(asked), points, strict=True):
            try:
                asked[number] = descents[number].send(point)
            except StopIteration as end:
                solved[number] = end.value
                del asked[number]
    return [solved[number] for number in range(len(descents))]


@dataclass(frozen=True)
class _Point:
    """Coefficients C (K, R + 1), the loss there, and its gradient."""

    coefficients: Tensor
    loss: float
    gradient: Tensor


@dataclass(frozen=True)
class _Problem:
    """The penalised loss of coefficients C (K, R + 1) on a design, its gradient and its Hessian."""

    design: Design
    targets: Tensor

    def at(self, asked: Sequence[Tensor], penalties: Sequence[float]) -> list[_Point]:
        """The points at P coefficients (K, R + 1), each with its own penalty, from one pass over the rows."""
        stacked, channels = torch.stack(list(asked)), self.design.channels
        count, classes, _ = stacked.shape
        every, rows = stacked.flatten(0, 1), channels.shape[1]
        losses, gradients = stacked.new_zeros(count), torch.zeros_like(every)
        step = max(1, _LOGITS // len(every))
        for start in range(0, rows, step):
            some = channels[:, start : start + step]
            chosen = self.targets[start : start + step].expand(count, 1, -1)
            log_odds = (every @ some).view(count, classes, -1).log_softmax(1)
            losses -= log_odds.gather(1, chosen).sum((1, 2))
            residual = log_odds.exp_().scatter_add_(1, chosen, some.new_full(chosen.shape, -1.0))
            gradients += residual.flatten(0, 1) @ some.T
        gradients = gradients.div_(rows).view(stacked.shape)
        ridge, inner = channels.new_tensor(list(penalties)), stacked[..., :-1]
        gradients[..., :-1] += ridge[:, None, None] * inner
        losses = losses / rows + ridge / 2 * inner.square().sum((1, 2))
        return [_Point(*point) for point in zip(asked, losses.tolist(), gradients.unbind(), strict=True)]

    def largest(self, gradient: Tensor) -> float:
        """The largest entry of a gradient (K, R + 1), over the D channels and the bias."""
        return float(
            torch.maximum(self.design.spread(gradient[:, :-1]).abs().max(), gradient[:, -1].abs().max())
        )

    def whitener(self, coefficients: Tensor, penalty: float) -> Tensor:
        r"""L (R + 1, R + 1), lower, with L L^T the Hessian's diagonal blocks averaged over the K classes.

        .. math:: \frac1N \sum_i \Big(\frac1K \sum_k p_{ik} (1 - p_{ik})\Big) r_i r_i^\top + \lambda I
        """
        channels = self.design.channels
        if coefficients.any():
            odds = (coefficients @ channels).softmax(0)
            curvature = (1 - odds.square().sum(0)) / len(odds)
            hessian = (channels * curvature) @ channels.T / channels.shape[1]
        else:  # every class is as likely in every row, whatever the penalty
            hessian = self._second_moment * ((1 - 1 / len(coefficients)) / len(coefficients))
        hessian.diagonal()[:-1] += penalty
        hessian.diagonal().add_(_FLOOR)
        factor: Tensor = torch.linalg.cholesky(hessian)
        return factor

    def hessian_factor(self, point: _Point, penalty: float) -> Tensor:
        """L (K (R + 1), K (R + 1)), lower, of the Hessian itself, its diagonal a little raised."""
        channels = self.design.channels
        classes, width = point.coefficients.shape
        hessian = channels.new_zeros(classes * width, classes * width)
        blocks = hessian.view(classes, width, classes, width)
        step = max(1, _LOGITS // len(hessian))
        for start in range(0, channels.shape[1], step):
            some = channels[:, start : start + step]
            weighted = (point.coefficients @ some).softmax(0)[:, None] * some
            flat = weighted.flatten(0, 1)
            hessian -= flat @ flat.T
            for number in range(classes):
                blocks[number, :, number] += weighted[number] @ some.T
        hessian /= channels.shape[1]
        ridge = hessian.new_full((classes, width), penalty)
        ridge[:, -1] = 0.0
        hessian.diagonal().add_(ridge.flatten() + (_DAMPING * self.largest(point.gradient) + _FLOOR))
        # The loss does not feel a number added to every bias; without this the matrix has no inverse.
        blocks[:, -1, :, -1] += 1 / classes
        factor: Tensor = torch.linalg.cholesky(hessian)
        return factor

    @cached_property
    def _second_moment(self) -> Tensor:
        return self.design.channels @ self.design.channels.T / self.design.channels.shape[1]


# Yields coefficients, is sent the point there, and returns what was reached.
_Descent = Generator[Tensor, _Point, LogisticFit]


def _descend(
    problem: _Problem, penalty: float, tol: float, coefficients: Tensor, reached: dict[float, Tensor]
) -> _Descent:
    """The solution for one penalty, from `coefficients` on; `reached` holds those of all that are known."""
    point, iterations = (yield coefficients), 0
    gradient, nearest = problem.largest(point.gradient), math.inf
    while gradient > tol and iterations < _MAX_ITERATIONS:
        loss, before = point.loss, gradient
        if iterations >= _PATIENCE and coefficients.numel() <= _EXACT:
            curvature, steps = _Curvature(problem.hessian_factor(point, penalty)), 1
        else:
            curvature, steps = _Curvature(problem.whitener(point.coefficients, penalty)), _STAGE
        point, done = yield from _run_stage(problem, tol, point, curvature, steps)
        iterations, gradient = iterations + done, problem.largest(point.gradient)
        larger = min((each for each in reached if each > penalty), default=math.inf)
        if gradient > tol and larger < nearest:
            nearest, other = larger, (yield reached[larger])
            if other.loss < point.loss:
                point, gradient = other, problem.largest(other.gradient)
                continue
        if gradient >= before and point.loss >= loss * (1 - _ROUNDING):
            break  # The search meets rounding: nothing more to gain in float64.
    reached[penalty] = point.coefficients
    return LogisticFit(*problem.design.outward(point.coefficients), gradient, iterations, gradient <= tol)


class _Curvature:
    """What L-BFGS knows of the Hessian: the whitener, corrected by the latest steps.

    Source: Nocedal & Wright, Numerical Optimization (2006), Algorithm 7.4.
    """

    def __init__(self, whitener: Tensor):
        self._whitener = whitener
        self._scale = 1.0
        self._pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=_HISTORY)

    def add(self, step: Tensor, change: Tensor) -> None:
        """Learn from the change of the gradient over a step; rounding alone gives no positive curvature."""
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


def _run_stage(
    problem: _Problem, tol: float, point: _Point, curvature: _Curvature, steps: int
) -> Generator[Tensor, _Point, tuple[_Point, int]]:
    """L-BFGS from a point, with one whitening throughout: where it ends, and its iterations."""
    for iteration in range(steps):
        if problem.largest(point.gradient) <= tol:
            return point, iteration
        reached = yield from _search(point, curvature.descent(point.gradient))
        if reached is None:
            return point, iteration
        curvature.add(reached.coefficients - point.coefficients, reached.gradient - point.gradient)
        point = reached
    return point, steps


def _search(start: _Point, direction: Tensor) -> Generator[Tensor, _Point, _Point | None]:
    """A point along `direction` where the slope is a good part flatter; None where rounding hides it.

    The loss is convex, so its slope rises along the line, and its sign says on which side the minimum lies.
    Near the optimum losses differ by less than rounding while slopes still tell, so a loss may rise by
    rounding.
    """
    slope = _product(start.gradient, direction)
    highest = start.loss * (1 + _ROUNDING)
    low, high, length = 0.0, math.inf, 1.0
    for _ in range(_TRIALS if slope < 0 else 0):
        point = yield start.coefficients + length * direction
        here = _product(point.gradient, direction)
        if here > -_FLATTER * slope or point.loss > highest:
            high = length
        elif here < _FLATTER * slope:
            low = length
        else:
            return point
        length = (low + high) / 2 if math.isfinite(high) else 4 * length
    return None


def _product(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.reshape(-1), b.reshape(-1)))


@contextmanager
def _threads(products: int) -> Iterator[None]:
    """One thread for small problems: in short steps threads cost more than they bring."""
    before = torch.get_num_threads()
    if products < _WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _spread_or_one(spread: Tensor, size: Tensor) -> Tensor:
    """The spread, or 1 where it is no more than rounding of values of this size: a constant."""
    return torch.where(spread > 10 * torch.finfo(spread.dtype).eps * size, spread, 1.0)


def warn_unless_converged(fits: Sequence[LogisticFit], tol: float, stacklevel: int) -> None:
    """One warning for the fit that stopped furthest from `tol`, if any did."""
    failed = [fit for fit in fits if not fit.converged]
    if failed:
        worst = max(failed, key=lambda fit: fit.gradient)
        warnings.warn(
            f"The linear probe stopped at gradient {worst.gradient:.1e} after {worst.iterations} iterations, "
            f"above tol {tol:g}; raise the penalty or tol.",
            stacklevel=stacklevel,
        )


def check_positive(name: str, value: float) -> None:
    """Raise UsageError unless `value` is positive and finite."""
    if not (value > 0 and math.isfinite(value)):
        raise UsageError(f"Linear probe: {name} must be a positive number, but got {value}.")
