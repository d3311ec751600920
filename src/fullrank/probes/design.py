"""The coordinates in which the solver of a linear probe works."""

from dataclasses import dataclass

import torch
from torch import Tensor

# From this many numbers (32 MiB in float64) channels are float32, because reading them is the cost of a pass.
_LARGE = 2**22
# The smallest tolerance with float32 channels.
_FINEST = 1e-7
# Rows that are centred together, so that they stay in the processor's cache.
_ROWS = 256


@dataclass(frozen=True)
class Design:
    """Features in the solver's coordinates: mean 0, total variance 1, and a channel of ones.

    `channels` (R + 1, N) has a column for each row of features: x = mean + unit * (basis @ column). With more
    channels than rows, `basis` (D, N) is orthonormal and spans the rows, because the optimum is in their
    span. Otherwise it is None, for the identity. The channels of large sets are float32 unless `tol` is below
    1e-7; all else is float64.
    """

    channels: Tensor
    mean: Tensor
    unit: Tensor
    basis: Tensor | None

    @classmethod
    def of(cls, features: Tensor, standardise: bool = False, tol: float = 1e-6) -> "Design":
        """The design of finite features (N, D); `standardise` divides them by their standard deviation."""
        rows, width = features.shape
        mean, spread, size = _moments(features)
        unit = _spread_or_one(spread, size) if standardise else mean.new_ones(())
        unit = unit * _spread_or_one((spread / unit).norm(), (size / unit).norm())
        if width > rows:
            basis, reduced = torch.linalg.qr(((features.double() - mean) / unit).T)
            return cls(torch.cat([reduced, reduced.new_ones(1, rows)]), mean, unit, basis)
        rounded = features.numel() >= _LARGE and tol >= _FINEST
        precision = torch.float32 if rounded else torch.float64
        channels = mean.new_ones(width + 1, rows, dtype=precision)
        for start in range(0, rows, _ROWS):
            centred = features[start : start + _ROWS].double() - mean
            channels[:-1, start : start + _ROWS] = centred.div_(unit).to(precision).T
        return cls(channels, mean, unit, None)

    def inward(self, weight: Tensor, bias: Tensor) -> Tensor:
        """The coefficients (K, R + 1) of a weight (K, D) and bias (K,) on the features."""
        inner = weight * self.unit
        inner = inner if self.basis is None else inner @ self.basis
        return torch.cat([inner, (bias + weight @ self.mean)[:, None]], 1)

    def outward(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """The weight (K, D) and bias (K,) on the features of coefficients (K, R + 1)."""
        weight = self.spread(coefficients[:, :-1]) / self.unit
        bias = coefficients[:, -1] - weight @ self.mean
        return weight, bias - bias.mean()

    def spread(self, inner: Tensor) -> Tensor:
        """Coefficients (K, R), or their gradient, over the D channels."""
        return inner if self.basis is None else inner @ self.basis.T


def _moments(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and root mean square of each channel, in float64."""
    # Measured from one row, so that the mean of a constant channel is exact.
    origin = features[0].double()
    total, squares, sizes = torch.zeros_like(origin), torch.zeros_like(origin), torch.zeros_like(origin)
    for start in range(0, len(features), _ROWS):
        total += (features[start : start + _ROWS].double() - origin).sum(0)
    mean = origin + total / len(features)
    for start in range(0, len(features), _ROWS):
        some = features[start : start + _ROWS].to(torch.float64, copy=True)
        sizes += some.square().sum(0)
        squares += some.sub_(mean).square_().sum(0)
    return mean, (squares / len(features)).sqrt(), (sizes / len(features)).sqrt()


def _spread_or_one(spread: Tensor, size: Tensor) -> Tensor:
    """The spread, or 1 for a constant channel, whose spread is at most rounding of values of this size."""
    return torch.where(spread > 10 * torch.finfo(spread.dtype).eps * size, spread, 1.0)
