"""Multinomial logistic regression, solved to a stated gradient for one penalty or for many together."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fullrank.errors import UsageError
from fullrank.probes.descent import MOST_COEFFICIENTS, Problem, Reached, descend, run_together
from fullrank.probes.design import Design
from fullrank.probes.probe import feature_matrix

# Multiplications of one step (N D K), some 10 ms, from which more threads are used. On two busy cores, two
# threads made a fit of 1297 x 96 features 12 to 14 times slower than one.
_WORTH_THREADS = 2**25
# The gradient that passes in float32 go down to; their rounding shows below a tenth of it.
_NEAR = 2e-7


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
    on the features' scales, and collinear, constant or collapsed features and D > N are all welcome. All is
    float64, but features of four million numbers or more, with more rows than channels and a `tol` of 1e-7
    or more, are centred and rounded to float32, in which descents begin. Raises UsageError
    unless penalty > 0 and tol > 0.

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
    design = Design.of(features, tol=tol)
    (fit,) = minimise(design, labels, num_classes, [penalty / float(design.unit) ** 2], tol, start)
    warn_unless_converged([fit], tol, stacklevel=3)
    return fit


def minimise(
    design: Design,
    targets: Tensor,
    num_classes: int,
    penalties: Sequence[float],
    tol: float,
    start: LogisticFit | None = None,
) -> list[LogisticFit]:
    """Solve for every penalty, as many of them in one pass over the features as can be held.

    Of a large set the passes are in float32 until the gradient is near `tol`. With each whitening a descent
    moves to the solution of the next larger penalty, if that is known by then and better.
    """
    channels = design.channels
    coefficients = design.mean.new_zeros(num_classes, len(channels))
    if start is not None:
        coefficients = design.inward(start.weight, start.bias)
    phases: list[tuple[Problem, float, dict[float, Tensor]]] = [(Problem(design, targets), tol, {})]
    # Products in TF32 have ten bits, too few for a descent.
    coarse = channels.is_cuda and torch.get_float32_matmul_precision() != "highest"
    if channels.dtype == torch.float32 and not coarse:
        phases.insert(0, (Problem(design, targets, torch.float32), max(tol / 2, _NEAR), {}))
    together = max(1, MOST_COEFFICIENTS // coefficients.numel())
    solutions: list[Reached] = []
    for first in range(0, len(penalties), together):
        some = penalties[first : first + together]
        ends = [Reached(coefficients, math.inf, 0)] * len(some)
        with _threads(channels.numel() * num_classes * len(some)):
            for problem, goal, reached in phases:
                starts = zip(some, ends, strict=True)
                descents = [descend(problem, p, goal, start, reached) for p, start in starts]
                ends = run_together(problem, some, descents)
        solutions += ends
    return [
        LogisticFit(*design.outward(each.coefficients), each.gradient, each.iterations, each.gradient <= tol)
        for each in solutions
    ]


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


def warn_unless_converged(fits: Sequence[LogisticFit], tol: float, stacklevel: int) -> None:
    """One warning for the fit that stopped furthest from `tol`, if any did."""
    if failed := [fit for fit in fits if not fit.converged]:
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
