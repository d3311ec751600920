"""What every page counts alike: means with their intervals, and live dimensions."""

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


def live_dimensions(variances: Sequence[float] | np.ndarray, tolerance: float | None = None) -> int:
    """How many variances of a spectrum (D,) are live: see `live`.

    >>> live_dimensions([4.0, 1.0, 1e-20, 0.0])
    2
    """
    return int(live(np.asarray(variances, dtype=np.float64), tolerance).sum())


def live(variances: np.ndarray, tolerance: float | None = None) -> np.ndarray:
    r"""Mask of the variances above `tolerance` times the largest one along the last axis: not rounding.

    .. math:: \lambda_k > \mathrm{tolerance} \cdot \max_j \lambda_j, \qquad
              \mathrm{tolerance} = (D \epsilon_{32})^2 \text{ by default}

    The default is what numpy.linalg.matrix_rank takes for features computed in float32: a variance below it
    is rounding. What is not finite is not live. Every table, figure and finding counts live dimensions so.

    >>> live(np.array([[4.0, 1.0, 1e-20], [0.0, 0.0, np.nan]]))
    array([[ True,  True, False],
           [False, False, False]])
    """
    if tolerance is None:
        tolerance = (variances.shape[-1] * float(np.finfo(np.float32).eps)) ** 2
    finite = np.where(np.isfinite(variances), variances, 0.0)
    mask: np.ndarray = finite > tolerance * finite.max(axis=-1, keepdims=True, initial=0.0)
    return mask
