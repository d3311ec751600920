"""Directions of the rows of features (N, D), at unit length: alignment, uniformity, cosines, subspaces."""

import math
from dataclasses import dataclass, field
from functools import cached_property, reduce

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import require_finite, require_matrix, row_blocks


def unit_rows(features: Tensor) -> Tensor:
    """Rows (N, D) at unit length, float64. A zero row stays zero.

    Args:
        features: Features (N, D).

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

    Row i of `b` is the positive of row i of `a`. Nothing is centred. The range is 0 (each pair coincides) to
    2^alpha. A low value alone means nothing, because a collapse to one point has 0.

    Args:
        a: Features (N, D) of the first view.
        b: Features (N, D) of the second view, of the same images in the same order.
        alpha: The power, above 0.

    Raises:
        UsageError: For shapes that differ, or an alpha that is not positive.
        DataError: For no row, or rows that are not finite.

    >>> round(alignment(torch.eye(2), torch.tensor([[5.0, 0.0], [1.0, 0.0]])), 6)
    1.0

    Source: Wang and Isola 2020 (arXiv 2005.10242), Section 4.1.1, with their default alpha.
    """
    if a.shape != b.shape:
        raise UsageError(
            f"Alignment needs pairs of rows, but got shapes {tuple(a.shape)} and {tuple(b.shape)}; pass "
            "both views of the same images in the same order."
        )
    if not (alpha > 0 and math.isfinite(alpha)):
        raise UsageError(f"Alignment: alpha must be positive, but got {alpha}; the usual value is 2.")
    require_matrix(a)
    _require_rows(len(a), 1, "Alignment")
    pairs = zip(row_blocks(a), row_blocks(b), strict=True)
    total = sum(float((unit_rows(x) - unit_rows(y)).norm(dim=1).pow(alpha).sum()) for x, y in pairs)
    return total / len(a)


@dataclass(frozen=True)
class ViewGap:
    """How far two views are apart as wholes, and how often the nearest row of the other view is the pair.

    Attributes:
        distance: The distance of the two means over the spread around them; infinite if neither view varies.
        rows: The unit rows of both views that are compared, each (n, D).
    """

    distance: float
    rows: tuple[Tensor, Tensor] = field(repr=False)

    @cached_property
    def recall(self) -> float:
        """The share of rows of either view whose nearest row of the other view is their pair, 0 to 1."""
        return _recall(*self.rows)

    @cached_property
    def centred_recall(self) -> float:
        """The same after the mean of each view is subtracted from its unit rows."""
        a, b = (unit_rows(side - side.mean(0)) for side in self.rows)
        return _recall(a, b)


def view_gap(a: Tensor, b: Tensor, *, sample: int = 2048, seed: int = 0) -> ViewGap:
    r"""Whether two views of the same rows lie in two cones, as the towers of two modalities do.

    .. math:: \frac{\|\bar u - \bar v\|}{\sqrt{\tfrac1{2N} \sum_i (\|u_i - \bar u\|^2 + \|v_i - \bar v\|^2)}},
              \qquad u_i = \frac{a_i}{\|a_i\|}, \quad v_i = \frac{b_i}{\|b_i\|}

    The distance is about 0 for two views by one encoder. The larger it is, the more does `alignment` measure
    the gap and not the pairs.

    - It cannot see a gap that is a rotation or a change of scale: both leave the means where they are, if
      these are zero.
    - It says nothing about retrieval: a gap that moves all rows of a view alike costs none.
    - Recall falls with the number of pairs, so compare equal samples. Ties count as misses.

    Args:
        a: Features (N, D) of the first view.
        b: Features (N, D) of the second view, of the same images in the same order.
        sample: The cost is quadratic in N, so of more pairs than this a random sample is taken.
        seed: The seed of the sample.

    Raises:
        UsageError: For shapes that differ, or an invalid sample.
        DataError: For fewer than 2 rows, or rows that are not finite.

    >>> x = torch.eye(3, 8)
    >>> away = torch.zeros(8).index_fill(0, torch.tensor(7), 5.0)
    >>> gap = view_gap(x + away, x - away)
    >>> round(gap.distance, 1), gap.recall, gap.centred_recall
    (12.2, 1.0, 1.0)

    Source: the modality gap of Liang et al. 2022 (arXiv 2203.02053), Section 2, over the spread.
    """
    if a.shape != b.shape:
        raise UsageError(
            f"The gap needs pairs of rows, but got shapes {tuple(a.shape)} and {tuple(b.shape)}; pass both "
            "views of the same images in the same order."
        )
    u, v = (unit_rows(sample_rows(side, sample, seed, "The gap of two views")) for side in (a, b))
    spread = float((u.var(0, correction=0) + v.var(0, correction=0)).sum() / 2) ** 0.5
    between = float((u.mean(0) - v.mean(0)).norm())
    distance = between / spread if spread > 0 else math.inf if between > 0 else 0.0
    return ViewGap(distance, (u, v))


def recalled_views(a: Tensor, b: Tensor) -> Tensor:
    r"""How often each image is told from the others by its other view, (n,): 0, 0.5 or 1.

    .. math:: \tfrac12 \big[\, u_i \cdot v_i > \max_{j \ne i} u_i \cdot v_j \,\big] +
              \tfrac12 \big[\, u_i \cdot v_i > \max_{j \ne i} u_j \cdot v_i \,\big]

    The rows are unit rows after the joint mean of both views was subtracted. The mean is the recall at one.

    - It falls with the number of images, so compare equal samples. Ties count as misses.
    - It cannot see whether what tells images apart is what matters: random features that hardly react to the
      views recall every image. It ends at 1, so a hard chain of views tells more candidates apart.

    Args:
        a: Features (n, D) of the first view.
        b: Features (n, D) of the second view, of the same images in the same order.

    Raises:
        UsageError: For shapes that differ.
        DataError: For fewer than 2 rows, or rows that are not finite.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> recalled_views(x, 2 * x).tolist()
    [1.0, 1.0, 1.0]

    Source: the recall of instance retrieval, as in `view_gap`.
    """
    if a.shape != b.shape:
        raise UsageError(
            f"Recall needs pairs of rows, but got shapes {tuple(a.shape)} and {tuple(b.shape)}; pass both "
            "views of the same images in the same order."
        )
    _require_rows(len(a), 2, "The recall of views")
    require_finite(a)
    require_finite(b)
    joint = (a.double().mean(0) + b.double().mean(0)) / 2
    first, second = (unit_rows(side.double() - joint) for side in (a, b))
    shares: Tensor = (_recalled(first, second).double() + _recalled(second, first).double()) / 2
    return shares


def _recall(a: Tensor, b: Tensor) -> float:
    """The share of unit rows of either side that are nearer to their pair than to all others."""
    return float((_recalled(a, b).sum() + _recalled(b, a).sum()) / (2 * len(a)))


def _recalled(queries: Tensor, keys: Tensor) -> Tensor:
    """Whether each unit row of `queries` is nearer to its pair in `keys` than to all others, (n,)."""
    hits = []
    for start in range(0, len(queries), 512):
        cosines = queries[start : start + 512] @ keys.T
        own = cosines.diagonal(start).clone()
        cosines.diagonal(start).fill_(-torch.inf)
        hits.append(own > cosines.amax(1))
    return torch.cat(hits)


def uniformity(features: Tensor, t: float = 2.0, *, sample: int = 4096, seed: int = 0) -> float:
    r"""Logarithm of the mean Gaussian potential of distinct rows on the unit sphere.

    .. math:: \ln \frac{1}{N(N-1)} \sum_{i \ne j} e^{-t \|u_i - u_j\|^2}, \qquad u_i = h_i / \|h_i\|

    Rows are normalised but not centred. The range is -4t to 0, where all rows coincide. A uniform
    distribution on a wide sphere has about -2t. A low value means spread out, not useful.

    Args:
        features: Features (N, D).
        t: The inverse squared width of the Gaussian, above 0.
        sample: The cost is quadratic in N, so of more rows than this a random sample is taken.
        seed: The seed of the sample.

    Raises:
        UsageError: For an invalid t or sample.
        DataError: For fewer than 2 rows, or rows that are not finite.

    >>> round(uniformity(torch.tensor([[1.0, 0.0], [-7.0, 0.0]])), 6)
    -8.0

    Source: Wang and Isola 2020 (arXiv 2005.10242), Section 4.1.2, with their default t.
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


def self_cluster(features: Tensor) -> float:
    r"""Self-cluster: how far unit rows are from even: about 0 for isotropic noise, 1 for one direction.

    .. math:: \frac{S - N - N (N - 1) / D}{N^2 - N - N (N - 1) / D}, \qquad S = \sum_{ij} \cos^2(x_i, x_j)

    What it cannot see: whether the clusters are useful. Its authors' successors found it a negative sign of
    quality for self-supervised nets, and no sign for supervised ones. Nothing is centred.

    Args:
        features: Features (N, D), D of 2 or more.

    Raises:
        UsageError: For features that are not a matrix, or one channel.
        DataError: For fewer than 2 rows, or rows that are not finite.

    >>> round(self_cluster(torch.ones(5, 3)), 6), round(self_cluster(torch.eye(3)), 6)
    (1.0, -0.5)

    Source: the metric of that name in a study of 260 vision models (2608.23182).
    """
    require_matrix(features)
    count, width = features.shape
    _require_rows(count, 2, "Self-cluster")
    if width < 2:
        raise UsageError("Self-cluster needs 2 channels or more, but got 1; one channel is one direction.")
    require_finite(features)
    rows = unit_rows(features.double())
    gram = rows.T @ rows if width <= count else rows @ rows.T
    squares = float(gram.square().sum())
    even = count * (count - 1) / width
    return (squares - count - even) / (count**2 - count - even)


def mean_cosine(features: Tensor) -> float:
    r"""Mean cosine of all pairs of distinct rows, in O(ND).

    .. math:: \frac{\|\sum_i u_i\|^2 - \sum_i \|u_i\|^2}{N(N-1)}, \qquad u_i = h_i / \|h_i\|

    The rows are deliberately not centred. The range is -1/(N-1) to 1. Near 1 the rows lie in a narrow cone. A
    strong mean alone causes this, so the value says nothing about the rank around the mean.

    Args:
        features: Features (N, D).

    Raises:
        DataError: For fewer than 2 rows, or rows that are not finite.

    >>> mean_cosine(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]))
    0.333...

    Source: Ethayarajh 2019 (arXiv 1909.00512), "anisotropy".
    """
    return float(cosine_parts(features).sum())


@dataclass(frozen=True)
class RogueDimensions:
    """The contribution of each dimension to the variance and to the mean cosine.

    Attributes:
        variance: The share of each dimension in the variance (D,), float64. All are 0 if nothing varies.
        cosine: The part of each dimension in the mean cosine (D,), float64.
    """

    variance: Tensor
    cosine: Tensor


def rogue_dimensions(features: Tensor) -> RogueDimensions:
    r"""The share of each single dimension in the variance and in the mean cosine.

    .. math:: v_k = \frac{\mathrm{Var}(h_k)}{\sum_j \mathrm{Var}(h_j)}, \qquad
              c_k = \frac{(\sum_i u_{ik})^2 - \sum_i u_{ik}^2}{N(N-1)}, \quad u_i = h_i / \|h_i\|

    The variance is about the mean. The cosine is not centred. Both depend on the axes: a rotation changes
    them and leaves every rank unchanged. A rogue dimension therefore distorts cosines but is not collapse.

    Args:
        features: Features (N, D).

    Raises:
        DataError: For fewer than 2 rows, or rows that are not finite.

    >>> rogue = rogue_dimensions(torch.tensor([[5.0, 1.0], [5.0, -1.0], [5.0, 0.0]]))
    >>> rogue.variance.tolist(), round(float(rogue.cosine[0]), 2)
    ([0.0, 1.0], 0.97)

    Source: Timkey and van Schijndel 2021 (arXiv 2109.04404), Section 3.
    """
    cosine = cosine_parts(features)
    # Two passes over the rows, first the mean, then squares around it: a large mean then costs no precision.
    mean = reduce(torch.add, (block.sum(0) for block in row_blocks(features))) / len(features)
    squares = reduce(torch.add, ((block - mean).square_().sum(0) for block in row_blocks(features)))
    total = squares.sum()
    return RogueDimensions(squares / torch.where(total > 0, total, 1.0), cosine)


def cosine_parts(features: Tensor) -> Tensor:
    """The contribution (D,) of each dimension to the mean cosine of distinct rows."""
    return cosine_parts_of(unit_row_sums(features), len(features))


def unit_row_sums(features: Tensor) -> Tensor:
    """The sums of unit-length rows and of their squared entries, (2, D). Both add up over batches."""
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

    Here :math:`Q` is an orthonormal basis of the columns. Columns that depend linearly on the others, up to
    rounding, add nothing. Each angle comes from its sine and cosine together, so it is exact near 0 and near
    a right angle. A few small angles among many show only that the subspaces intersect. Two random subspaces
    do if k + l > D.

    Args:
        a: A matrix (D, k).
        b: A matrix (D, l).

    Returns:
        The angles (r,) in radians, 0 to pi/2. r is the smaller of the two ranks.

    Raises:
        UsageError: For different numbers of rows.
        DataError: For a matrix of zeros, or one that is not finite.

    >>> angles = principal_angles(torch.eye(3)[:, :2], torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    >>> [round(math.degrees(angle), 6) for angle in angles.tolist()]
    [0.0, 45.0]

    Source: Björck and Golub 1973.
    """
    require_matrix(a)
    require_matrix(b)
    if len(a) != len(b):
        raise UsageError(
            f"The subspaces lie in {len(a)} and {len(b)} dimensions; pass both as columns of matrices with "
            "the same number of rows."
        )
    one, other = sorted((_basis(a), _basis(b)), key=lambda basis: -basis.shape[1])
    inner = one.T @ other
    cosines = torch.linalg.svdvals(inner)
    sines = torch.linalg.svdvals(other - one @ inner).flip(0)
    return torch.atan2(sines, cosines)


def sample_rows(features: Tensor, sample: int, seed: int, measure: str) -> Tensor:
    """All rows, or a random sample of them, float64, in their order. At least 2 rows, all finite."""
    require_matrix(features)
    _require_rows(len(features), 2, measure)
    index = sample_index(len(features), sample, seed, measure)
    rows = features.detach()[index.to(features.device)]
    require_finite(rows)
    return rows.double()


def sample_index(count: int, sample: int, seed: int, measure: str) -> Tensor:
    """The sampled row numbers of `count` rows, ascending. All rows if there are at most `sample`."""
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
            "pass at least 1 nonzero column."
        )
    return basis
