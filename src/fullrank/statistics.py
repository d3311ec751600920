"""Means, intervals and counts that every table shows alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

# `scipy.special` and not `scipy.stats`: a tenth of a second against one, for the same quantile.


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % t interval; `low` and `high` are None for fewer than two seeds.

    >>> Estimate.of([94.0, 95.0, 96.0])
    Estimate(mean=95.0, low=92.51586..., high=97.48413...)
    >>> Estimate.of([94.0])
    Estimate(mean=94.0, low=None, high=None)
    """

    mean: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Mean +- t(0.975, n-1) s / sqrt(n) of n values, n at least 1."""
        mean, count = float(np.mean(values)), len(values)
        if count < 2:
            return cls(mean)
        half = float(stdtrit(count - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(count))
        return cls(mean, mean - half, mean + half)

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def separated(self) -> bool:
        """Whether there is an interval and it excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def effective_dimension(singular_values: Sequence[float]) -> int:
    """How many singular values stand above float64 noise, as numpy.linalg.matrix_rank counts them.

    >>> effective_dimension([1.0, 0.5, 1e-20, 0.0])
    2
    """
    return int(above_noise(np.asarray(singular_values, dtype=np.float64)).sum())


def above_noise(values: np.ndarray) -> np.ndarray:
    """Mask of the values along the last axis above max * D * eps, finite: not numerically zero."""
    finite = np.where(np.isfinite(values), values, 0.0)
    limit = finite.max(axis=-1, keepdims=True, initial=0.0) * values.shape[-1] * np.finfo(np.float64).eps
    mask: np.ndarray = finite > np.maximum(limit, 0.0)
    return mask
