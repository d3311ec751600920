"""Rows of features as neighbours of each other: hubs and near duplicates. Nothing is centred."""

from collections.abc import Iterable, Iterator
from itertools import chain

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import row_blocks
from fullrank.spectrum.geometry import sample_index, sample_rows, unit_rows

# Above the rounding of a cosine in float32.
_ROUNDING = 1e-5
# Lengths of rows between these have squares that float32 can hold.
_SHORTEST, _LONGEST = 1e-15, 1e15


def hubness(features: Tensor, k: int = 10, *, sample: int = 4096, seed: int = 0) -> float:
    r"""Skewness of how often a row is among the k nearest neighbours, by cosine, of the other rows.

    .. math:: \frac{\frac1N \sum_i (N_k(i) - k)^3}{\big(\frac1N \sum_i (N_k(i) - k)^2\big)^{3/2}}

    The range is about 0 upwards. It is 0 if every row is a neighbour equally often, and large if a few hubs
    are the neighbours of many. If rows are unevenly spread over the sphere, it grows with their number and
    their intrinsic dimension. Compare equal samples. A high value is not collapse: wide healthy features off
    the origin have hubs. The order of equally similar rows is undefined.

    Args:
        features: Features (N, D).
        k: The number of neighbours of each row.
        sample: The cost is quadratic in N, so of more rows than this a random sample is taken.
        seed: The seed of the sample.

    Raises:
        UsageError: For an invalid k or sample.
        DataError: For k rows or fewer, or rows that are not finite.

    >>> star = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])  # one row is near to all others
    >>> hubness(star, k=1) > 0.5
    True

    Source: Radovanović, Nanopoulos and Ivanović 2010 (JMLR 11), Section 2.
    """
    if not k >= 1:
        raise UsageError(f"Hubness: k must be 1 or more, but got {k}; the usual value is 10.")
    rows = unit_rows(sample_rows(features, sample, seed, "Hubness"))
    if k >= len(rows):
        raise DataError(
            f"Hubness needs more than k={k} rows, but got {len(rows)}; pass more rows or a lower k."
        )
    counts = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, len(rows), 512):
        similarities = rows[start : start + 512] @ rows.T
        similarities.diagonal(start).fill_(-torch.inf)
        nearest = similarities.topk(k).indices.flatten()
        counts += torch.bincount(nearest, minlength=len(rows))
    offset = counts - k
    spread = offset.square().mean()
    return float(offset.pow(3).mean() / spread.pow(1.5)) if spread > 0 else 0.0


def near_duplicates(features: Tensor, cosine: float = 0.99, *, sample: int = 1024, seed: int = 0) -> float:
    """The share of rows that have another row at a cosine of `cosine` or more, 0 to 1.

    Nothing is centred, so a strong mean makes every row a near duplicate of all others. Check `mean_cosine`
    first. A zero row is not a duplicate.

    Args:
        features: Features (N, D).
        cosine: The smallest cosine of near duplicates.
        sample: Of more rows than this a random sample is taken. Each sampled row is compared with all N rows,
            so the share is an unbiased estimate.
        seed: The seed of the sample.

    Raises:
        UsageError: For an invalid cosine or sample.
        DataError: For fewer than 2 rows, or rows that are not finite.

    >>> near_duplicates(torch.tensor([[1.0, 0.0], [2.0, 0.01], [0.0, 1.0], [-1.0, 0.0]]))
    0.5
    """
    measure = "The share of near duplicates"
    index = sample_index(len(features), sample, seed, measure)
    return near_duplicates_among(sample_rows(features, sample, seed, measure), index, [features], cosine)


def near_duplicates_among(
    rows: Tensor, index: Tensor, blocks: Iterable[Tensor], cosine: float = 0.99
) -> float:
    """The share of `rows` that have another row among all N rows at a cosine of `cosine` or more, 0 to 1.

    Args:
        rows: The rows (m, D) to look for.
        index: The position (m,) of each of them among all rows.
        blocks: All N rows in order, in blocks (n, D), so that they need not be in memory together.
        cosine: The smallest cosine of near duplicates.

    Raises:
        UsageError: As `near_duplicates`.
        DataError: As `near_duplicates`.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.01]])
    >>> near_duplicates_among(x[:2], torch.tensor([0, 1]), [x[:1], x[1:]])
    0.5
    """
    if not 0 < cosine < 1:
        raise UsageError(
            f"Near duplicates: the cosine must be above 0 and below 1, but got {cosine}; the usual is 0.99."
        )
    queries = unit_rows(rows)
    roughly = queries.float()
    index = index.to(queries.device)
    duplicated = torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
    start = 0
    for block in chain.from_iterable(map(_blocks, blocks)):
        # float32 takes half the time. Cosines that it cannot place on one side are computed again in float64.
        similarities = _unit_float32(block) @ roughly.T
        inside = ((index >= start) & (index < start + len(block))).nonzero()[:, 0]
        similarities[index[inside] - start, inside] = -torch.inf  # the row itself
        largest = similarities.amax(0)
        duplicated |= largest >= cosine + _ROUNDING
        open_ = (~duplicated & (largest >= cosine - _ROUNDING)).nonzero()[:, 0]
        if len(open_):
            exact = unit_rows(block) @ queries[open_].T
            exact[similarities[:, open_].isneginf()] = -torch.inf
            duplicated[open_] = (exact >= cosine).any(0)
        start += len(block)
    return float(duplicated.double().mean())


def _blocks(features: Tensor) -> Iterator[Tensor]:
    """Features (N, D) in blocks of rows: float32 as they are, others in float64."""
    return row_blocks(features, dtype=torch.float32 if features.dtype == torch.float32 else torch.float64)


def _unit_float32(rows: Tensor) -> Tensor:
    """Rows (n, D) at unit length, float32. A zero row stays zero."""
    if rows.dtype == torch.float32:
        lengths = rows.norm(dim=1, keepdim=True)
        if float(lengths.min()) > _SHORTEST and float(lengths.max()) < _LONGEST:
            return rows / lengths
    return unit_rows(rows).float()
