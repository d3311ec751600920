"""Intrinsic dimension: along how many directions rows vary near each other, from ratios of distances."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import gammaincinv
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import row_coordinates
from fullrank.spectrum.geometry import sample_rows

# 97.5 % of a standard normal variable lie below it.
_NORMAL_95 = 1.959964
# How many rows are compared with all others at once.
_ROWS = 512


@dataclass(frozen=True)
class IntrinsicDimension:
    """An intrinsic dimension with its sampling error, and what it was measured on.

    Attributes:
        value: The dimension.
        standard_error: Its standard error, as if the rows had no neighbours in common.
        low: The lower end of the 95 % interval.
        high: The upper end.
        rows: The number of different rows that it was measured on.
        equal: The number of rows that were left out, because each equals an earlier one.
        near: The number of the nearer neighbour, 1 for the nearest.
        far: The number of the farther neighbour.
    """

    value: float
    standard_error: float
    low: float
    high: float
    rows: int
    equal: int
    near: int
    far: int


def two_nn(features: Tensor, *, sample: int = 4096, seed: int = 0) -> IntrinsicDimension:
    r"""TwoNN: the intrinsic dimension from the distances of each row to its two nearest rows.

    .. math:: \hat d = \frac{N - 1}{\sum_i \ln(r_{i2} / r_{i1})}

    Where the density hardly changes between two neighbours, the ratio of their distances is a Pareto variable
    whose exponent is the dimension. So no density has to be known. The interval is that of a Gamma variable.

    - The dimension is that of the smallest scale of the sample, where noise counts most: D-dimensional noise
      raises it towards D. `gride` looks at larger scales. A smaller sample has a larger scale.
    - It is too low for many dimensions: about 9 of 10, and 15 of 20, for 4096 rows in a uniform cube. The
      interval does not cover this.
    - It means nothing for quantised features, whose distances have few different values.
    - It does not say whether the directions are useful. Features on a curved surface have a higher rank.

    Args:
        features: Features (N, D). Of equal rows only the first one is used.
        sample: The cost is quadratic in N, so of more rows than this a random sample is taken.
        seed: The seed of the sample.

    Returns:
        The dimension with its interval, and the number of rows.

    Raises:
        UsageError: For an invalid sample, or features that are not a matrix.
        DataError: For fewer than 3 different rows, rows that are not finite, or distances that are all equal.

    >>> x = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 5).triu()
    >>> found = two_nn(x)
    >>> found.low < 2 < found.high, found.rows, found.equal
    (True, 1000, 0)

    Source: Facco et al. 2017 (arXiv 1803.06992), Equation 5; the estimator without bias and its interval are
    those of Denti et al. 2022 (arXiv 2104.13832), Section 2.
    """
    logs, equal = _log_ratios(features, 1, 2, sample, seed, "TwoNN")
    count, total = len(logs), float(logs.sum())
    value = (count - 1) / total
    low, high = (float(gammaincinv(count, share)) / total for share in (0.025, 0.975))
    return IntrinsicDimension(value, value / math.sqrt(count), low, high, count, equal, 1, 2)


def gride(
    features: Tensor, near: int = 16, far: int = 32, *, sample: int = 4096, seed: int = 0
) -> IntrinsicDimension:
    r"""GRIDE: the intrinsic dimension from the ratio of the distances to two farther neighbours.

    .. math:: \mu_i = r_{i,far} / r_{i,near}, \qquad f(\mu) \propto d\, \frac{(\mu^d - 1)^{far - near - 1}}
              {\mu^{(far - 1) d + 1}}

    The dimension d maximises the likelihood of the N ratios. The likelihood is concave, so there is one
    maximum. The standard error is that of the Fisher information, and the interval is normal for ln d.
    Farther neighbours look at a larger scale, where noise counts less and curvature more. If several pairs
    such as 1 and 2, 2 and 4, 4 and 8 agree, then the dimension does not depend on the scale.

    - Rows share their neighbours, so the interval is too narrow. Estimates from 60 samples of 600 rows of a
      torus spread 1.3 to 1.5 times as much as the standard error says.
    - It cannot see what `two_nn` cannot see, except through noise smaller than the distance to the neighbours.

    Args:
        features: Features (N, D). Of equal rows only the first one is used.
        near: The number of the nearer neighbour, 1 or more.
        far: The number of the farther neighbour, above `near`.
        sample: The cost is quadratic in N, so of more rows than this a random sample is taken.
        seed: The seed of the sample.

    Returns:
        The dimension with its interval, and the number of rows.

    Raises:
        UsageError: For neighbours that are not in order, an invalid sample, or features that are not a matrix.
        DataError: For `far` different rows or fewer, rows that are not finite, or distances that are all equal.

    >>> x = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 5).triu()
    >>> round(gride(x, 4, 8).value, 1)
    2.0

    Source: Denti et al. 2022 (arXiv 2104.13832), Equations 9 and 10.
    """
    if not 1 <= near < far:
        raise UsageError(
            f"GRIDE: near must be 1 or more and below far, but got {near} and {far}; the default is 16 and 32."
        )
    tensor, equal = _log_ratios(features, near, far, sample, seed, "GRIDE")
    logs, between = tensor.numpy(), far - near - 1
    count, total = len(logs), float(logs.sum())

    def slope(d: float) -> float:
        """The derivative of the log-likelihood, which falls with d."""
        return count / d + between * float(_shares(logs, d).sum()) - (far - 1) * total

    # As x <= x / (1 - exp(-d x)) <= x + 1 / d, the maximum lies between these two.
    low, high = count / (near * total), count * (far - near) / (near * total)
    value = float(brentq(slope, low * (1 - 1e-9), high * (1 + 1e-9), rtol=1e-12))
    curvature = _shares(logs, value)
    information = count / value**2 + between * float((curvature * (curvature - logs)).sum())
    error = 1 / math.sqrt(information)
    factor = math.exp(_NORMAL_95 * error / value)
    return IntrinsicDimension(value, error, value / factor, value * factor, count, equal, near, far)


def _shares(logs: np.ndarray, d: float) -> np.ndarray:
    """x / (1 - exp(-d x)) for each x of `logs`; its limit 1 / d where x is 0."""
    exact = np.where(logs > 0, logs, 1.0)
    return np.where(logs > 0, exact / -np.expm1(-d * exact), 1 / d)


def _log_ratios(
    features: Tensor, near: int, far: int, sample: int, seed: int, measure: str
) -> tuple[Tensor, int]:
    """ln(r_far / r_near) of each different row of a sample (n,), and how many equal rows were left out."""
    every = sample_rows(features, sample, seed, measure)
    rows = _different(every)
    if len(rows) <= far:
        counts = f"more than {far} different rows, but got {len(rows)} of {len(every)}"
        raise DataError(f"{measure} needs {counts}; give more rows or nearer neighbours.")
    distances = _neighbour_distances(row_coordinates(rows), far)
    distances = distances[distances[:, near - 1] > 0]  # different rows may round to one point
    logs = (distances[:, far - 1] / distances[:, near - 1]).log()
    if not float(logs.sum()) > 0:
        both = f"neighbours {near} and {far} are equally far from every row"
        raise DataError(f"{measure} is undefined if {both}, as here; give features that are not quantised.")
    return logs.cpu(), len(every) - len(logs)


def _different(rows: Tensor) -> Tensor:
    """Rows (N, D) without those that equal an earlier one, in their order."""
    numbers = np.ascontiguousarray(rows.cpu().numpy() + 0.0)  # so that 0.0 and -0.0 have the same bytes
    whole = numbers.view(np.dtype((np.void, numbers.dtype.itemsize * numbers.shape[1])))[:, 0]
    first = np.sort(np.unique(whole, return_index=True)[1])
    return rows[torch.from_numpy(first).to(rows.device)]


def _neighbour_distances(rows: Tensor, count: int) -> Tensor:
    """The distances of each row (N, D) to its `count` nearest other rows, ascending, (N, count)."""
    centred = rows - rows.mean(0)
    centred = centred / centred.abs().max()
    squares = centred.square().sum(1)
    parts = []
    for start in range(0, len(centred), _ROWS):
        some = centred[start : start + _ROWS]
        nearness = (some @ centred.T).mul_(2).sub_(squares)
        nearness.diagonal(start).fill_(-torch.inf)
        nearest = nearness.topk(count).indices
        # The product cancels digits of small distances, so those of the neighbours are taken again.
        parts += [(centred[index] - row).norm(dim=1) for row, index in zip(some, nearest, strict=True)]
    return torch.stack(parts).sort(1).values
