"""What auditors of embedding files count: hubs, rogue dimensions, near duplicates. Nothing is centred."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import row_blocks
from fullrank.spectrum.geometry import cosine_parts, drawn_index, drawn_rows, unit_rows


@dataclass(frozen=True)
class RogueDimensions:
    """What each single dimension carries, two vectors (D,) in float64.

    `variance` is its share of the total variance, 0 to 1, all 0 where nothing varies. `cosine` is what it
    contributes to the mean cosine of distinct rows; their sum is that mean cosine.
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

    >>> found = rogue_dimensions(torch.tensor([[5.0, 1.0], [5.0, -1.0], [5.0, 0.0]]))
    >>> found.variance.tolist(), round(float(found.cosine[0]), 2)
    ([0.0, 1.0], 0.97)

    Source: Timkey and van Schijndel 2021 (arXiv 2109.04404), Section 3.
    """
    cosine = cosine_parts(features)
    # Twice over the rows: first the mean, then squares around it, so that a large mean costs no digits.
    mean = sum((block.sum(0) for block in row_blocks(features)), torch.zeros_like(cosine)) / len(features)
    squares = sum(
        ((block - mean).square_().sum(0) for block in row_blocks(features)), torch.zeros_like(cosine)
    )
    total = squares.sum()
    return RogueDimensions(squares / torch.where(total > 0, total, 1.0), cosine)


def hubness(features: Tensor, k: int = 10, *, sample: int = 4096, seed: int = 0) -> float:
    r"""Skewness of how often a row is among the k nearest, by cosine, of the other rows.

    .. math:: \frac{\frac1N \sum_i (N_k(i) - k)^3}{\big(\frac1N \sum_i (N_k(i) - k)^2\big)^{3/2}}

    Range: about 0 where all rows are alike as neighbours, unbounded above where a few hubs are the neighbours
    of many; 0 where every row is a neighbour equally often. Where rows are not spread evenly over the sphere
    it grows with their number and their intrinsic dimension, so compare equal samples; a high value is no
    collapse, since wide healthy features off the origin have hubs. Quadratic in N: of more than `sample` rows
    that many are drawn with `seed`. Which of equally similar rows is the nearer is not defined. Shapes:
    (N, D). Raises UsageError for k or a sample that do not fit, DataError for k rows or fewer or rows that
    are not finite.

    >>> star = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])  # one row is near to all others
    >>> hubness(star, k=1) > 0.5
    True

    Source: Radovanović, Nanopoulos and Ivanović 2010 (JMLR 11), Section 2.
    """
    if not k >= 1:
        raise UsageError(f"Hubness: k must be 1 or more, but got {k}; the usual value is 10.")
    rows = unit_rows(drawn_rows(features, sample, seed, "Hubness"))
    if k >= len(rows):
        raise DataError(f"Hubness needs more than k={k} rows, but got {len(rows)}; give more, or a lower k.")
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

    Centres nothing, so a strong mean makes every row a near duplicate of all others: look at `mean_cosine`
    first. Of more than `sample` rows that many are drawn with `seed`, and each is compared with all N rows,
    so the share is an unbiased estimate. A zero row is no duplicate. Shapes: (N, D). Raises UsageError for a
    cosine or a sample that do not fit, DataError for fewer than 2 rows or rows that are not finite.

    >>> near_duplicates(torch.tensor([[1.0, 0.0], [2.0, 0.01], [0.0, 1.0], [-1.0, 0.0]]))
    0.5
    """
    what = "The share of near duplicates"
    chosen = drawn_index(len(features), sample, seed, what)
    return near_duplicates_among(drawn_rows(features, sample, seed, what), chosen, [features], cosine)


def near_duplicates_among(
    rows: Tensor, index: Tensor, blocks: Iterable[Tensor], cosine: float = 0.99
) -> float:
    """The share of `rows` that have another row among all of them at a cosine of `cosine` or more, 0 to 1.

    All N rows come in `blocks` (n, D), in order, so that they need not be in memory together; `index` (m,)
    says where each of `rows` (m, D) stands among them. Raises as `near_duplicates` does.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.01]])
    >>> near_duplicates_among(x[:2], torch.tensor([0, 1]), [x[:1], x[1:]])
    0.5
    """
    if not 0 < cosine < 1:
        raise UsageError(
            f"Near duplicates: the cosine must be above 0 and below 1, but got {cosine}; the usual is 0.99."
        )
    queries = unit_rows(rows.double())
    chosen = index.to(queries.device)
    found = torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
    start = 0
    for block in (piece for given in blocks for piece in row_blocks(given)):
        similarities = unit_rows(block) @ queries.T
        inside = ((chosen >= start) & (chosen < start + len(block))).nonzero()[:, 0]
        similarities[chosen[inside] - start, inside] = -torch.inf  # the row itself
        found |= (similarities >= cosine).any(0)
        start += len(block)
    return float(found.double().mean())
