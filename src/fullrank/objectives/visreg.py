"""VISReg: views that agree, with channels of mean 0 and deviation 1 and projections that look normal."""

import math
from typing import Any, final

import torch
from torch import Tensor

from fullrank.epps_pulley import random_slices
from fullrank.objectives.contract import Unguarded, check_number
from fullrank.objectives.isotropy import IsotropyLoss

# The authors' own, added to a standard deviation before rows are divided by it.
_VISREG_EPS = 1e-4
# Entries of a tile of projections, rows times slices, on a CPU and elsewhere.
_TILE = {"cpu": 2**17}
_LARGE_TILE = 2**22


def normal_quantiles(count: int) -> Tensor:
    """The quantiles of N(0, 1) at i / (count + 1), i = 1, ..., count; float64."""
    quantiles: Tensor = torch.special.ndtri(torch.arange(1, count + 1, dtype=torch.float64) / (count + 1))
    return quantiles


def matched_mean(count: int) -> float:
    r"""The mean product of sorted normals and their quantiles: :math:`\frac1N \sum_i q_i\, E[x_{(i)}]`.

    A draw x of N has a binomial number of draws below it, so this is E[x q(1 + number)] over x.

    >>> round(matched_mean(2), 4)  # the larger of two normals has the mean 1 / sqrt(pi)
    0.243
    """
    quantiles, below = normal_quantiles(count), torch.arange(count, dtype=torch.float64)
    ways = math.lgamma(count) - torch.lgamma(below + 1) - torch.lgamma(count - below)
    x = torch.arange(-8.0, 8.0, 0.05, dtype=torch.float64)
    low, high = (torch.special.log_ndtr(each)[:, None] for each in (x, -x))
    # One row at a time: an array of all would be large for many draws.
    places = [
        torch.exp(ways + below * left + below.flip(0) * right) @ quantiles
        for left, right in zip(low, high, strict=True)
    ]
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    return float((0.05 * x * density * torch.stack(places)).sum())


def distance_to_normal(z: Tensor, slices: Tensor) -> Tensor:
    r"""The squared distance of sorted projections from the quantiles of N(0, 1), with gradient to z.

    .. math:: \frac1{V M N} \sum_{v, m, i} \big(s_{vm(i)} - \Phi^{-1}(\tfrac{i}{N + 1})\big)^2, \qquad
              s_{vmn} = z_{vn} \cdot a_m

    with the projections of a view and slice sorted. This is a sliced 2-Wasserstein distance. Only a tile of
    the projections is in memory at a time.

    Args:
        z: The rows of V views (V, N, K), float32 or float64.
        slices: The directions a, (K, M), without gradient.

    >>> z = normal_quantiles(5).flip(0)[None, :, None]
    >>> distance_to_normal(z, torch.ones(1, 1, dtype=z.dtype))
    tensor(0., dtype=torch.float64)
    """
    distance: Tensor = _DistanceToNormal.apply(z, slices)
    return distance


class _DistanceToNormal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, slices: Tensor) -> Tensor:
        (views, rows, _), count = z.shape, slices.shape[1]
        quantiles = normal_quantiles(rows).to(z)
        size = max(1, _TILE.get(z.device.type, _LARGE_TILE) // rows)
        total, slope = z.new_zeros(()), torch.zeros_like(z)
        for view in range(views):
            for start in range(0, count, size):
                tile = slices[:, start : start + size]
                ordered, places = (tile.T @ z[view].T).sort(1)
                gaps = ordered - quantiles
                total += gaps.square().sum()
                slope[view].addmm_(torch.empty_like(gaps).scatter_(1, places, gaps).T, tile.T)
        # The order does not change under a small step, so the slope of a projection is twice its own gap.
        ctx.save_for_backward(slope.mul_(2 / (views * rows * count)))
        return total / (views * rows * count)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        [slope] = ctx.saved_tensors
        return gradients[0] * slope, None


@final
class VISRegLoss(IsotropyLoss):
    r"""Views that agree; channels centred and of deviation 1; standardised projections that look normal.

    .. math:: L = (1 - \lambda) \frac1{V N K} \sum_{v, n, k} (z_{vnk} - \mu_{nk})^2
                  + \lambda (\alpha\, C + \beta\, D + \gamma\, W)

    .. math:: C = \frac1{V K} \sum_{v, k} \bar z_{vk}^2, \quad
              D = \frac1{V K} \sum_{v, k} (1 - \sigma_{vk})^2, \quad
              W = \frac1{V M N} \sum_{v, m, i} \big(s_{vm(i)} - \Phi^{-1}(\tfrac{i}{N + 1})\big)^2

    with :math:`\bar z` and :math:`\sigma` the mean and the deviation (over N) of a channel in a view, and s
    the sorted projections of :math:`(z - \bar z) / (\sigma + 10^{-4})` on M directions of unit length, new
    each step. No gradient goes through that deviation. Shapes: (V, N, K) -> scalar.

    The authors compute the penalty on each process's rows, with directions of its own. Here the rows of all
    processes are taken together, so that the number of processes changes nothing; `gather=False` keeps own
    rows. The authors use lambda 0.9 on large data and advise 0.6 on small data.

    Args:
        weight: The weight lambda of the penalty, 0 to 1.
        slices: The number M of directions, 1 or more.
        centre: The weight alpha of the means, 0 or more.
        scale: The weight beta of the deviations, 0 or more.
        shape: The weight gamma of the projections, 0 or more.
        gather: Whether the penalty is that of the rows of all processes.

    Raises:
        UsageError: A setting is outside its limits, or there are fewer than two views or images.

    >>> loss = VISRegLoss(0.5, shape=0)
    >>> loss(torch.ones(2, 100, 8))  # all rows at one point: its mean and its deviation cost 1 each
    tensor(1.)

    Source: Wu, Balestriero, Levine 2026 (2606.02572), Algorithm 1, as lightly states it.
    """

    usual_weight = 0.9
    #: The deviation in the shape has no gradient.
    detaches = True

    def __init__(
        self,
        weight: float = 0.9,
        slices: int = 4096,
        centre: float = 1.0,
        scale: float = 1.0,
        shape: float = 1.0,
        gather: bool = True,
    ):
        super().__init__(weight, gather)
        self.slices = int(check_number("slices", slices, least=1))
        self.centre = check_number("centre", centre, least=0)
        self.scale = check_number("scale", scale, least=0)
        self.shape = check_number("shape", shape, least=0)

    def penalty(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """The weighted sum of the three terms."""
        z = self.gathered_views(z)
        means, deviations = z.mean(1, keepdim=True), z.std(1, correction=0, keepdim=True)
        standardised = (z - means) / (deviations.detach() + _VISREG_EPS)
        slices = random_slices(z.shape[2], self.slices, generator, z)
        off_centre, off_scale = means.square().mean(), (1 - deviations).square().mean()
        off_shape = distance_to_normal(standardised, slices)
        return self.centre * off_centre + self.scale * off_scale + self.shape * off_shape

    def floor(self, n: int, width: int) -> float:
        """The penalty of n independent rows of N(0, I), to about 1 %.

        C is 1/N, and D is 2 - 1/N - 2 E[sigma], with the mean of a chi variable. W is that of sorted normals
        at deviation 1, so over E[sigma].
        """
        root = math.sqrt(2 / n) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))
        # The variance of a projection is not quite 1: its entries correlate by chance.
        length = 1 - (1 - 3 / (width + 2)) / (4 * n) if width > 1 else 1.0
        off_shape = 1 + float(normal_quantiles(n).square().mean()) - 2 * length * matched_mean(n) / root
        return self.centre / n + self.scale * (2 - 1 / n - 2 * root) + self.shape * off_shape

    def collapsed_penalty(self, n: int, width: int) -> dict[str, float]:
        """All rows at 0. All channels equal and N(0, 1), for many rows: only the shape suffers."""
        point = self.scale + self.shape * float(normal_quantiles(n).square().mean())
        # The mean length of the sum of the entries of a direction, which is the deviation of a projection.
        length = math.sqrt(width / math.pi) * math.exp(math.lgamma(width / 2) - math.lgamma((width + 1) / 2))
        return {"one point": point, "one line": self.shape * 2 * (1 - length)}

    def unguarded(self) -> tuple[Unguarded, ...]:
        """What is switched off: the whole penalty, its scale, or its shape."""
        if missing := super().unguarded():
            return missing
        means = "all embeddings may shrink to one point, because the shape ignores scale"
        scale = Unguarded("scale weight is 0", means, "set scale=1")
        shape = Unguarded("shape weight is 0", "all channels may become equal", "set shape=1")
        return (scale,) * (self.scale == 0) + (shape,) * (self.shape == 0)
