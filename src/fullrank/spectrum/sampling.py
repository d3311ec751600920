"""How far a measure of a spectrum would move with another sample of rows."""

import math

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import require_finite, require_matrix

# Directions with less of the largest variance are rounding, and the square root has no slope there.
_ROUNDING = 1e-14


def effective_rank_error(features: Tensor, rows: int | None = None) -> float:
    r"""The standard error of `effective_rank` over samples of rows, by the infinitesimal jackknife.

    .. math:: \mathrm{se}^2 = \frac{1}{N} \operatorname{Var}_i \Big( \sum_k \frac{\partial
              \mathrm{erank}}{\partial \lambda_k} \big( v_k^\top (h_i - \bar h) \big)^2 \Big)

    Here :math:`\lambda_k` and :math:`v_k` are the eigenvalues and eigenvectors of the covariance. It is the
    limit of the bootstrap over rows and needs one decomposition. It estimates the spread over samples of as
    many rows, not the bias: with more rows the effective rank itself grows. It is too small for features with
    a few rows of many times the usual norm. In a flat spectrum it is up to twice too large.

    Args:
        features: Features (n, D).
        rows: The number of rows N that the effective rank was measured on, where the features are a sample of
            them. None means n.

    Raises:
        UsageError: For another shape, or for `rows` below n.
        DataError: For fewer than 2 rows, or rows that are not finite.

    >>> x = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    >>> effective_rank_error(x, rows=2000) == effective_rank_error(x) / 2
    True

    Source: Jaeckel 1972 (Bell Labs memorandum); Efron 1982, The Jackknife, the Bootstrap and Other Resampling
    Plans, section 6.3.
    """
    require_matrix(features)
    count, width = features.shape
    total = count if rows is None else rows
    if count < 2:
        raise DataError(f"The error of an effective rank needs 2 rows or more, but got {count}; give more.")
    if total < count:
        raise UsageError(f"rows must be {count} or more, the rows given, but got {total}; leave it out.")
    require_finite(features)
    x = features.detach().double().cpu()
    x = x - x.mean(0)
    gram = x.T @ x if width <= count else x @ x.T
    values, vectors = torch.linalg.eigh(gram / count)
    present = values > _ROUNDING * values[-1]
    if not present.any():
        return 0.0
    values, vectors = values[present], vectors[:, present]
    roots = values.sqrt()
    p = roots / roots.sum()
    entropy = torch.special.entr(p).sum()
    slopes = -entropy.exp() * (p.log() + entropy) / (2 * roots * roots.sum())
    squares = (x @ vectors).square() if width <= count else vectors.square() * values * count
    return float((squares @ slopes).std(correction=0)) / math.sqrt(total)
