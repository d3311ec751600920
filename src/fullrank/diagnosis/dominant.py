"""What holds nearly all variance at a place: a few channels, or one direction. And what lies behind it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fullrank.diagnosis.shape import Shape, drop_by_chance, ratio_of_rest
from fullrank.linalg import Gram, Moments, row_blocks, second_moments

# Limits of a participation ratio hold from this many possible directions on.
_WIDE = 16
# Groups are looked for, and channels compared with them, from this share of the variance on.
_MOST = 0.5
# A few channels are at most this share of those that vary, or one. The next variance is far smaller.
_FEW, _DROP = 0.2, 8.0
# If a few channels hold this share, they are the ones.
_HELD = 0.95
# Channels count, rather than a direction across many, if they hold this share of what the direction holds.
_AS_MUCH = 0.99
# The iteration for the first direction: where it holds a half or more of the variance, ten digits and more.
_STEPS = 40
# Two groups leave this share of the variance within them. A Gaussian that is cut in two leaves 0.36.
_WITHIN = 0.1
# At most one row in so many is a few rows far from all others, and not a group.
_OUTLYING = 1000


@dataclass(frozen=True)
class Dominant:
    """What holds most variance at a place, and what is left without it.

    Attributes:
        channels: The channels that hold it, the largest first. Empty for a direction across many channels.
        share: Its share of the variance.
        rest: The corrected participation ratio of the rest; infinite if the rows are too few to limit it.
        possible: The possible rank of the rest.
        group: The rows of the smaller of two groups along it, empty if there is only one.
        rows: The number of rows in which groups were looked for.
    """

    channels: tuple[int, ...]
    share: float
    rest: float
    possible: int
    group: tuple[int, ...]
    rows: int

    @property
    def outlying(self) -> bool:
        """Whether it is only the distance of a few rows from all others."""
        return 0 < len(self.group) <= max(1, self.rows // _OUTLYING)

    def scaled(self, directions: float) -> float:
        """A limit of `rest`, smaller in proportion if the rest has fewer than 16 possible directions."""
        return directions * min(1.0, self.possible / _WIDE)


def dominant_of(features: Tensor, moments: Moments | Gram, shape: Shape) -> Dominant:
    """What holds most variance of features (N, D).

    Args:
        features: The features, or a sample of their rows.
        moments: The moments of all rows.
        shape: The shape of all rows.
    """
    channels, share = largest_channels(moments.variances.cpu(), moments.count)
    group: tuple[int, ...] = ()
    if shape.first_share > _MOST:
        group = tuple(smaller_group(along_first(features, moments)).tolist())
    if share < max(_MOST, _AS_MUCH * shape.first_share):
        possible = max(len(shape.eigenvalues) - 1, 0)
        return Dominant((), shape.first_share, shape.rest, possible, group, len(features))
    others = torch.ones(shape.width, dtype=torch.bool)
    others[list(channels)] = False
    possible = max(min(shape.rows - 1, shape.width - shape.dead - len(channels)), 0)
    # Without these channels nothing is subtracted, so their size costs the others no digits.
    rest = _ratio_of_channels(features, moments, others)
    return Dominant(channels, share, rest, possible, group, len(features))


def percent(share: float) -> str:
    """A share near 1 in percent, to four digits.

    >>> percent(0.98291), percent(1 - 1e-12)
    ('98.29 %', 'more than 99.99 %')
    """
    return "more than 99.99 %" if share > 0.9999 else f"{100 * share:.4g} %"


def largest_channels(variances: Tensor, rows: int) -> tuple[tuple[int, ...], float]:
    """The few channels before the largest drop of the variances (D,), and their share of the sum.

    There are none, with a share of 0, if the next variance is not at least 8 times smaller. Of few rows it
    must be smaller still, because the variances of few numbers differ by chance.

    Args:
        variances: The variance of each channel.
        rows: The number of rows that they are from.

    >>> largest_channels(torch.tensor([1.0, 1.0, 98.0, 0.0]), rows=100)
    ((2,), 0.98)
    """
    ordered, channels = variances.sort(descending=True)
    varying = int((ordered > 0).sum())
    if varying < 2:
        return (), 0.0
    most = min(max(1, math.floor(_FEW * varying)), varying - 1)
    shares = (ordered.cumsum(0) / ordered.sum())[:most]
    drops = ordered[:most] / ordered[1 : most + 1]
    drops = torch.where(drops >= _DROP * drop_by_chance(varying - most, rows, varying), drops, 0.0)
    if (held := torch.where(shares > _HELD, drops, 0.0)).any():
        drops = held
    if not drops.any():
        return (), 0.0
    count = int(drops.argmax()) + 1
    return tuple(channels[:count].tolist()), float(shares[count - 1])


def along_first(features: Tensor, moments: Moments | Gram) -> Tensor:
    """The position (N,) of features (N, D) along the direction with the most variance, in any unit.

    Args:
        features: The features, or a sample of their rows.
        moments: The moments of all rows.
    """
    if isinstance(moments, Gram):
        # The first eigenvector of the inner products is the position of their rows.
        products = moments.centred if moments.count == len(features) else Gram.of(features).centred
        return _first_eigenvector(products.cpu())
    direction = _first_eigenvector(moments.scatter.cpu())
    return torch.cat([block.cpu() @ direction for block in row_blocks(features)])


def _first_eigenvector(matrix: Tensor) -> Tensor:
    """The first eigenvector (n,) of a symmetric matrix (n, n) without negative eigenvalues, by iteration."""
    vector = matrix[:, matrix.diagonal().argmax()]
    for _ in range(_STEPS):
        vector = matrix @ (vector / vector.norm())
    return vector / vector.norm()


def smaller_group(values: Tensor) -> Tensor:
    """The numbers of the smaller of two groups of values (N,), none if they are one group.

    The values are cut in two where the variance within the parts is least (Otsu 1979). They are two groups if
    a tenth of the variance or less is left within them.

    >>> smaller_group(torch.tensor([0.0, 9.0, 0.1, 0.2, 9.1])).tolist()
    [1, 4]
    """
    ordered, rows = (values - values.mean()).sort()
    total, count = float(ordered.square().sum()), len(ordered)
    if count < 2 or total == 0:
        return rows[:0]
    sizes = torch.arange(1, count, dtype=ordered.dtype)
    sums = ordered.cumsum(0)[:-1]
    between = sums.square() * count / (sizes * (count - sizes))
    size = int(between.argmax()) + 1
    if total - float(between[size - 1]) > _WITHIN * total:
        return rows[:0]
    return (rows[:size] if 2 * size <= count else rows[size:]).sort().values


def _ratio_of_channels(features: Tensor, moments: Moments | Gram, channels: Tensor) -> float:
    """The corrected participation ratio of some channels, a mask (D,)."""
    if isinstance(moments, Gram):
        part = second_moments(features[:, channels.to(features.device)])
        return ratio_of_rest(part.singular_values(), part.count)
    covariance = moments.covariance.cpu()[channels][:, channels]
    values = torch.linalg.eigvalsh(covariance).flip(0).clamp_min(0)
    return ratio_of_rest(values, moments.count)
