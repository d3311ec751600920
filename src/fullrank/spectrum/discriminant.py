"""LiDAR: in how many directions images differ by more than their views do."""

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import Moments, require_finite, require_matrix

# How many float64 numbers are processed at once: 8 MiB.
_NUMBERS = 2**20


def lidar(groups: Tensor, delta: float = 1e-4, eps: float = 1e-8) -> float:
    r"""LiDAR: the effective rank of the linear discriminant analysis between images, with views as classes.

    .. math:: S_b = \frac{\sum_i (\mu_i - \mu)(\mu_i - \mu)^\top}{n - 1}, \qquad
              S_w = \frac{\sum_{ij} (x_{ij} - \mu_i)(x_{ij} - \mu_i)^\top}{n(q - 1)} + \delta I,

    .. math:: p = \frac{\lambda + \epsilon}{\sum_k (\lambda_k + \epsilon)}, \qquad
              \exp\Big(-\sum_k p_k \ln p_k\Big), \qquad \lambda \text{ of } S_w^{-1/2} S_b S_w^{-1/2}

    A group holds q true views of one image. Other groups give a different measure. The features are centred.

    - The range is 1 to D. The value is 0 if all group means coincide, where the formula alone would give D.
    - Delta and epsilon are absolute, so rescaled features have a different LiDAR.
    - If n is at most D, the rank is at most n - 1.
    - It compares runs of one method under the same views.

    Args:
        groups: Features (n, q, D): q views of each of n images.
        delta: Added to the diagonal of the within-group covariance.
        eps: Added to each eigenvalue before normalising.

    Raises:
        UsageError: For another shape, or a delta or epsilon that is not positive.
        DataError: For n or q below 2, or rows that are not finite.

    >>> images = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> round(lidar(torch.stack([images, images], dim=1)), 4)
    2.0

    Source: Thilak et al. 2024 (arXiv 2312.04000), Section 4, with the authors' delta and epsilon.
    """
    means, within = group_moments(groups)
    return lidar_of(means, within, groups.shape[1], delta, eps)


def group_moments(groups: Tensor) -> tuple[Moments, Tensor]:
    """The moments of the n group means, and the scatter (D, D) within the groups, in float64.

    Both add up over groups: the first by `merge`, the second by `+`.

    Args:
        groups: Features (n, q, D): q views of each of n images.

    Raises:
        UsageError: As `lidar`.
        DataError: As `lidar`.

    >>> means, within = group_moments(torch.tensor([[[1.0], [3.0]]]))
    >>> means.mean.item(), within.item()
    (2.0, 2.0)
    """
    if groups.ndim != 3:
        raise UsageError(
            f"View groups must have shape (n, q, D), n images of q views, but got {tuple(groups.shape)}; "
            "stack the views of an image along dimension 1."
        )
    rows = groups.detach().flatten(0, 1)
    require_matrix(rows)
    require_finite(rows)
    _, q, width = groups.shape
    if q < 2:
        raise DataError(f"LiDAR needs 2 or more views of each image, but got {q}; draw more views.")
    means, within = Moments.empty(width, groups.device), Moments.empty(width, groups.device).scatter
    for part in torch.split(groups.detach(), max(1, _NUMBERS // (q * width))):
        centres = part.double().mean(1)
        offsets = (part.double() - centres[:, None]).flatten(0, 1)
        means, within = means.merge(Moments.of(centres)), within.addmm_(offsets.T, offsets)
    return means, within


def lidar_of(means: Moments, within: Tensor, views: int, delta: float = 1e-4, eps: float = 1e-8) -> float:
    """`lidar` from the result of `group_moments`.

    Args:
        means: The moments of the group means.
        within: The scatter (D, D) within the groups.
        views: The number of views in each group.
        delta: Added to the diagonal of the within-group covariance.
        eps: Added to each eigenvalue before normalising.

    Raises:
        UsageError: For a delta or epsilon that is not positive.
        DataError: For fewer than 2 groups.

    >>> groups = torch.randn(20, 3, 4)
    >>> lidar_of(*group_moments(groups), views=3) == lidar(groups)
    True
    """
    if not (delta > 0 and eps > 0):
        raise UsageError(
            f"LiDAR: delta and eps must be positive, but got {delta} and {eps}; the published values are "
            "1e-4 and 1e-8."
        )
    if means.count < 2:
        raise DataError(
            f"LiDAR needs the views of 2 or more images, but got {means.count}; give more images."
        )
    noise = within.cpu() / (means.count * (views - 1))
    noise = noise + delta * torch.eye(len(noise), dtype=torch.float64)
    lower = torch.linalg.cholesky(noise)
    half = torch.linalg.solve_triangular(lower, means.scatter.cpu() / (means.count - 1), upper=False)
    # Similar to the product with the symmetric square root: the same eigenvalues, also symmetric.
    ratio = torch.linalg.solve_triangular(lower, half.T, upper=False)
    values = torch.linalg.eigvalsh(ratio).clamp_min(0.0)
    if not values.any():
        return 0.0
    p = (values + eps) / (values + eps).sum()
    return float(torch.special.entr(p).sum().exp())
