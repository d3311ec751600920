"""The coordinates in which a linear probe is solved."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Design:
    """Features in the solver's coordinates: float64, mean 0, total variance 1, and a channel of ones.

    `channels` (R + 1, N) has a column for each row of features: x = mean + unit * (basis @ column). With more
    channels than rows, `basis` (D, N) is orthonormal and spans the rows, where the optimum lies; else it is
    None, for the identity. Products of a few classes with so many rows are fastest with the rows last.
    """

    channels: Tensor
    mean: Tensor
    unit: Tensor
    basis: Tensor | None

    @classmethod
    def of(cls, features: Tensor, standardise: bool = False) -> "Design":
        """The design of finite features (N, D), with `standardise` of features in units of their spread."""
        features = features.detach().double()
        mean = features.mean(0)
        rows = features - mean
        size = features.square().mean(0).sqrt()
        unit = rows.new_ones(())
        if standardise:
            unit = _spread_or_one(rows.square().mean(0).sqrt(), size)
            rows = rows / unit
        total = _spread_or_one(rows.square().sum(1).mean().sqrt(), (size / unit).norm())
        rows, unit, basis = rows / total, unit * total, None
        if rows.shape[1] > rows.shape[0]:
            basis, reduced = torch.linalg.qr(rows.T)
            rows = reduced.T
        return cls(torch.cat([rows.T, rows.new_ones(1, len(rows))]), mean, unit, basis)

    def inward(self, weight: Tensor, bias: Tensor) -> Tensor:
        """The coefficients (K, R + 1) of a weight (K, D) and bias (K,) on the features."""
        inner = weight * self.unit
        if self.basis is not None:
            inner = inner @ self.basis
        return torch.cat([inner, (bias + weight @ self.mean)[:, None]], 1)

    def outward(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """The weight (K, D) and bias (K,) on the features of coefficients (K, R + 1)."""
        weight = self.spread(coefficients[:, :-1]) / self.unit
        bias = coefficients[:, -1] - weight @ self.mean
        return weight, bias - bias.mean()

    def spread(self, inner: Tensor) -> Tensor:
        """Coefficients (K, R), or their gradient, over the D channels."""
        return inner if self.basis is None else inner @ self.basis.T


def _spread_or_one(spread: Tensor, size: Tensor) -> Tensor:
    """The spread, or 1 where it is no more than rounding of values of this size: a constant."""
    return torch.where(spread > 10 * torch.finfo(spread.dtype).eps * size, spread, 1.0)
