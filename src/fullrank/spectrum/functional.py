"""Measures of features (N, D), named after their papers. The twins in `_of` take a spectrum (D,)."""

import warnings
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from fullrank import statistics
from fullrank.errors import DataError, UsageError
from fullrank.linalg import (
    Gram,
    Moments,
    require_finite,
    require_matrix,
    require_rows,
    row_blocks,
    second_moments,
)
from fullrank.spectrum.geometry import unit_rows


def singular_values(features: Tensor) -> Tensor:
    r"""Singular values of the centred covariance of raw features, descending, in float64.

    .. math:: C = \tfrac1N \sum_i (h_i - \bar h)(h_i - \bar h)^\top

    Args:
        features: Features (N, D).

    Returns:
        The singular values (D,), in the square of the features' unit. At most N - 1 are above zero. Values
            below zero by rounding are returned as 0.

    Raises:
        UsageError: For another shape.
        DataError: For no row, or rows that are not finite.

    >>> singular_values(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    tensor([1., 0.], dtype=torch.float64)

    Source: P1 Section 3 and Figures 2, 7 and 9 (their logarithms).
    """
    return second_moments(features).singular_values()


def normalised_singular_values(features: Tensor) -> Tensor:
    r"""Singular values of the centred covariance of the L2-normalised rows, descending, in float64.

    .. math:: C = \tfrac1N \sum_i (u_i - \bar u)(u_i - \bar u)^\top, \qquad u_i = h_i / \|h_i\|

    Their sum is :math:`1 - \|\bar u\|^2`, so at most 1. A cosine loss sees this spectrum, not the raw one.

    Args:
        features: Features (N, D).

    Returns:
        The singular values (D,).

    Raises:
        FullrankError: As `singular_values`.

    >>> normalised_singular_values(torch.tensor([[9.0, 0.0], [-1.0, 0.0]]))
    tensor([1., 0.], dtype=torch.float64)
    """
    require_matrix(features)
    width = features.shape[1]
    if 0 < len(features) < width:
        require_finite(features)
        return Gram.of(unit_rows(features)).singular_values()
    parts = (Moments.of(unit_rows(block)) for block in row_blocks(features, at_least=width))
    return reduce(Moments.merge, parts, Moments.empty(width, features.device)).singular_values()


def matrix_singular_values(features: Tensor) -> Tensor:
    """Singular values of the feature matrix itself, uncentred, descending, in float64.

    They come from a singular value decomposition of the whole matrix: exact to rounding, in O(ND) memory. If
    memory is too small for that, use `Moments`.

    Args:
        features: Features (N, D).

    Returns:
        The singular values (min(N, D),).

    Raises:
        FullrankError: As `singular_values`.

    >>> matrix_singular_values(torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]))
    tensor([4., 3.], dtype=torch.float64)
    """
    require_matrix(features)
    require_rows(len(features))
    require_finite(features)
    values: Tensor = torch.linalg.svdvals(features.detach().double().cpu())
    return values


def rankme(features: Tensor, eps: float = 1e-7) -> float:
    r"""RankMe: the exponential of the entropy of the normalised singular values of the features, uncentred.

    .. math:: p_k = \frac{\sigma_k}{\|\sigma\|_1} + \epsilon, \qquad \exp\Big(-\sum_k p_k \ln p_k\Big)

    As published, :math:`\sigma` are the min(N, D) singular values of the matrix itself. A strong mean alone
    therefore brings RankMe near 1. The range is 1 to min(N, D), plus what epsilon adds (1.003 for rank one of
    width 2048). It is 0 if all features are zero. It compares runs of one method, not methods.

    Args:
        features: Features (N, D).
        eps: Added to each normalised singular value.

    Raises:
        UsageError: For another shape, or a negative epsilon.
        DataError: For no row, or rows that are not finite.

    >>> round(rankme(torch.eye(4)), 4)
    4.0

    Source: Garrido et al. 2023 (arXiv 2210.02885), Equation 1; 25,600 rows suffice there.
    """
    return rankme_of(matrix_singular_values(features), eps)


def rankme_of(values: Tensor, eps: float = 1e-7) -> float:
    """`rankme` from the singular values of the features, as `matrix_singular_values` returns them.

    With values from `Moments.matrix_singular_values`, the relative error is about 1e-5 if directions are
    missing.

    Args:
        values: Singular values (min(N, D),) of the features.
        eps: Added to each normalised singular value.

    Raises:
        UsageError: For anything that is not a spectrum, or an epsilon outside 0 to 1.

    >>> round(rankme_of(torch.tensor([2.0, 2.0, 0.0])), 4)
    2.0
    """
    if not 0 <= eps < 1:
        raise UsageError(
            f"RankMe: eps must be from 0 to below 1, but got {eps}; the published value is 1e-7."
        )
    values = _spectrum(values)
    if values.sum() == 0:
        return 0.0
    p = values / values.sum() + eps
    return float(torch.special.entr(p).sum().exp())


def effective_rank(features: Tensor) -> float:
    r"""The exponential of the entropy of the normalised singular values of the centred features.

    .. math:: p_k = \sqrt{\lambda_k} / \sum_j \sqrt{\lambda_j}, \quad
              \mathrm{erank} = \exp\Big(-\sum_k p_k \ln p_k\Big)

    Here :math:`\lambda` are the `singular_values`, so the features are centred. The range is 1 to min(N - 1,
    D), or 0 if nothing varies. It compares runs of one method, not heads or methods.

    Args:
        features: Features (N, D).

    Raises:
        FullrankError: As `singular_values`.

    >>> round(effective_rank(torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])), 6)
    2.0

    Source: Roy and Vetterli 2007, Definition 1.
    """
    return effective_rank_of(_covariance_spectrum(features, "effective_rank")[0])


def effective_rank_of(values: Tensor) -> float:
    """`effective_rank` from a covariance spectrum.

    Args:
        values: Singular values (D,) of the covariance, as `singular_values` returns them.

    Raises:
        UsageError: For anything that is not a spectrum.

    >>> round(effective_rank_of(torch.tensor([1.0, 1.0, 0.0])), 6)
    2.0
    """
    roots = _spectrum(values).sqrt()
    if roots.sum() == 0:
        return 0.0
    p = roots / roots.sum()
    return float(torch.special.entr(p).sum().exp())


def participation_ratio(features: Tensor) -> float:
    r"""Participation ratio of the features' covariance.

    .. math:: \frac{(\sum_k \lambda_k)^2}{\sum_k \lambda_k^2}

    Here :math:`\lambda` are the `singular_values`, so the features are centred. The range is 1 to D, or 0 if
    nothing varies. It counts the directions with most of the variance and ignores a long tail, so a low value
    alone does not mean collapse. It is sometimes called the stable rank, which is a different measure.

    Args:
        features: Features (N, D).

    Raises:
        FullrankError: As `singular_values`.

    >>> participation_ratio(torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]))
    2.0

    Source: Gao et al. 2017 (bioRxiv 214262), "dimensionality".
    """
    return participation_ratio_of(_covariance_spectrum(features, "participation_ratio")[0])


def participation_ratio_of(values: Tensor) -> float:
    """`participation_ratio` from a covariance spectrum.

    Args:
        values: Singular values (D,) of the covariance, as `singular_values` returns them.

    Raises:
        UsageError: For anything that is not a spectrum.

    >>> participation_ratio_of(torch.tensor([3.0, 3.0, 0.0]))
    2.0
    """
    values = _relative(values)
    return float(values.sum().square() / values.square().sum()) if values.any() else 0.0


def isotropy_ratio(features: Tensor) -> float:
    r"""The participation ratio over the width, 1/D (one direction) to 1 (all directions alike).

    .. math:: \frac{(\sum_k \lambda_k)^2}{D \sum_k \lambda_k^2}

    The mean over the standard deviation of the :math:`\lambda_k`, as LOES has it, is a monotone of it:
    :math:`1 / \sqrt{1 / \mathrm{isotropy} - 1}`.

    What it cannot see: whether the directions are useful. It favours narrow places.

    Args:
        features: Features (N, D).

    Raises:
        UsageError: As `participation_ratio`.
        DataError: As `participation_ratio`.

    >>> round(isotropy_ratio(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 6)
    1.0

    Source: LOES (2605.23033).
    """
    return participation_ratio(features) / features.shape[1]


def nesum(features: Tensor) -> float:
    r"""NESum: the sum of the covariance's singular values divided by the largest.

    .. math:: \sum_k \lambda_k / \lambda_1

    Here :math:`\lambda` are the `singular_values`, so the features are centred. The range is 1 to D, or 0 if
    nothing varies. One dominant direction brings it near 1.

    Args:
        features: Features (N, D).

    Raises:
        FullrankError: As `singular_values`.

    >>> nesum(torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    1.25

    Source: He and Ozay 2022 (ICML), "normalised eigenvalue sum".
    """
    return nesum_of(_covariance_spectrum(features, "nesum")[0])


def nesum_of(values: Tensor) -> float:
    """`nesum` from a covariance spectrum.

    Args:
        values: Singular values (D,) of the covariance, as `singular_values` returns them.

    Raises:
        UsageError: For anything that is not a spectrum.

    >>> nesum_of(torch.tensor([4.0, 2.0, 1.0]))
    1.75
    """
    return float(_relative(values).sum())


def stable_rank(features: Tensor) -> float:
    r"""Stable rank of the feature matrix: its squared Frobenius norm divided by its squared spectral norm.

    .. math:: \frac{\|H\|_F^2}{\|H\|_2^2} = \frac{\sum_k \sigma_k^2}{\sigma_1^2}

    Nothing is centred, so a strong mean alone brings it near 1. NESum is the same ratio without the mean. The
    range is 1 to min(N, D), or 0 if all features are zero.

    Args:
        features: Features (N, D).

    Raises:
        FullrankError: As `singular_values`.

    >>> stable_rank(torch.diag(torch.tensor([2.0, 1.0])))
    1.25

    Source: Rudelson and Vershynin 2007.
    """
    return stable_rank_of(second_moments(features).matrix_singular_values())


def stable_rank_of(values: Tensor) -> float:
    """`stable_rank` from the singular values of the features.

    Args:
        values: Singular values (min(N, D),) of the features themselves.

    Raises:
        UsageError: For anything that is not a spectrum.

    >>> stable_rank_of(torch.tensor([2.0, 1.0]))
    1.25
    """
    return nesum_of(values.square())


@dataclass(frozen=True)
class PowerLaw:
    """A power law fitted to a spectrum.

    Attributes:
        alpha: Its exponent.
        first: The first rank of the fit.
        last: The last rank of the fit, included.
    """

    alpha: float
    first: int
    last: int


def alpha_req(features: Tensor, first: int = 4, last: int = 50) -> PowerLaw:
    r"""alpha-ReQ: the exponent of a power law fitted to the spectrum of the features' covariance.

    .. math:: \min_{\alpha, c} \sum_{k=first}^{last} \frac1k
              \big(\ln\lambda_k + \alpha \ln k - c\big)^2

    Here :math:`\lambda` are the `singular_values`, so the features are centred. The window ends earlier if
    the spectrum is numerically zero (below D eps of the largest value), and at the latest at rank N - 1.
    Public code fits ranks 4 to 50, 4 to 100, 6 to 50 or 12 to 100, and the exponent depends on this choice.
    The range is 0 (a flat spectrum) upwards. Good representations of one method were near 1. Far from 1, or
    for a spectrum that is not a power law, the exponent has no meaning.

    Args:
        features: Features (N, D).
        first: The first rank of the window.
        last: The last rank of the window, included.

    Returns:
        The exponent and the ranks that were fitted.

    Raises:
        UsageError: For another shape, or a window of fewer than 3 ranks.
        DataError: For no row, rows that are not finite, or fewer than 3 values to fit.

    >>> rows = torch.diag(torch.arange(1, 31) ** -0.75)
    >>> fit = alpha_req(torch.cat([rows, -rows]))
    >>> round(fit.alpha, 4), fit.first, fit.last
    (1.5, 4, 30)

    Source: Agrawal et al. 2022 (NeurIPS); the weights are those of Stringer et al. 2019.
    """
    values, rows = _covariance_spectrum(features, "alpha_req")
    return alpha_req_of(values, first, last, rows=rows)


def alpha_req_of(values: Tensor, first: int = 4, last: int = 50, *, rows: int | None = None) -> PowerLaw:
    """`alpha_req` from a covariance spectrum.

    Args:
        values: Singular values (D,) of the covariance, as `singular_values` returns them.
        first: The first rank of the window.
        last: The last rank of the window, included.
        rows: The number of rows behind the spectrum, which bounds its rank.

    Raises:
        UsageError: For anything that is not a spectrum, or a window of fewer than 3 ranks.
        DataError: For fewer than 3 values to fit.

    >>> fit = alpha_req_of(torch.arange(1, 31) ** -1.5)
    >>> round(fit.alpha, 4), fit.first, fit.last
    (1.5, 4, 30)
    """
    if not 1 <= first <= last - 2:
        raise UsageError(
            f"alpha-ReQ: the window must have 3 or more ranks, starting at 1 or later, but got {first} to "
            f"{last}; the usual window is 4 to 50."
        )
    values = _relative(values, rows)
    last = min(last, int((values > _numerical_zero(values)).sum()))
    if last - first < 2:
        raise DataError(
            f"alpha-ReQ needs 3 or more values from rank {first} on, but this spectrum of {len(values)} has "
            f"{max(last - first + 1, 0)} that are not zero; choose a lower first rank or give more rows."
        )
    ranks = torch.arange(first, last + 1, dtype=torch.float64)
    x, y, weights = ranks.log(), values[first - 1 : last].log().cpu(), 1 / ranks
    weights = weights / weights.sum()
    x, y = x - (weights * x).sum(), y - (weights * y).sum()
    return PowerLaw(-float((weights * x * y).sum() / (weights * x * x).sum()), first, last)


def live_dimensions(features: Tensor, tolerance: float | None = None) -> int:
    r"""The number of singular values of the features' covariance above `tolerance` times the largest.

    .. math:: |\{k : \lambda_k > \mathrm{tolerance} \cdot \lambda_1\}|

    Here :math:`\lambda` are the `singular_values`, so the features are centred. The range is 0 to min(N - 1,
    D). A live direction is not necessarily a useful one. Half precision, or a mean far above the deviation,
    rounds more than the default tolerance allows for. Choose a higher tolerance then, or use `largest_gap`.

    Args:
        features: Features (N, D).
        tolerance: A share of the largest value. The default is (D eps)^2 with the epsilon of float32, as in
            numpy.linalg.matrix_rank; below it a direction is rounding.

    Raises:
        UsageError: For another shape, or a tolerance outside 0 to 1.
        DataError: For no row, or rows that are not finite.

    >>> x = torch.tensor([[2.0, 0.0, 1.0], [-2.0, 0.0, 1.0], [0.0, 1e-3, 1.0], [0.0, -1e-3, 1.0]])
    >>> live_dimensions(x), live_dimensions(x, tolerance=1e-3)
    (2, 1)
    """
    values, rows = _covariance_spectrum(features, "live_dimensions")
    return live_dimensions_of(values, tolerance, rows=rows)


def live_dimensions_of(values: Tensor, tolerance: float | None = None, *, rows: int | None = None) -> int:
    """`live_dimensions` from a covariance spectrum.

    Args:
        values: Singular values (D,) of the covariance, as `singular_values` returns them.
        tolerance: A share of the largest value; the default is that of `live_dimensions`.
        rows: The number of rows behind the spectrum, which bounds its rank.

    Raises:
        UsageError: For anything that is not a spectrum, or a tolerance outside 0 to 1.

    >>> values = torch.tensor([4.0, 1.0, 1e-6, 0.0])
    >>> live_dimensions_of(values), live_dimensions_of(values, tolerance=1e-3)
    (3, 2)
    """
    if tolerance is not None and not 0 <= tolerance < 1:
        raise UsageError(
            f"The tolerance must be a share of the largest value, from 0 to below 1, but got {tolerance}; "
            "try 1e-6, or leave it out."
        )
    return statistics.live_dimensions(_relative(values, rows).cpu().numpy(), tolerance)


@dataclass(frozen=True)
class Gap:
    """The largest gap of a spectrum.

    If the ratio is large, the index is the number of live dimensions. Without any gap, the index is the
    number of values that are not zero, and the ratio is 1.

    Attributes:
        index: The number of values above the gap.
        ratio: The value above the gap divided by the value below it.
    """

    index: int
    ratio: float


def largest_gap(features: Tensor) -> Gap:
    r"""The steepest fall of the singular values of the features' covariance, on a logarithmic scale.

    .. math:: k^* = \arg\max_k \ln\lambda_k - \ln\lambda_{k+1}, \qquad
              \mathrm{ratio} = \lambda_{k^*} / \lambda_{k^*+1}

    Values below D eps of the largest are numerically zero. They count as D eps, so gaps within rounding do
    not compete. The fall to zero after the N - 1 values that N rows can have does not compete either. The
    ratio ranges from 1 to 1 / (D eps). Every spectrum has a largest gap, and only its ratio shows whether it
    separates anything. A first value far above all others is also a gap.

    Args:
        features: Features (N, D).

    Raises:
        FullrankError: As `singular_values`.

    >>> rows = torch.diag(torch.tensor([4.0, 4.0, 0.5]))
    >>> gap = largest_gap(torch.cat([rows, -rows]))
    >>> gap.index, round(gap.ratio, 6)
    (2, 64.0)
    """
    values, rows = _covariance_spectrum(features, "largest_gap")
    return largest_gap_of(values, rows=rows)


def largest_gap_of(values: Tensor, *, rows: int | None = None) -> Gap:
    """`largest_gap` from a covariance spectrum.

    Args:
        values: Singular values (D,) of the covariance, as `singular_values` returns them.
        rows: The number of rows behind the spectrum, which bounds its rank.

    Raises:
        UsageError: For anything that is not a spectrum.

    >>> largest_gap_of(torch.tensor([5.0, 4.0, 0.002, 0.001]))
    Gap(index=2, ratio=1999.999...)
    """
    values = _relative(values, rows)
    floor = _numerical_zero(values)
    logs = values.clamp_min(floor).log()
    steps = logs[:-1] - logs[1:]
    if rows is not None:
        steps = steps[: max(rows - 2, 0)]
    if not (steps > 0).any():
        return Gap(int((values > floor).sum()), 1.0)
    index = int(steps.argmax())
    return Gap(index + 1, float(steps[index].exp()))


def _spectrum(values: Tensor) -> Tensor:
    """A spectrum (D,) in float64. UsageError for anything that is not a spectrum."""
    if values.ndim != 1 or not len(values) or not bool(((values >= 0) & torch.isfinite(values)).all()):
        raise UsageError(
            "Expected a spectrum (D,) of finite values of 0 or more, but got shape "
            f"{tuple(values.shape)}; use `singular_values(features)`."
        )
    return values.detach().double()


def _covariance_spectrum(features: Tensor, measure: str) -> tuple[Tensor, int | None]:
    """Covariance singular values (D,) and number of rows of features. Until 0.3 it also takes a spectrum."""
    if features.ndim != 1:
        return singular_values(features), len(features)
    warnings.warn(
        f"{measure} takes features (N, D) from version 0.3 on; pass a spectrum (D,) to {measure}_of.",
        DeprecationWarning,
        stacklevel=3,
    )
    return features, None


def _relative(values: Tensor, rows: int | None = None) -> Tensor:
    """A spectrum (D,) divided by its largest value, descending. Values beyond rows - 1 are set to 0."""
    values = _spectrum(values).sort(descending=True).values
    if rows is not None:
        values[max(rows - 1, 0) :] = 0.0
    return values / torch.where(values[0] > 0, values[0], 1.0)


def _numerical_zero(values: Tensor) -> float:
    """The share of the largest value below which float64 has no precision."""
    return len(values) * torch.finfo(torch.float64).eps
