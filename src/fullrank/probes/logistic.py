"""Multinomial logistic regression, solved to a given gradient for one penalty or many together."""

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

# More threads are used from this many multiplications in one step (N D K), about 10 ms. On two busy cores,
# two threads made a fit of 1297 x 96 features 12 to 14 times slower than one.
_WORTH_THREADS = 2**25
# Passes in float32 end at this gradient; their rounding matters below a tenth of it.
_NEAR = 2e-7


@dataclass(frozen=True)
class LogisticFit:
    """A solved logistic regression: logits are `features @ weight.T + bias`.

    `weight` (K, D) and `bias` (K,) are float64. `gradient` is the largest entry of the gradient per unit of
    feature scale (see `solve_logistic`). `converged` tells whether it is at most `tol`.
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

    The bias is not penalised, and sums to zero over the classes. The solver stops when every entry of the
    gradient is at most `tol`: :math:`\max(|\partial_W| / s, |\partial_b|) \le tol`. Here features are
    measured from their mean, and :math:`s` is their root mean squared distance from it. So a solution is as
    exact for features of scale 1e-6 as for 1e6. All our tests reach 1e-8; below, rounding may prevent it.
    Then `converged` is False, and there is a warning.

    L-BFGS runs in coordinates whitened by the Hessian, averaged over classes, at its start. If there are few
    coefficients, Newton's method takes over after 200 iterations. So the speed depends little on the scales
    of the features. Features may be collinear, constant or collapsed, and D may exceed N.

    All computations are in float64, with one exception: large features are centred and rounded to float32, in
    which the solver begins. Features are large from four million numbers on, if they have more rows than
    channels and `tol` is 1e-7 or more.

    Args:
        features: Features (N, D).
        labels: Class numbers (N,), 0 to num_classes - 1.
        num_classes: Number of classes K.
        penalty: The penalty lambda, above 0.
        tol: The tolerance, above 0.
        start: A fit to start from. It saves time and does not change the solution.

    Raises:
        UsageError: If the penalty or `tol` is not positive, or labels do not fit.

    >>> x, y = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 1])
    >>> fit = solve_logistic(x, y, 2, penalty=0.1, tol=1e-9)
    >>> (x.double() @ fit.weight.T + fit.bias).argmax(1)
    tensor([0, 0, 1, 1])

    The optimum equals that of scikit-learn's `LogisticRegression(C=1 / (N * penalty))`.
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
    """Solve for every penalty, with as many penalties in one pass over the features as memory allows.

    For large sets, passes are in float32 until the gradient is near `tol`. With each new whitening, a descent
    moves to the solution of the next larger penalty, if that is already known and better.
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
    """Use one thread for small problems: in short steps more threads cost more time than they save."""
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
