"""Intrinsic dimension: along how many directions rows vary near each other, from ratios of distances."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.sparse import csr_array
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import row_coordinates
from fullrank.spectrum.geometry import sample_index, sample_rows

# 97.5 % of a standard normal variable lie below it.
_NORMAL_95 = 1.959964
# How many rows are compared with all others at once.
_ROWS = 512


@dataclass(frozen=True)
class IntrinsicDimension:
    """An intrinsic dimension with its sampling error, and what it was measured on.

    Attributes:
        value: The dimension.
        standard_error: Its standard error over other rows of the same distribution.
        rows: The number of different rows that it was measured on.
        equal: The number of rows that were left out, because each equals an earlier one.
        near: The number of the nearer neighbour, 1 for the nearest.
        far: The number of the farther neighbour.
    """

    value: float
    standard_error: float
    rows: int
    equal: int
    near: int
    far: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, normal for the logarithm of the dimension."""
        factor = math.exp(_NORMAL_95 * self.standard_error / self.value)
        return self.value / factor, self.value * factor


def two_nn(features: Tensor, *, sample: int = 4096, seed: int = 0) -> IntrinsicDimension:
    r"""TwoNN: the intrinsic dimension from the distances of each row to its two nearest rows.

    .. math:: \hat d = \frac{N - 1}{\sum_i \ln(r_{i2} / r_{i1})}

    Where the density hardly changes between two neighbours, the ratio of their distances is a Pareto variable
    whose exponent is the dimension. So the density need not be known. The standard error is that of `gride`.

    - The dimension is that of the smallest scale of the sample, where noise counts most: D-dimensional noise
      raises it towards D. `gride` looks at larger scales. A smaller sample has a larger scale.
    - It is too low for many dimensions: about 9 of 10, and 16 of 20, for 4096 rows in a uniform cube. The
      interval does not cover this.
    - It means nothing for quantised features, whose distances have few different values.
    - It does not say whether the directions are useful. Features on a curved surface have a higher rank.

    Args:
        features: Features (N, D). Of equal rows only the first one is used.
        sample: The cost is quadratic in N, so of more rows than this a random sample is taken.
        seed: The seed of the sample.

    Returns:
        The dimension with its standard error, and the number of rows.

    Raises:
        UsageError: For an invalid sample, or features that are not a matrix.
        DataError: For fewer than 3 different rows, rows that are not finite, or distances that are all equal.

    >>> x = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 5).triu()
    >>> found = two_nn(x)
    >>> low, high = found.interval
    >>> low < 2 < high, found.rows, found.equal
    (True, 1000, 0)

    Source: Facco et al. 2017 (arXiv 1803.06992), Equation 5, in the form without bias of Denti et al. 2022
    (arXiv 2104.13832), Section 2.
    """
    found = _dimension(features, 1, 2, sample, seed, "TwoNN")
    shrunk = (found.rows - 1) / found.rows
    return replace(found, value=found.value * shrunk, standard_error=found.standard_error * shrunk)


@dataclass(frozen=True, eq=False)
class RowInfluence:
    """A measure, and what each row adds to it.

    Attributes:
        value: The measure.
        rows: The numbers of the rows that were used, (n,).
        added: What each of them adds, (n,), with mean 0.
    """

    value: float
    rows: np.ndarray
    added: np.ndarray


def two_nn_influence(features: Tensor, *, sample: int = 4096, seed: int = 0) -> RowInfluence:
    r"""`two_nn`, and what each row adds to it: its derivative by the weight of the row.

    .. math:: \psi_i = \hat d - \hat d^2 \ln(r_{i2} / r_{i1})

    In a sample with weights w of the rows, the dimension is near :math:`\hat d + \sum_i w_i \psi_i / n`. That
    a row is its own neighbour if it is drawn twice is not in it.

    Args:
        features: Features (N, D).
        sample: As in `two_nn`.
        seed: As in `two_nn`.

    Raises:
        UsageError: As `two_nn`.
        DataError: As `two_nn`.

    >>> x = torch.rand(300, 2, generator=torch.Generator().manual_seed(0))
    >>> found = two_nn_influence(x)
    >>> bool(abs(found.value - two_nn(x).value) < 1e-9), len(found.rows)
    (True, 300)

    Source: the infinitesimal jackknife (Jaeckel 1972) of the maximum of the likelihood.
    """
    index = sample_index(len(features), sample, seed, "TwoNN").cpu().numpy()
    different = _first_of_equal(sample_rows(features, sample, seed, "TwoNN"))
    logs, _, _ = _log_ratios(features, 1, 2, sample, seed, "TwoNN")
    dimension = len(logs) / float(logs.sum())
    added = dimension - dimension**2 * logs
    value = dimension * (len(logs) - 1) / len(logs)
    return RowInfluence(value, index[different], added - added.mean())


def gride(
    features: Tensor, near: int = 16, far: int = 32, *, sample: int = 4096, seed: int = 0
) -> IntrinsicDimension:
    r"""GRIDE: the intrinsic dimension from the ratio of the distances to two farther neighbours.

    .. math:: \mu_i = r_{i,far} / r_{i,near}, \qquad f(\mu) \propto d\, \frac{(\mu^d - 1)^{far - near - 1}}
              {\mu^{(far - 1) d + 1}}

    The dimension d maximises the product of f over the N ratios. The logarithm is concave, so there is one
    maximum. Farther neighbours look at a larger scale, where noise counts less and curvature more. If pairs
    such as 1 and 2, 2 and 4, 4 and 8 agree, the dimension does not depend on the scale.

    The paper's standard error takes the ratios as independent, which neighbours are not. On uniform tori it
    was 1.3 to 1.5 times too small. Here it counts the covariance of rows that are neighbours (a sandwich):

    .. math:: \mathrm{se}^2 = \frac{\sum_{i} s_i^2 + \sum_{i \sim j} s_i s_j}{I^2}, \qquad
              s_i = \partial_d \ln f(\mu_i), \quad I = -\sum_i \partial_d s_i

    It cannot see what `two_nn` cannot see, except through noise below the distance to the neighbours.

    Args:
        features: Features (N, D). Of equal rows only the first one is used.
        near: The number of the nearer neighbour, 1 or more.
        far: The number of the farther neighbour, above `near`.
        sample: The cost is quadratic in N, so of more rows than this a random sample is taken.
        seed: The seed of the sample.

    Returns:
        The dimension with its standard error, and the number of rows.

    Raises:
        UsageError: For neighbours out of order, an invalid sample, or features that are not a matrix.
        DataError: For `far` different rows or fewer, rows that are not finite, or distances all equal.

    >>> x = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 5).triu()
    >>> round(gride(x, 4, 8).value)
    2

    Source: Denti et al. 2022 (arXiv 2104.13832), Equations 9 and 10.
    """
    if not 1 <= near < far:
        raise UsageError(
            f"GRIDE: near must be 1 or more and below far, but got {near} and {far}; use 16 and 32."
        )
    return _dimension(features, near, far, sample, seed, "GRIDE")


def _dimension(
    features: Tensor, near: int, far: int, sample: int, seed: int, measure: str
) -> IntrinsicDimension:
    """The maximum of the likelihood of the ratios, and its standard error."""
    logs, neighbours, equal = _log_ratios(features, near, far, sample, seed, measure)
    count, total, between = len(logs), float(logs.sum()), far - near - 1

    def scores(d: float) -> np.ndarray:
        """The derivative of each log-likelihood, which falls with d."""
        each: np.ndarray = 1 / d + between * _shares(logs, d) - (far - 1) * logs
        return each

    # As x <= x / (1 - exp(-d x)) <= x + 1 / d, the maximum lies between these two.
    low, high = count / (near * total), count * (far - near) / (near * total)
    value = float(brentq(lambda d: scores(d).sum(), low * (1 - 1e-9), high * (1 + 1e-9), rtol=1e-12))
    shares, own = _shares(logs, value), scores(value)
    information = count / value**2 + between * float((shares * (shares - logs)).sum())
    starts = np.arange(0, count * far + 1, far)
    one_way = csr_array((np.ones(count * far), neighbours.ravel(), starts), shape=(count, count))
    linked = one_way.maximum(one_way.T)
    variance = max(float(own @ own + own @ (linked @ own)), 0.0)
    return IntrinsicDimension(value, math.sqrt(variance) / information, count, equal, near, far)


def _shares(logs: np.ndarray, d: float) -> np.ndarray:
    """x / (1 - exp(-d x)) for each x of `logs`; its limit 1 / d where x is 0."""
    exact = np.where(logs > 0, logs, 1.0)
    shares: np.ndarray = np.where(logs > 0, exact / -np.expm1(-d * exact), 1 / d)
    return shares


def _log_ratios(
    features: Tensor, near: int, far: int, sample: int, seed: int, measure: str
) -> tuple[np.ndarray, np.ndarray, int]:
    """ln(r_far / r_near) (n,) and neighbours (n, far) of different rows; the number of equal rows."""
    every = sample_rows(features, sample, seed, measure)
    rows = _different(every)
    if len(rows) <= far:
        counts = f"more than {far} different rows, but got {len(rows)} of {len(every)}"
        raise DataError(f"{measure} needs {counts}; give more rows or nearer neighbours.")
    distances, neighbours = _neighbours(row_coordinates(rows), far)
    # Different rows may round to one point; their ratio counts as 1.
    nearer = distances[:, near - 1]
    logs = torch.where(nearer > 0, distances[:, far - 1] / nearer, 1.0).log()
    if not float(logs.sum()) > 0:
        both = f"neighbours {near} and {far} are equally far from every row"
        raise DataError(f"{measure} is undefined if {both}, as here; give features that are not quantised.")
    return logs.cpu().numpy(), neighbours.cpu().numpy(), len(every) - len(rows)


def _different(rows: Tensor) -> Tensor:
    """Rows (N, D) without those that equal an earlier one, in their order."""
    return rows[torch.from_numpy(_first_of_equal(rows)).to(rows.device)]


def _first_of_equal(rows: Tensor) -> np.ndarray:
    """The numbers of the rows (N, D) that equal no earlier one, ascending."""
    numbers = np.ascontiguousarray(rows.cpu().numpy() + 0.0)  # so that 0.0 and -0.0 have the same bytes
    whole = numbers.view(np.dtype((np.void, numbers.dtype.itemsize * numbers.shape[1])))[:, 0]
    first: np.ndarray = np.sort(np.unique(whole, return_index=True)[1])
    return first


def _neighbours(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` nearest other rows of each row (N, D): distances, ascending, and numbers, (N, count)."""
    centred = rows - rows.mean(0)
    centred = centred / centred.abs().max()
    squares = centred.square().sum(1)
    distances, numbers = [], []
    for start in range(0, len(centred), _ROWS):
        some = centred[start : start + _ROWS]
        nearness = (some @ centred.T).mul_(2).sub_(squares)
        nearness.diagonal(start).fill_(-torch.inf)
        numbers.append(nearness.topk(count).indices)
        # The product cancels digits of small distances, so those of the neighbours are taken again.
        distances += [(centred[near] - row).norm(dim=1) for row, near in zip(some, numbers[-1], strict=True)]
    sorted_distances, order = torch.stack(distances).sort(1)
    return sorted_distances, torch.cat(numbers).gather(1, order)
