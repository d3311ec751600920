"""The shape of features: spread, mean, dead channels, spectrum and where it drops, leading components."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import Gram, Moments, second_moments
from fullrank.spectrum.corrected import corrected_participation_ratio_of
from fullrank.statistics import live_dimensions

# A channel is constant if its deviation is below this share of its own mean, or below the second share of the
# largest deviation. Healthy channels in unlike units can differ by a factor of a million.
_FLAT, _FLAT_BESIDE = 1e-6, 1e-8
# A drop below this share of the largest eigenvalue is not collapse: an untrained net has drops of 50 to 500
# times at shares of 1e-10. Smaller eigenvalues therefore count as this share.
_FLOOR = 1e-8
# Rectified features come near zero. Others that are never negative have a smallest value far above zero.
_NEAR_ZERO = 0.3
# From this share on, the head's rank counts as reached: data need not fill its last dimension.
_FILLED = 0.9
# From this participation ratio on, variance behind a drop spreads over many directions.
_SPREAD = 8
# One Gaussian file in so many has a drop that is sharp enough by chance, where its rows are few.
_CHANCE = 300
# Leading components in use: 4 or more images for each, so that whitening does not create directions.
_MAX_COMPONENTS, _IMAGES_PER_COMPONENT = 256, 4


@dataclass(frozen=True)
class Shape:
    """The measurements that causes need of the features (N, D) at a place, from their moments in float64.

    Attributes:
        rows: N, the number of rows in the moments.
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

    @property
    def first_share(self) -> float:
        """The share of the variance in the first direction, 0 to 1; 0 if nothing varies."""
        return float(self.eigenvalues[0] / self.eigenvalues.sum()) if len(self.eigenvalues) else 0.0

    @cached_property
    def rest(self) -> float:
        """The corrected participation ratio of what varies after the first direction is projected out.

        It is 0 if nothing is left, and infinite if the rows are too few to limit it.
        """
        if len(self.eigenvalues) < 2 or self.eigenvalues[1] <= _FLOOR * self.eigenvalues[0]:
            return 0.0
        return ratio_of_rest(self.eigenvalues[1:], self.rows)


def ratio_of_rest(eigenvalues: Tensor, rows: int) -> float:
    """`corrected_participation_ratio_of` a spectrum; infinite if the rows are too few to limit it."""
    try:
        return corrected_participation_ratio_of(eigenvalues, rows)
    except DataError:
        return math.inf


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
        behind: The largest share of the variance behind the drop. Where more is left, nothing collapsed.
        spread_behind: The same if what is left spreads over 8 directions or more (its corrected participation
            ratio).

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
    behind: float = 0.04
    spread_behind: float = 0.01

    def __post_init__(self) -> None:
        for name in ("gap", "single_gap"):
            check_ratio(name, getattr(self, name))
        if not 0 < self.lost_share < 1:
            raise UsageError(f"lost_share must be between 0 and 1, but got {self.lost_share}; try 0.1.")
        for name in ("behind", "spread_behind"):
            if not 0 < (share := getattr(self, name)) <= 1:
                raise UsageError(f"{name} must be above 0 and at most 1, but got {share}; try 0.01.")


LOW_RANK = LowRankLimits()


@dataclass(frozen=True)
class Cut:
    """Where a spectrum drops sharply.

    Attributes:
        rank: The number of values before the drop.
        ratio: The last value before the drop divided by the next one.
        possible: The possible rank.
        behind: The share of the variance behind the drop.
    """

    rank: int
    ratio: float
    possible: int
    behind: float = 0.0

    @property
    def lost_share(self) -> float:
        """The share of the possible rank that is lost."""
        return 1 - self.rank / self.possible

    def sentence(self, place: str) -> str:
        """The drop in words, without a full stop."""
        where = f"after direction {self.rank} of {self.possible}"
        left = f"leaves {100 * self.behind:.2g} % behind it"
        return f"The variance at {place} drops by a factor of {self.ratio:.3g} {where} and {left}"


def most_components(images: int) -> int:
    """How many leading components so many images may have: at most 256, and 4 or more images for each."""
    return min(images // _IMAGES_PER_COMPONENT, _MAX_COMPONENTS)


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
        count = max(1, min(live, most_components(len(x))))
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
    return shape_of(second_moments(features), float(features.min()))


def shape_of(moments: Moments | Gram, smallest: float) -> Shape:
    """The shape of features (N, D), from their moments and their smallest value."""
    mean, variances = moments.mean, moments.variances
    total = float(variances.sum() + mean.square().sum())
    deviations = variances.sqrt()
    dead = deviations <= torch.maximum(_FLAT_BESIDE * deviations.max(), _FLAT * mean.abs())
    possible = min(moments.count - 1, int((~dead).sum()))
    # Dead channels add nothing to inner products.
    products = moments.centred if isinstance(moments, Gram) else moments.scatter[~dead][:, ~dead]
    eigenvalues = torch.linalg.eigvalsh(products.cpu() / moments.count).flip(0)[:possible].clamp_min(0)
    return Shape(
        rows=moments.count,
        width=len(mean),
        spread=math.sqrt(float(variances.sum()) / total) if total > 0 else 0.0,
        mean_share=float(mean.square().sum()) / total if total > 0 else 0.0,
        dead=int(dead.sum()),
        rectified=0 <= smallest <= _NEAR_ZERO * float(mean.mean()),
        eigenvalues=eigenvalues,
    )


def drop_by_chance(behind: int, rows: int, possible: int) -> float:
    r"""The drop before the last directions that one of 300 files of healthy rows has by chance, or about 1.

    .. math:: 300^{2 / (k (k + N - 1 - r))}

    Of N Gaussian rows with r possible directions, the k smallest eigenvalues fall below x with a probability
    proportional to the inverse power of x, as x goes to 0. It is 90,000 for the last direction of a square
    file, and near 1 with many rows.

    Args:
        behind: The number of directions behind the drop, k.
        rows: The number of rows, N.
        possible: The possible directions, r, at most N - 1.

    >>> round(drop_by_chance(1, rows=11, possible=10)), round(drop_by_chance(5, rows=100, possible=10), 3)
    (90000, 1.024)

    Source: fullrank, from the joint density of the eigenvalues of a Wishart matrix.
    """
    return float(_CHANCE ** (2 / (behind * (behind + max(rows - 1 - possible, 0)))))


def low_rank_of(
    eigenvalues: Tensor,
    limits: LowRankLimits = LOW_RANK,
    imposed_rank: int | None = None,
    rows: int | None = None,
) -> Cut | None:
    """The largest drop of a spectrum (r,), descending, that passes the limits, or None.

    Args:
        eigenvalues: The spectrum, as many values as the possible rank.
        limits: The limits. Of few rows, the ratio must be larger by `drop_by_chance`.
        imposed_rank: The rank that a fixed head imposes.
        rows: The number of rows that the spectrum is from; None for the spectrum of a map.
    """
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
    if rows is not None:
        counts = range(len(values) - 1, len(values) - most - 1, -1)
        least *= least.new_tensor([drop_by_chance(count, rows, len(values)) for count in counts])
    # The participation ratio of what lies behind, as `corrected_participation_ratio_of` has it.
    sums, squares = (tail.flip(0).cumsum(0).flip(0) for tail in (eigenvalues, eigenvalues.square()))
    behind = (sums / sums[0])[1 : most + 1]
    few = squares / sums.square().clamp_min(1e-300) > 1 / _SPREAD + (1 / (rows - 1) if rows else 0)
    passing = (ratios >= least) & (
        behind <= torch.where(few[1 : most + 1], limits.behind, limits.spread_behind)
    )
    if not passing.any():
        return None
    rank = int(torch.where(passing, ratios, 0.0).argmax()) + 1
    return Cut(rank, float(ratios[rank - 1]), possible, float(behind[rank - 1]))
