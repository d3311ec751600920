"""Where the rows of features (N, D) point, at unit length: alignment, uniformity, cosines, subspaces."""

import math
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import require_finite, require_matrix, row_blocks


def unit_rows(features: Tensor) -> Tensor:
    """Rows (N, D) at unit length, float64; a zero row stays zero.

    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]], dtype=torch.float64)
    """
    features = features.double()
    norms = features.norm(dim=1, keepdim=True)
    return features / torch.where(norms > 0, norms, 1.0)


def alignment(a: Tensor, b: Tensor, alpha: float = 2.0) -> float:
    r"""Mean distance of positive pairs on the unit sphere, to the power alpha.

    .. math:: \frac1N \sum_i \Big\| \frac{a_i}{\|a_i\|} - \frac{b_i}{\|b_i\|} \Big\|^\alpha

    Row i of `b` is the positive of row i of `a`; nothing is centred. Range 0 (each pair at one point) to
    2^alpha. Low alone means nothing: collapse to a point has 0. Shapes: (N, D) twice. Raises UsageError for
    shapes that differ or alpha that is not positive, DataError for no row or rows that are not finite.

    >>> round(alignment(torch.eye(2), torch.tensor([[5.0, 0.0], [1.0, 0.0]])), 6)
    1.0

    Source: Wang and Isola 2020 (arXiv 2005.10242), Equation 1 with their default alpha.
    """
    if a.shape != b.shape:
        raise UsageError(
            f"Alignment needs pairs of rows, but got shapes {tuple(a.shape)} and {tuple(b.shape)}; give both "
            "views the same images in the same order."
        )
    if not (alpha > 0 and math.isfinite(alpha)):
        raise UsageError(f"Alignment: alpha must be positive, but got {alpha}; the usual value is 2.")
    require_matrix(a)
    _require_rows(len(a), 1, "Alignment")
    pairs = zip(row_blocks(a), row_blocks(b), strict=True)
    total = sum(float((unit_rows(x) - unit_rows(y)).norm(dim=1).pow(alpha).sum()) for x, y in pairs)
    return total / len(a)


def uniformity(features: Tensor, t: float = 2.0, *, sample: int = 4096, seed: int = 0) -> float:
    r"""Logarithm of the mean Gaussian potential of distinct rows on the unit sphere.

    .. math:: \ln \frac{1}{N(N-1)} \sum_{i \ne j} e^{-t \|u_i - u_j\|^2}, \qquad u_i = h_i / \|h_i\|

    Normalises each row, centres nothing. Range -4t to 0 (all rows at one point); a uniform distribution on a
    wide sphere has about -2t. It is quadratic in N, so of more than `sample` rows that many are drawn with
    `seed`. Low is spread out, which is not the same as useful. Shapes: (N, D). Raises UsageError for t or a
    sample that do not fit, DataError for fewer than 2 rows or rows that are not finite.

    >>> round(uniformity(torch.tensor([[1.0, 0.0], [-7.0, 0.0]])), 6)
    -8.0

    Source: Wang and Isola 2020 (arXiv 2005.10242), Equation 2 with their default t.
    """
    if not (t > 0 and math.isfinite(t)):
        raise UsageError(f"Uniformity: t must be positive, but got {t}; the usual value is 2.")
    rows = unit_rows(sample_rows(features, sample, seed, "Uniformity"))
    squares = rows.square().sum(1)
    parts = []
    for start in range(0, len(rows), 512):
        tile = slice(start, start + 512)
        distances = (squares[tile, None] + squares - 2 * rows[tile] @ rows.T).clamp_min_(0.0)
        potentials = distances.mul_(-t)
        potentials.diagonal(start).fill_(-torch.inf)
        parts.append(potentials.logsumexp((0, 1)))
    return float(torch.stack(parts).logsumexp(0)) - math.log(len(rows) * (len(rows) - 1))


def mean_cosine(features: Tensor) -> float:
    r"""Mean cosine of all pairs of distinct rows, in O(ND).

    .. math:: \frac{\|\sum_i u_i\|^2 - \sum_i \|u_i\|^2}{N(N-1)}, \qquad u_i = h_i / \|h_i\|

    Centres nothing: that is its point. Range -1/(N-1) to 1. Near 1 the rows lie in a narrow cone, which a
    strong mean makes alone; it says nothing about the rank around that mean. Shapes: (N, D). Raises DataError
    for fewer than 2 rows or rows that are not finite.

    >>> mean_cosine(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]))
    0.333...

    Source: Ethayarajh 2019 (arXiv 1909.00512), "anisotropy".
    """
    return float(cosine_parts(features).sum())


@dataclass(frozen=True)
class RogueDimensions:
    """What each dimension carries, two vectors (D,) in float64.

    `variance` is its share of the variance, all 0 where nothing varies; `cosine` its part of the mean cosine.
    """

    variance: Tensor
    cosine: Tensor


def rogue_dimensions(features: Tensor) -> RogueDimensions:
    r"""How much of the variance, and of the mean cosine, sits in each single dimension.

    .. math:: v_k = \frac{\mathrm{Var}(h_k)}{\sum_j \mathrm{Var}(h_j)}, \qquad
              c_k = \frac{(\sum_i u_{ik})^2 - \sum_i u_{ik}^2}{N(N-1)}, \quad u_i = h_i / \|h_i\|

    The variance is about the mean; the cosine centres nothing. It depends on the axes: a rotation changes it
    and leaves every rank as it is. So a rogue dimension spoils cosines, and is no collapse. Shapes: (N, D).
    Raises DataError for fewer than 2 rows or rows that are not finite.

    >>> rogue = rogue_dimensions(torch.tensor([[5.0, 1.0], [5.0, -1.0], [5.0, 0.0]]))
    >>> rogue.variance.tolist(), round(float(rogue.cosine[0]), 2)
    ([0.0, 1.0], 0.97)

    Source: Timkey and van Schijndel 2021 (arXiv 2109.04404), Section 3.
    """
    cosine = cosine_parts(features)
    # Twice over the rows: first the mean, then squares around it, so that a large mean costs no digits.
    mean = reduce(torch.add, (block.sum(0) for block in row_blocks(features))) / len(features)
    squares = reduce(torch.add, ((block - mean).square_().sum(0) for block in row_blocks(features)))
    total = squares.sum()
    return RogueDimensions(squares / torch.where(total > 0, total, 1.0), cosine)


def cosine_parts(features: Tensor) -> Tensor:
    """What each dimension contributes to the mean cosine of distinct rows, (D,)."""
    return cosine_parts_of(unit_row_sums(features), len(features))


def unit_row_sums(features: Tensor) -> Tensor:
    """The sums of rows at unit length, and of their squared entries, (2, D), which add up over batches."""
    require_matrix(features)
    sums = torch.zeros(2, features.shape[1], dtype=torch.float64, device=features.device)
    for block in row_blocks(features):
        rows = unit_rows(block)
        sums[0] += rows.sum(0)
        sums[1] += rows.square_().sum(0)  # in place: another array of this size costs more
    return sums


def cosine_parts_of(sums: Tensor, count: int) -> Tensor:
    """`cosine_parts` from the `unit_row_sums` (2, D) of `count` rows."""
    _require_rows(count, 2, "The mean cosine")
    return (sums[0].square() - sums[1]) / (count * (count - 1))


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    r"""The angles between two subspaces of R^D, each spanned by the columns of a matrix, ascending.

    .. math:: \cos\theta_k = \sigma_k(Q_a^\top Q_b), \qquad
              \sin\theta_k = \sigma_{r+1-k}\big((I - Q_a Q_a^\top) Q_b\big)

    with :math:`Q` an orthonormal basis of the columns; columns that depend on the others, to rounding, add
    nothing. Each angle is taken from its sine and its cosine together, so it is exact near 0 and near a right
    angle. Shapes: (D, k) and (D, l) -> (r,), r the smaller of the two ranks, 0 to pi/2. A few small angles
    among many say only that the subspaces meet; two random ones do where k + l > D. Raises UsageError for
    heights that differ, DataError for a matrix of zeros or one that is not finite.

    >>> angles = principal_angles(torch.eye(3)[:, :2], torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    >>> [round(math.degrees(angle), 6) for angle in angles.tolist()]
    [0.0, 45.0]

    Source: Björck and Golub 1973.
    """
    require_matrix(a)
    require_matrix(b)
    if len(a) != len(b):
        raise UsageError(
            f"The subspaces lie in {len(a)} and {len(b)} dimensions; give both as columns of matrices "
            "with as many rows."
        )
    one, other = sorted((_basis(a), _basis(b)), key=lambda basis: -basis.shape[1])
    inner = one.T @ other
    cosines = torch.linalg.svdvals(inner)
    sines = torch.linalg.svdvals(other - one @ inner).flip(0)
    return torch.atan2(sines, cosines)


def sample_rows(features: Tensor, sample: int, seed: int, measure: str) -> Tensor:
    """All rows, or `sample` of them drawn with `seed`, in float64 and in their order; at least 2, finite."""
    require_matrix(features)
    _require_rows(len(features), 2, measure)
    index = sample_index(len(features), sample, seed, measure)
    rows = features.detach()[index.to(features.device)]
    require_finite(rows)
    return rows.double()


def sample_index(count: int, sample: int, seed: int, measure: str) -> Tensor:
    """Which of `count` rows the sample takes, ascending; all where there are no more than `sample`."""
    if sample < 2:
        raise UsageError(f"{measure}: the sample must be 2 rows or more, but got {sample}; leave it out.")
    if count <= sample:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:sample].sort().values


def _require_rows(count: int, least: int, measure: str) -> None:
    if count < least:
        raise DataError(f"{measure} needs {least} or more rows, but got {count}; give it more rows.")


def _basis(columns: Tensor) -> Tensor:
    """An orthonormal basis (D, r), float64, of the space that the columns (D, k) span."""
    require_finite(columns)
    eps = torch.finfo(columns.dtype if columns.is_floating_point() else torch.float64).eps
    left, values, _ = torch.linalg.svd(columns.detach().double().cpu(), full_matrices=False)
    basis: Tensor = left[:, values > values[:1] * max(columns.shape) * eps]
    if not basis.shape[1]:
        raise DataError(
            f"The columns of a matrix of shape {tuple(columns.shape)} are all zero and span no subspace; "
            "give at least 1 column that is not."
        )
    return basis
