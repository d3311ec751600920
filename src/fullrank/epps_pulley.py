"""How far random one-dimensional projections of rows are from a standard normal (Epps-Pulley, sliced)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fullrank.errors import UsageError

# Entries of a tile, rows times slices. On a CPU the sixteen arrays of a tile stay near the cache.
_TILE = {"cpu": 2**15}
_LARGE_TILE = 2**20


@dataclass(frozen=True)
class EppsPulley:
    r"""The weighted distance of a characteristic function from that of N(0, 1), at equally spaced knots.

    .. math:: T = \sum_j w_j \Big|\frac1N \sum_n e^{i t_j s_n} - e^{-t_j^2/2}\Big|^2 \approx
              \int_{-r}^{r} \Big|\frac1N \sum_n e^{i t s_n} - e^{-t^2/2}\Big|^2 e^{-t^2/2}\, dt

    by the trapezoidal rule on [0, r], doubled. The knot at 0 adds nothing and is left out of the properties.

    Args:
        knots: The number of knots on [0, r], both ends included, 2 or more.
        reach: The end r of the interval, above 0.

    Raises:
        UsageError: A setting is outside its limits.

    >>> grid = EppsPulley()
    >>> round(grid.floor, 4), round(grid.one_point, 4)
    (1.0525, 0.402)

    Source: Epps and Pulley 1983; Balestriero and LeCun 2025 (2511.08544), with the authors' knots.
    """

    knots: int = 17
    reach: float = 3.0

    def __post_init__(self) -> None:
        if self.knots < 2:
            raise UsageError(f"knots must be 2 or more, but got {self.knots}; leave it out for 17.")
        if not (self.reach > 0 and math.isfinite(self.reach)):
            raise UsageError(f"range must be a number above 0, but got {self.reach}; leave it out for 3.")

    @property
    def step(self) -> float:
        """The distance of two knots."""
        return self.reach / (self.knots - 1)

    @property
    def t(self) -> Tensor:
        """The knots above 0, (knots - 1,), float64."""
        return self.step * torch.arange(1, self.knots, dtype=torch.float64)

    @property
    def phi(self) -> Tensor:
        """The characteristic function of N(0, 1) at the knots above 0."""
        return torch.exp(-self.t.square() / 2)

    @property
    def weights(self) -> Tensor:
        """The weights of the knots above 0, which include the window."""
        inside = torch.full((self.knots - 1,), 2 * self.step, dtype=torch.float64)
        inside[-1] = self.step
        return inside * self.phi

    @property
    def floor(self) -> float:
        r"""The mean of N T for N draws of N(0, 1), for every N: :math:`\sum_j w_j (1 - \phi_j^2)`."""
        return float((self.weights * (1 - self.phi.square())).sum())

    @property
    def centred_floor(self) -> float:
        r"""The same after the mean of the draws is subtracted: :math:`\sum_j w_j (1 - (1 + t_j^2) \phi_j^2)`.

        It holds up to terms of order 1/N.
        """
        return float((self.weights * (1 - (1 + self.t.square()) * self.phi.square())).sum())

    @property
    def one_point(self) -> float:
        r"""T of rows that are all 0: :math:`\sum_j w_j (1 - \phi_j)^2`."""
        return float((self.weights * (1 - self.phi).square()).sum())

    def statistic(self, sums: Tensor, count: Tensor | float) -> Tensor:
        """The mean T of slices, from the `wave_sums` (..., 2, knots - 1) of `count` rows each."""
        cosines, sines = (sums / count).unbind(-2)
        phi, weights = (each.to(sums) for each in (self.phi, self.weights))
        return (((cosines - phi).square() + sines.square()) @ weights).mean()


def random_slices(width: int, count: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
    """Random directions of unit length (width, count), uniform on the sphere, as `like` is.

    They are drawn on the CPU in float32, so they are the same on every device and in every precision.
    """
    drawn = torch.randn(width, count, generator=generator).to(like)
    unit: Tensor = drawn / torch.linalg.vector_norm(drawn, dim=0)
    return unit


def wave_sums(z: Tensor, slices: Tensor, step: float, count: int) -> Tensor:
    r"""Sums over rows of the cosines and sines of projections, with gradient to z.

    .. math:: C_{vmj} = \sum_n \cos(j\, d\, z_{vn} \cdot a_m), \qquad
              S_{vmj} = \sum_n \sin(j\, d\, z_{vn} \cdot a_m)

    for j = 1, ..., J. No more than a tile of slices is in memory at a time, in either pass.

    Args:
        z: The rows of V views (V, N, K), float32 or float64.
        slices: The directions a, (K, M), without gradient.
        step: The distance d of two knots.
        count: The number J of knots.

    Returns:
        The sums (V, M, 2, J): cosines first.

    >>> z = torch.ones(1, 5, 1)
    >>> sums = wave_sums(z, torch.ones(1, 1), 0.5, 3)
    >>> torch.allclose(sums[0, 0], 5 * torch.stack([torch.cos(t := torch.arange(1, 4) / 2), torch.sin(t)]))
    True
    """
    sums: Tensor = _WaveSums.apply(z, slices, step, count)
    return sums


class _WaveSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, slices: Tensor, step: float, count: int) -> Tensor:
        ctx.save_for_backward(z, slices)
        ctx.step = step
        sums = z.new_empty(len(z), slices.shape[1], 2, count)
        waves = _Waves.of(count)
        for view, rows in enumerate(z):
            for tile in _tiles(z, slices):
                low, high = waves.at(slices[:, tile].T @ rows.T, step)
                sums[view, tile] = waves.sums(low @ high.mT)
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        z, slices = ctx.saved_tensors
        [gradient] = gradients
        waves = _Waves.of(gradient.shape[-1])
        # The slope of a sum of waves is a sum of the same waves: cos(jx)' = -j sin(jx), sin(jx)' = j cos(jx).
        order = ctx.step * torch.arange(1, gradient.shape[-1] + 1, dtype=z.dtype, device=z.device)
        on_cosines, on_sines = (gradient * order).unbind(-2)
        slope = torch.zeros_like(z)
        for view, rows in enumerate(z):
            for tile in _tiles(z, slices):
                low, high = waves.at(slices[:, tile].T @ rows.T, ctx.step)
                factors = waves.factors(on_sines[view, tile], -on_cosines[view, tile])
                by_row = (factors.mT @ low).mul_(high).sum(1)
                slope[view].addmm_(by_row.T, slices[:, tile].T)
        return slope, None, None, None


def _tiles(z: Tensor, slices: Tensor) -> list[slice]:
    """The slices in tiles, each with all rows of one view."""
    size = max(1, _TILE.get(z.device.type, _LARGE_TILE) // max(1, z.shape[1]))
    return [slice(start, start + size) for start in range(0, slices.shape[1], size)]


@dataclass(frozen=True)
class _Waves:
    """Waves cos(jx), sin(jx) of the orders j = 1, ..., J as products of those of r and low q: j = r + low q.

    Only about 2 sqrt(J) orders are computed at each entry. The rest is a product of small matrices.
    """

    count: int
    low: int
    high: int

    @classmethod
    def of(cls, count: int) -> "_Waves":
        low = math.isqrt(count - 1) + 1
        return cls(count, low, -(-count // low))

    def at(self, s: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """Cosines, then sines, of the orders r = 1, ..., low, and of low q, q = 0, 1, ...; (m, 2 r, N)."""
        x = s * step
        low = x.new_empty(len(x), 2, self.low, x.shape[1])
        high = x.new_empty(len(x), 2, self.high, x.shape[1])
        torch.cos(x, out=low[:, 0, 0])
        torch.sin(x, out=low[:, 1, 0])
        high[:, 0, 0], high[:, 1, 0] = 1, 0
        for order in range(1, self.low):
            _turn(low, order, low[:, :, 0])
        for order in range(1, self.high):
            _turn(high, order, low[:, :, -1])
        return low.flatten(1, 2), high.flatten(1, 2)

    def sums(self, products: Tensor) -> Tensor:
        """The sums (m, 2, J) from the products of low and high waves, (m, 2 low, 2 high)."""
        parts = products.view(-1, 2, self.low, 2, self.high)
        cosines = parts[:, 0, :, 0] - parts[:, 1, :, 1]
        sines = parts[:, 1, :, 0] + parts[:, 0, :, 1]
        return torch.stack([cosines, sines], 1).mT.flatten(2)[..., : self.count]

    def factors(self, on_cosines: Tensor, on_sines: Tensor) -> Tensor:
        """The factors (m, 2 low, 2 high) of products that add up to the waves times (m, J) each."""
        padded = torch.stack([on_cosines, on_sines], 1)
        padded = F.pad(padded, (0, self.low * self.high - self.count))
        cosines, sines = padded.view(-1, 2, self.high, self.low).mT.unbind(1)
        return torch.cat([torch.cat([cosines, sines], 2), torch.cat([sines, -cosines], 2)], 1)


def _turn(waves: Tensor, order: int, by: Tensor) -> None:
    """Write the waves (m, 2, N) of an order: those of the order before it, turned by another angle."""
    cosines, sines = waves[:, 0], waves[:, 1]
    torch.mul(cosines[:, order - 1], by[:, 0], out=cosines[:, order])
    cosines[:, order].addcmul_(sines[:, order - 1], by[:, 1], value=-1)
    torch.mul(sines[:, order - 1], by[:, 0], out=sines[:, order])
    sines[:, order].addcmul_(cosines[:, order - 1], by[:, 1])
