"""Classes as points: the variance within classes, and groups of rows that nearly coincide."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import require_finite, require_matrix
from fullrank.spectrum.geometry import sample_index, sample_rows

# How many rows are compared with all others at once.
_TILE = 512
# In how many directions rows are compared first.
_DIRECTIONS = 16


def within_class_share(features: Tensor, labels: Tensor) -> float:
    r"""The variance within classes as a share of the total variance, on rows that did not make the means.

    .. math:: \frac1N \sum_i \Big(1 - \frac1{n_i}\Big) \|h_i - \mu_i\|^2 \Big/
              \frac1{N-1} \sum_i \|h_i - \bar h\|^2

    :math:`\mu_i` is the mean of the other rows of the class of row i, and :math:`n_i` is the number of rows
    in that class. The factor :math:`1 - 1/n_i` removes the error of the mean, so small classes are not
    flattered.

    - The value is 0 if each class is one point, and 1 on average if labels have nothing to do with features.
    - It cannot see whether classes are tight or far from each other: two groups at a distance of 120 with
      unit noise in 64 dimensions have 0.017.
    - It cannot see points that the labels do not name; `point_groups` finds these.
    - Rows in the wrong class raise it: 1 % of such rows cost about 0.02.

    Args:
        features: Features (N, D).
        labels: The class of each row, (N,), whole numbers; rows below 0 are left out, and so are classes of
            one row.

    Raises:
        UsageError: For labels of another length.
        DataError: For fewer than 2 classes of 2 rows or more, rows that are not finite, or no variance.

    >>> x = torch.eye(2)[[0, 0, 1, 1]]
    >>> within_class_share(x, torch.tensor([0, 0, 1, 1])), within_class_share(x, torch.tensor([0, 1, 0, 1]))
    (0.0, 1.5)

    Source: the within-class variability of Papyan, Han and Donoho 2020 (PNAS 117), on other rows.
    """
    rows, labels = _labelled(features, labels, "The within-class share")
    total = float(rows.var(0).sum())
    if total == 0:
        raise DataError(f"The within-class share of {len(rows)} equal rows is not defined; give other rows.")
    means, counts = _class_means(rows, labels)
    offsets = (rows - means[labels]).square().sum(1)
    # A row is n / (n - 1) times as far from the mean of the others as from the mean of all n.
    return float((offsets * (1 + 1 / (counts.double() - 1))[labels]).mean()) / total


def nc1(features: Tensor, labels: Tensor) -> float:
    r"""Neural collapse, first property: the variability within classes relative to that between them.

    .. math:: \mathrm{NC1} = \tfrac1C \operatorname{tr}\big(\Sigma_W \Sigma_B^{+}\big)

    .. math:: \Sigma_W = \tfrac1N \sum_i (h_i - \mu_{c_i})(h_i - \mu_{c_i})^\top, \qquad
              \Sigma_B = \tfrac1C \sum_c (\mu_c - \bar h)(\mu_c - \bar h)^\top

    The range is 0 upwards. It counts noise only in the directions of the class means, so noise in all others
    is not seen. The rows that are measured also make the means, so classes of a few rows are flattered;
    `within_class_share` has neither fault.

    Args:
        features: Features (N, D).
        labels: The class of each row, (N,), whole numbers; rows below 0 are left out, and so are classes of
            one row.

    Raises:
        UsageError: For labels of another length.
        DataError: For fewer than 2 classes of 2 rows or more, rows that are not finite, or equal means.

    >>> x = torch.tensor([[1.0, 0], [1, 1], [-1, 0], [-1, 1]])
    >>> nc1(x, torch.tensor([0, 0, 1, 1]))  # the classes differ in the first channel, the rows in the second
    0.0

    Source: Papyan, Han and Donoho 2020 (PNAS 117), Section "Neural collapse", (NC1).
    """
    rows, labels = _labelled(features, labels, "NC1")
    rows = rows - rows.mean(0)
    means, _ = _class_means(rows, labels)
    # Weighted by the rows of the classes, the means add up to zero, so they span one direction less.
    _, scales, directions = torch.linalg.svd(means / len(means) ** 0.5, full_matrices=False)
    scales, directions = scales[: len(means) - 1], directions[: len(means) - 1]
    live = scales > scales[0] * max(means.shape) * torch.finfo(torch.float32).eps
    if not scales[0] > 0:
        raise DataError(f"NC1 of {len(means)} classes with equal means is not defined; give other labels.")
    within = (rows - means[labels]) @ (directions[live] / scales[live, None]).T
    return float(within.square().sum()) / len(rows) / len(means)


@dataclass(frozen=True)
class PointGroups:
    """Groups of rows that are nearly one point.

    Attributes:
        rows: The numbers of the rows that were compared, (n,), ascending.
        groups: The number of the group of each of them, (n,); -1 for a row in none.
    """

    rows: Tensor
    groups: Tensor

    @property
    def sizes(self) -> list[int]:
        """The number of rows in each group."""
        return torch.bincount(self.groups[self.groups >= 0]).tolist()

    @property
    def share(self) -> float:
        """The share of the compared rows that are in a group, 0 to 1."""
        return float((self.groups >= 0).double().mean())


def point_groups(
    features: Tensor, share: float = 0.01, least: int = 10, *, sample: int = 4096, seed: int = 0
) -> PointGroups:
    r"""Groups of different rows that are nearly one point: components of the graph of near rows.

    .. math:: i \sim j \iff \|h_i - h_j\| < s\,r, \qquad
              r^2 = \frac{1}{N(N-1)} \sum_{i \ne j} \|h_i - h_j\|^2

    A group is a component of `least` different rows or more, with a root mean square distance of less than
    s r from its mean. Equal rows count once, because copies, codes and rounded features have them without
    any collapse.

    - It cannot see points with fewer than `least` rows in the sample, such as 1,000 classes of 4 rows.
    - One far row makes r large. All other rows are then one group.
    - In one or two dimensions, healthy clusters far from each other look like points.

    Args:
        features: Features (N, D).
        share: Rows nearer than this share of the root mean square distance r are joined, between 0 and 1.
        least: The smallest number of different rows of a group, 2 or more.
        sample: The cost is quadratic in N, so of more rows than this a random sample is taken.
        seed: The seed of the sample.

    Returns:
        The groups, numbered from 0 in the order of their first row.

    Raises:
        UsageError: For an invalid share, least or sample.
        DataError: For fewer than 2 rows, or rows that are not finite.

    >>> centres = torch.tensor([[0.0, 1.0], [5.0, 0.0]]).repeat_interleave(20, 0)
    >>> groups = point_groups(centres + 1e-4 * torch.randn(40, 2))
    >>> groups.sizes, groups.share
    ([20, 20], 1.0)
    """
    if not 0 < share < 1:
        raise UsageError(f"Point groups: share must be between 0 and 1, but got {share}; the usual is 0.01.")
    if least < 2:
        raise UsageError(f"Point groups: least must be 2 or more, but got {least}; the usual is 10.")
    rows = sample_rows(features, sample, seed, "Point groups").cpu()
    numbers = sample_index(len(features), sample, seed, "Point groups")
    rows -= rows.mean(0)
    limit = share * float(2 * rows.var(0).sum()) ** 0.5
    different, copies = torch.unique(rows, dim=0, return_inverse=True)
    component = _components(different, limit)
    means, counts = _class_means(different, component)
    squared = torch.zeros(len(counts), dtype=rows.dtype)
    squared.index_add_(0, component, (different - means[component]).square().sum(1))
    is_group = (counts >= least) & (squared < counts * limit**2)
    found = torch.where(is_group[component], component, -1)[copies].tolist()
    order = {old: new for new, old in enumerate(dict.fromkeys(old for old in found if old >= 0))}
    return PointGroups(numbers, torch.tensor([order.get(old, -1) for old in found]))


def _components(rows: Tensor, limit: float) -> Tensor:
    """The component (n,) of each of the centred `rows` in the graph that joins rows nearer than `limit`."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(rows)
    own, component = np.arange(count), np.arange(count)
    # Rows are not farther apart in a few orthonormal directions, which costs a fraction where none is near.
    draw = torch.randn(rows.shape[1], _DIRECTIONS, generator=torch.Generator().manual_seed(0)).double()
    seen_from_aside = rows @ torch.linalg.qr(draw).Q
    for start in range(0, count, _TILE):
        near = _squared_distances(seen_from_aside, start) < limit**2
        if int(near.sum()) > len(near):
            near = _squared_distances(rows, start) < limit**2
        i, j = near.numpy().nonzero()
        # What earlier tiles joined is one extra node per component, so their edges need not be kept.
        ends = np.concatenate([i + start, own]), np.concatenate([j, count + component])
        graph = coo_array((np.ones(len(ends[0]), bool), ends), shape=(2 * count, 2 * count))
        joined = connected_components(graph, directed=False)[1][:count]
        component = np.unique(joined, return_inverse=True)[1]
    return torch.from_numpy(component)


def _squared_distances(rows: Tensor, start: int) -> Tensor:
    """The squared distances (t, n) of a tile of rows to all rows."""
    tile, squares = rows[start : start + _TILE], rows.square().sum(1)
    return torch.addmm(squares, tile, rows.T, alpha=-2).add_(tile.square().sum(1, keepdim=True))


def _labelled(features: Tensor, labels: Tensor, measure: str) -> tuple[Tensor, Tensor]:
    """The rows of classes with 2 rows or more, float64, and their classes numbered from 0."""
    require_matrix(features)
    if labels.shape != features.shape[:1]:
        raise UsageError(
            f"{measure}: expected {len(features)} labels, one per row, but got {tuple(labels.shape)}; give "
            "-1 for rows without a label."
        )
    labels = labels.to(features.device).long()
    classes, inverse, counts = labels.unique(return_inverse=True, return_counts=True)
    usable = (classes >= 0) & (counts > 1)
    if usable.sum() < 2:
        raise DataError(
            f"{measure} needs 2 or more classes of 2 rows or more, but got {int(usable.sum())}; give other "
            "labels or more rows."
        )
    stays = usable[inverse]
    rows = features.detach()[stays]
    require_finite(rows)
    return rows.double(), labels[stays].unique(return_inverse=True)[1]


def _class_means(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (C, D) and the number (C,) of the rows of each class."""
    counts = torch.bincount(labels)
    sums = torch.zeros(len(counts), rows.shape[1], dtype=rows.dtype, device=rows.device)
    return sums.index_add_(0, labels, rows) / counts[:, None], counts
