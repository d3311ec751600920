"""Maximum manifold capacity: the mean embeddings of the images spread over as many directions as they can."""

import math

import torch
from torch import Tensor

from fullrank.objectives.contract import ViewsLoss, check_number, check_views, unit_rows


def polar_factor(matrices: Tensor) -> Tensor:
    r"""The partial isometry U V^T of a singular value decomposition, over the singular values that are live.

    Live are those above :math:`\sqrt{\max(A, B)\, \epsilon}` of the largest, about 3e-7 for 512 rows.
    Shapes: (..., A, B) -> (..., A, B).
    """
    # The smaller Gram matrix in float64: closer than float32's decomposition, and faster for tall matrices.
    wide = matrices.shape[-2] < matrices.shape[-1]
    tall = (matrices.mT if wide else matrices).double()
    squares, directions = torch.linalg.eigh(tall.mT @ tall)
    floor = tall.shape[-2] * torch.finfo(tall.dtype).eps * squares[..., -1:]
    inverse = torch.where(squares > floor, squares, math.inf).rsqrt()
    isometry: Tensor = tall @ (directions * inverse[..., None, :]) @ directions.mT
    return (isometry.mT if wide else isometry).to(matrices.dtype)


def nuclear_norm(matrices: Tensor) -> Tensor:
    """The sum of the singular values, (..., A, B) -> (...).

    The gradient is `polar_factor`, exact and finite at equal and at zero singular values. At the latter the
    norm has a kink, and this is its smallest subgradient.
    """
    if not bool(matrices.isfinite().all()):
        return (matrices * math.nan).sum((-2, -1))  # the decomposition would end with an error instead
    # The norm is the inner product with its own gradient, which is constant along the matrix.
    return (matrices * polar_factor(matrices.detach())).sum((-2, -1))


class MMCRLoss(ViewsLoss):
    r"""The mean embeddings of the images spread over as many directions as they can.

    .. math:: L = -\|C\|_* + \frac\lambda N \sum_n \|Z_n\|_*, \quad C_n = \frac1V \sum_v \hat z_{v,n}

    with :math:`\hat z` the embeddings at unit length, :math:`Z_n` the (V, K) views of an image, and
    :math:`\|\cdot\|_*` the sum of the singular values. Local crops are views like all others. Called as
    `loss(z)`. Shapes: (V, N, K) -> scalar, V and N of 2 or more.

    The loss is not divided by the number of images. :math:`\|C\|_*` is at most :math:`\sqrt{N \min(N, K)}`:
    N for N up to K, :math:`\sqrt{N K}` beyond. The bound needs views that agree.

    Args:
        local: The weight lambda of the directions that the views of one image take up, 0 or more.
        gather: Whether C has the rows of all processes.

    Raises:
        UsageError: `local` is below 0, or there are fewer than two views or images.

    >>> MMCRLoss()(torch.eye(5).expand(2, 5, 5))  # five images at right angles, two views that agree
    tensor(-5.)
    >>> MMCRLoss()(torch.ones(2, 4, 5))  # four images alike: the square root of 4
    tensor(-2.)

    Source: Yerxa et al. 2023 (2303.03307), Equation 7, and authors' code.
    """

    trains = frozenset({"alignment", "rankme", "effective_rank", "lidar"})

    def __init__(self, local: float = 0.0, gather: bool = True):
        super().__init__(gather)
        self.local = check_number("local", local, least=0)

    def forward(self, z: Tensor) -> Tensor:  # type: ignore[override]
        """Return the loss of the views (V, N, K)."""
        check_views(z)
        u = unit_rows(self.gathered_views(z))
        loss = -nuclear_norm(u.mean(0))
        return loss + self.local * nuclear_norm(u.transpose(0, 1)).mean() if self.local else loss

    def chance(self, n: int, width: int | None = None, global_views: int = 2, local_views: int = 0) -> float:
        r"""The loss of n images that are all alike: :math:`-\sqrt n + \lambda \sqrt V`."""
        return self.local * math.sqrt(global_views + local_views) - math.sqrt(n)

    def collapsed(self, n: int, width: int, global_views: int = 2, local_views: int = 0) -> dict[str, float]:
        """All rows alike, or half along a vector and half against it: one singular value, the same."""
        chance = self.chance(n, width, global_views, local_views)
        return {"one point": chance, "one line": chance}
