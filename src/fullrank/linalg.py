"""First and second moments of features in float64, which merge exactly, and the covariance they give."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    r"""Count, mean and scatter of N feature vectors of width D, in float64.

    .. math:: n = N, \quad \bar h = \tfrac1N \sum_i h_i, \quad
              S = \sum_i (h_i - \bar h)(h_i - \bar h)^\top

    Two sets merge exactly (Chan, Golub, LeVeque 1983), so features can be streamed in any batch size with
    O(D^2) memory.

    >>> x = torch.randn(100, 5)
    >>> merged = Moments.of(x[:30]).merge(Moments.of(x[30:]))
    >>> torch.allclose(merged.covariance, torch.cov(x.double().T, correction=0))
    True
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """The moments of features (N, D)."""
        features = features.detach().double()
        mean = features.mean(0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets together."""
        count = self.count + other.count
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        between = torch.outer(difference, difference) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        """The centred covariance with 1/N, (D, D) (P1, Section 3)."""
        return self.scatter / self.count
