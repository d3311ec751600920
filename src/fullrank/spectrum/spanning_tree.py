"""Intrinsic dimension from the length of minimum spanning trees."""

import math

import numpy as np
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import row_coordinates
from fullrank.spectrum.geometry import sample_rows

_LEAST, _SIZES = 50, 6


def mst_dimension(features: Tensor, *, sample: int = 500, draws: int = 2, seed: int = 0) -> float:
    r"""The dimension by which the minimum spanning tree of n rows grows: IdEst.

    .. math:: L(n) \propto n^{(d - 1) / d}, \qquad \hat d = \frac{1}{1 - m}, \quad
              m = \text{slope of } \ln L(n) \text{ against } \ln n

    L(n) is the mean length over random subsets of n rows, for six sizes from 50 to `sample`. Equal rows
    count once.

    What it cannot see: whether the directions are useful. Between encoders its authors found lower to be
    better; between layers of one net a higher intrinsic dimension was better. It is too low for many
    dimensions, and infinite where the slope reaches 1.

    Args:
        features: Features (N, D).
        sample: The largest subset; the cost is quadratic in it.
        draws: The number of subsets of each size.
        seed: The seed of the subsets.

    Raises:
        UsageError: For features that are not a matrix, an invalid sample, or no draw.
        DataError: For fewer than 100 different rows, or rows that are not finite.

    >>> import torch
    >>> x = torch.rand(800, 2, generator=torch.Generator().manual_seed(0))
    >>> 1.7 < mst_dimension(x) < 2.3
    True

    Source: IdEst (2606.03338); Steele 1988 on the length of spanning trees.
    """
    if draws < 1:
        raise UsageError(f"Spanning trees need 1 draw or more, but got {draws}; the default is 2.")
    rows = (
        row_coordinates(sample_rows(features, sample, seed, "The dimension by spanning trees")).cpu().numpy()
    )
    points = rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
    if len(points) < 2 * _LEAST:
        raise DataError(
            f"The dimension by spanning trees needs {2 * _LEAST} different rows, but got {len(points)}."
        )
    distances = squareform(pdist(points))
    sizes = np.unique(np.geomspace(_LEAST, len(points), _SIZES).round().astype(int))
    generator = np.random.default_rng(seed)
    lengths = []
    for size in sizes:
        of_size = []
        for _ in range(draws):
            some = generator.permutation(len(points))[:size]
            of_size.append(minimum_spanning_tree(distances[np.ix_(some, some)]).sum())
        lengths.append(np.mean(of_size))
    slope = float(np.polyfit(np.log(sizes), np.log(lengths), 1)[0])
    return 1 / (1 - slope) if slope < 1 else math.inf
