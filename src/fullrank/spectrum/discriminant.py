"""LiDAR: how many directions tell images apart beyond what their views differ by."""

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import Moments, require_finite, require_matrix

# Numbers of view groups in float64 at once: 8 MiB.
_NUMBERS = 2**20


def lidar(groups: Tensor, delta: float = 1e-4, eps: float = 1e-8) -> float:
    r"""LiDAR: effective rank of the linear discriminant analysis that tells images apart from their views.

    .. math:: S_b = \frac{\sum_i (\mu_i - \mu)(\mu_i - \mu)^\top}{n - 1}, \qquad
              S_w = \frac{\sum_{ij} (x_{ij} - \mu_i)(x_{ij} - \mu_i)^\top}{n(q - 1)} + \delta I,

    .. math:: p = \frac{\lambda + \epsilon}{\sum_k (\lambda_k + \epsilon)}, \qquad
              \exp\Big(-\sum_k p_k \ln p_k\Big), \qquad \lambda \text{ of } S_w^{-1/2} S_b S_w^{-1/2}

    The groups are q views of each of n images, true views: other groups give another measure. Centred. Range
    1 to D; 0 where all means coincide, for which the formula alone would say D. Delta and epsilon are
    absolute, so features in other units have another LiDAR. With n of D or less the rank is bounded by n - 1.
    It compares runs of one method under the same views. Shapes: (n, q, D). Raises UsageError for another
    shape or delta or epsilon that are not positive, DataError for n or q below 2 or rows that are not finite.

    >>> images = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> round(lidar(torch.stack([images, images], dim=1)), 4)
    2.0

    Source: Thilak et al. 2024 (arXiv 2312.04000), Section 4, with the authors' delta and epsilon.
    """
    means, within = group_moments(groups)
    return lidar_of(means, within, groups.shape[1], delta, eps)


def group_moments(groups: Tensor) -> tuple[Moments, Tensor]:
    """The moments of the n group means, and the scatter (D, D) within the groups (n, q, D), in float64.

    Both add up over groups: the first by `merge`, the second by `+`. Raises as `lidar` does.

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
    """`lidar` from what `group_moments` gives, of groups of `views` rows each.

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
        raise DataError(f"LiDAR needs the views of 2 or more images, but got {means.count}; give it more.")
    noise = within.cpu() / (means.count * (views - 1))
    noise = noise + delta * torch.eye(len(noise), dtype=torch.float64)
    lower = torch.linalg.cholesky(noise)
    half = torch.linalg.solve_triangular(lower, means.scatter.cpu() / (means.count - 1), upper=False)
    # Similar to the symmetric square root's product: the same eigenvalues, and symmetric too.
    ratio = torch.linalg.solve_triangular(lower, half.T, upper=False)
    values = torch.linalg.eigvalsh(ratio).clamp_min(0.0)
    if not values.any():
        return 0.0
    p = (values + eps) / (values + eps).sum()
    return float(torch.special.entr(p).sum().exp())
