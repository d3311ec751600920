"""Pure functions on a feature matrix (N, D), named after their papers."""

import torch
from torch import Tensor

from fullrank.errors import DataError
from fullrank.linalg import Moments


def singular_values(features: Tensor) -> Tensor:
    r"""Singular values of the centred covariance of raw features, descending, in float64.

    .. math:: C = \tfrac1N \sum_i (h_i - \bar h)(h_i - \bar h)^\top

    Shapes: (N, D) -> (D,), in the square of the features' unit. At most N - 1 of them can be above zero.
    Rounding below zero is returned as 0. Raises DataError for features that are not finite.

    >>> singular_values(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    tensor([1., 0.], dtype=torch.float64)

    Source: P1 Section 3 and Figures 2, 7 and 9 (their logarithms).
    """
    if not torch.isfinite(features).all():
        raise DataError(
            "The features hold NaN or infinity, so they have no spectrum; look at the loss first."
        )
    # The covariance is symmetric and positive semi-definite: its eigenvalues are its singular values.
    values: Tensor = torch.linalg.eigvalsh(Moments.of(features).covariance.cpu())
    return values.flip(0).clamp_min(0.0)


def effective_rank(values: Tensor) -> float:
    r"""Exponential of the entropy of the normalised square roots of covariance singular values.

    .. math:: p_k = \sqrt{\lambda_k} / \sum_j \sqrt{\lambda_j}, \quad
              \mathrm{erank} = \exp\Big(-\sum_k p_k \ln p_k\Big)

    Shapes: (D,) -> a number between 1 and D, or 0 where every value is 0. The square roots are the
    singular values of the centred features, up to a factor, so this is Roy and Vetterli's measure of them.
    It compares runs of one method; across different heads it is not a quality score.

    >>> round(effective_rank(torch.tensor([1.0, 1.0, 0.0])), 6)
    2.0

    Source: Roy and Vetterli 2007, Definition 1.
    """
    roots = values.double().sqrt()
    if roots.sum() == 0:
        return 0.0
    p = roots / roots.sum()
    return float(torch.special.entr(p).sum().exp())
