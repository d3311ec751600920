"""The shape of features: spread, mean, dead channels, spectrum and where it drops, leading components."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fullrank.errors import UsageError
from fullrank.statistics import live_dimensions

# A channel is constant if its deviation is below this share of the largest one or of its own mean.
_FLAT = 1e-6
# A drop below this share of the largest eigenvalue is not collapse: an untrained net has drops of 50 to 500
# times at shares of 1e-10. Smaller eigenvalues therefore count as this share.
_FLOOR = 1e-8
# Rectified features come near zero. Others that are never negative have a smallest value far above zero.
_NEAR_ZERO = 0.3
# From this share on, the head's rank counts as reached: data need not fill its last dimension.
_FILLED = 0.9
# Leading components in use: 4 or more images for each, so that whitening does not create directions.
_MAX_COMPONENTS, _IMAGES_PER_COMPONENT = 256, 4


@dataclass(frozen=True)
class Shape:
    """The measurements that causes need of the features (N, D) at a place, from one pass in float64.

    Attributes:
        rows: N.
        width: D.
        spread: The square root of the total variance divided by the mean squared norm.
        mean_share: The squared norm of the mean divided by the mean squared norm.
        dead: The number of channels without variance.
        rectified: No feature is negative and the smallest is near zero, as after a ReLU.
        eigenvalues: Those of the centred covariance of the other channels, descending, at most as many as
            their possible rank.
    """

    rows: int
    width: int
    spread: float
    mean_share: float
    dead: int
    rectified: bool
    eigenvalues: Tensor


def check_ratio(name: str, value: float) -> None:
    """Raise UsageError unless `value`, called `name`, is a finite number of 1 or more."""
    if not (math.isfinite(value) and value >= 1):
        raise UsageError(f"{name} must be a number of 1 or more, but got {value}; it is a ratio.")


@dataclass(frozen=True)
class LowRankLimits:
    """Which drop of a spectrum makes a rank low.

    Args:
        gap: The smallest ratio of successive eigenvalues.
        single_gap: The smallest ratio for a drop after the first direction.
        lost_share: The smallest share of the possible rank behind the drop.

    Raises:
        UsageError: For a ratio below 1, or a share outside 0 to 1.

    >>> LowRankLimits(gap=0.5)
    Traceback (most recent call last):
    ...
    fullrank.errors.UsageError: gap must be a number of 1 or more, but got 0.5; it is a ratio.
    """

    gap: float = 8.0
    single_gap: float = 100.0
    lost_share: float = 0.1

    def __post_init__(self) -> None:
        for name in ("gap", "single_gap"):
            check_ratio(name, getattr(self, name))
        if not 0 < self.lost_share < 1:
            raise UsageError(f"lost_share must be between 0 and 1, but got {self.lost_share}; try 0.1.")


LOW_RANK = LowRankLimits()


@dataclass(frozen=True)
class Cut:
    """Where a spectrum drops sharply.

    Attributes:
        rank: The number of values before the drop.
        ratio: The last value before the drop divided by the next one.
        possible: The possible rank.
    """

    rank: int
    ratio: float
    possible: int

    @property
    def lost_share(self) -> float:
        """The share of the possible rank that is lost."""
        return 1 - self.rank / self.possible

    def sentence(self, place: str) -> str:
        """The drop in words, without a full stop."""
        where = f"after direction {self.rank} of {self.possible}"
        return f"The variance at {place} drops by a factor of {self.ratio:.3g} {where}"


@dataclass(frozen=True)
class Whitening:
    """The mean (D,) of features and a map (D, r) onto their leading components, each with variance 1."""

    mean: Tensor
    map: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Whitening":
        """The map for features (N, D): at most 256 leading live components, 4 or more images for each."""
        x = features.double()
        mean = x.mean(0)
        _, scales, directions = torch.linalg.svd((x - mean) / len(x) ** 0.5, full_matrices=False)
        live = live_dimensions(scales.square().cpu().numpy())
        count = max(1, min(live, len(x) // _IMAGES_PER_COMPONENT, _MAX_COMPONENTS))
        return cls(mean, directions[:count].T / scales[:count].clamp_min(torch.finfo(scales.dtype).tiny))

    @property
    def components(self) -> int:
        """The number of components, r."""
        return self.map.shape[1]

    def __call__(self, features: Tensor) -> Tensor:
        """The leading components (N, r) of features (N, D), float64."""
        return (features.double() - self.mean) @ self.map


def measure(features: Tensor) -> Shape:
    """The shape of features (N, D)."""
    x = features.detach().double().cpu()
    mean = x.mean(0)
    centred = x - mean
    variances = centred.square().mean(0)
    total = float(x.square().sum(1).mean())
    deviations = variances.sqrt()
    dead = deviations <= _FLAT * torch.maximum(deviations.max(), mean.abs())
    possible = min(len(x) - 1, int((~dead).sum()))
    varying = centred[:, ~dead]
    gram = varying.T @ varying if varying.shape[1] <= len(x) else varying @ varying.T
    eigenvalues = torch.linalg.eigvalsh(gram / len(x)).flip(0)[:possible].clamp_min(0)
    return Shape(
        rows=len(x),
        width=x.shape[1],
        spread=math.sqrt(float(variances.sum()) / total) if total > 0 else 0.0,
        mean_share=float(mean.square().sum()) / total if total > 0 else 0.0,
        dead=int(dead.sum()),
        rectified=0 <= float(x.min()) <= _NEAR_ZERO * float(x.mean()),
        eigenvalues=eigenvalues,
    )


def low_rank_of(
    eigenvalues: Tensor, limits: LowRankLimits = LOW_RANK, imposed_rank: int | None = None
) -> Cut | None:
    """The largest drop of a spectrum (r,), descending, that passes the limits, or None."""
    possible = len(eigenvalues)
    if possible < 2:
        return None
    values = eigenvalues.clamp_min(_FLOOR * float(eigenvalues[0]))
    if imposed_rank is not None:
        possible = min(possible, imposed_rank)
    most = min(len(values) - 1, math.floor((1 - limits.lost_share) * possible))
    if imposed_rank is not None:
        most = min(most, math.ceil(_FILLED * imposed_rank) - 1)
    if most < 1:
        return None
    ratios = values[:most] / values[1 : most + 1]
    least = torch.full_like(ratios, limits.gap)
    least[0] = limits.single_gap
    passing = ratios >= least
    if not passing.any():
        return None
    rank = int(torch.where(passing, ratios, 0.0).argmax()) + 1
    return Cut(rank, float(ratios[rank - 1]), possible)
