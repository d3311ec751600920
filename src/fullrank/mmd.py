"""How far the distributions of features under two values of a label are apart, within classes (MMD)."""

from collections.abc import Iterator

import torch
from torch import Tensor

# The bandwidths of the kernel, in units of the median distance.
SCALES = (1.0, 2.0, 4.0, 8.0)
# Rows of one value that a class needs for the unbiased estimate.
LEAST_ROWS = 2


def within_class_mmd(features: Tensor, labels: Tensor, values: Tensor) -> Tensor:
    r"""The squared maximum mean discrepancy between the values of one label, within each class.

    For a class and two values u and v of the label, with the rows x of that class,

    .. math:: \operatorname{MMD}^2 = \operatorname*{mean}_{i \ne j \in u} k(x_i, x_j)
                  + \operatorname*{mean}_{i \ne j \in v} k(x_i, x_j)
                  - 2 \operatorname*{mean}_{i \in u, j \in v} k(x_i, x_j), \quad
              k(x, y) = \tfrac14 \sum_{s \in \{1, 2, 4, 8\}} e^{-|x - y|^2 / (2 s^2 m^2)}

    which is unbiased and may be negative. m is the median distance of all pairs of labelled rows, without
    gradient. The result is the mean over all classes and pairs of values with two rows or more of each. It is
    0, with a zero gradient, if there is no such pair or m is 0. Computed in float64.

    Args:
        features: The features (N, D).
        labels: The class of each row (N,), int64; a row of -1 is left out.
        values: The value of the label of each row (N,), int64; a row of -1 is left out.

    Returns:
        The mean of the estimates, a scalar in the type of the features.

    >>> x = torch.tensor([[0.0], [1.0], [0.0], [1.0], [5.0], [6.0]])
    >>> classes = torch.zeros(6, dtype=torch.int64)
    >>> round(within_class_mmd(x, classes, torch.tensor([0, 0, 1, 1, -1, -1])).item(), 3)
    -0.137
    >>> round(within_class_mmd(x, classes, torch.tensor([0, 0, -1, -1, 1, 1])).item(), 3)
    0.31

    What it cannot see: classes in which only one value has two rows, and differences of scales far from the
    median distance.

    Source: Gretton et al. 2012 (JMLR 13), Equation 3, the unbiased estimate.
    """
    known = (labels >= 0) & (values >= 0)
    rows, labels, values = features[known].double(), labels[known], values[known]
    pairs, total = 0, rows.sum() * 0
    median = _median_distance(rows.detach())
    for members, weights, count in _comparisons(labels, values) if median > 0 else ():
        total = total + (weights * _kernel(_squared_distances(rows[members]), median)).sum()
        pairs += count
    return (total / max(1, pairs)).to(features.dtype)


def _squared_distances(rows: Tensor) -> Tensor:
    """The squared distances of all pairs of rows (N, D), (N, N), with a zero gradient where they are 0."""
    centred = rows - rows.detach().mean(0)  # a large common offset costs no digits
    lengths = centred.square().sum(1)
    return (lengths[:, None] + lengths - 2 * centred @ centred.T).clamp_min(0)


def _median_distance(rows: Tensor) -> float:
    """The median distance of the pairs of rows (N, D), the mean of the two middle ones; 0 below two rows."""
    distances = torch.pdist(rows)
    count = len(distances)
    middle = ((count + 1) // 2, count // 2 + 1) if count else ()
    return sum(float(distances.kthvalue(rank).values) for rank in middle) / 2


def _kernel(squared: Tensor, median: float) -> Tensor:
    """The mean of the Gaussian kernels of all bandwidths."""
    return torch.stack([torch.exp(squared / (-2 * (s * median) ** 2)) for s in SCALES]).mean(0)


def _comparisons(labels: Tensor, values: Tensor) -> Iterator[tuple[Tensor, Tensor, int]]:
    """For each class with a comparison: its rows (n,), the weights of their pairs (n, n), and the number."""
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero()[:, 0]
        _, place, counts = torch.unique(values[members], return_inverse=True, return_counts=True)
        counts = counts.where(counts >= LEAST_ROWS, 0)
        several = int((counts > 0).sum())
        if several < 2:
            continue
        kept = counts[place] > 0
        members, place = members[kept], place[kept]
        own, sizes = place[:, None] == place, counts[place].double()
        # Each value is compared with every other one.
        within = (several - 1) / (sizes * (sizes - 1))
        weights = torch.where(own, within[:, None], -1 / (sizes[:, None] * sizes)).fill_diagonal_(0)
        yield members, weights, several * (several - 1) // 2
