"""How far features are from an isotropic Gaussian, by the statistic that SIGReg minimises."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fullrank.epps_pulley import EppsPulley, random_slices, wave_sums
from fullrank.errors import DataError, UsageError
from fullrank.spectrum.geometry import sample_rows

_GRID = EppsPulley()


@dataclass(frozen=True)
class GaussianDistance:
    """The statistic of SIGReg at its usual knots, and the mean that it has for an isotropic Gaussian.

    Attributes:
        statistic: The mean of N T over random slices, which grows with N unless the features are Gaussian.
        floor: Its mean for N rows of N(0, I).
        rows: The number N of rows.
        slices: The number of slices.
    """

    statistic: float
    floor: float
    rows: int
    slices: int

    @property
    def excess(self) -> float:
        """The distance without the part that any sample has: (statistic - floor) / N. It tends to T."""
        return (self.statistic - self.floor) / self.rows


def gaussian_distance(
    features: Tensor, slices: int = 256, *, sample: int = 2048, seed: int = 0
) -> GaussianDistance:
    r"""How far features are from N(0, I): the statistic of SIGReg on random slices.

    .. math:: N T = \frac{N}{M} \sum_m \sum_j w_j
                    \Big|\frac1N \sum_n e^{i t_j h_n \cdot a_m} - e^{-t_j^2/2}\Big|^2

    Nothing is centred or scaled, so it is meant for a z that was trained towards N(0, I). The excess is about
    0 there, and 0.402 if all rows are 0. An estimate may be slightly negative.

    A missing rank is almost invisible: features of rank r with the variance of N(0, I) in total have an
    excess of about 0.24 (1 - r/D) / r. Read the effective rank beside it.

    Args:
        features: Features (N, D).
        slices: The number M of random directions, 1 or more.
        sample: Of more rows than this, a random sample is taken.
        seed: The seed of the directions and of the sample.

    Raises:
        UsageError: For no slice, or an invalid sample.
        DataError: For fewer than 2 rows, or rows that are not finite.

    >>> round(gaussian_distance(torch.zeros(50, 3)).excess + 1.0525 / 50, 3)  # one point
    0.402

    Source: Balestriero and LeCun 2025 (2511.08544), with 17 knots on [0, 3].
    """
    return _distance(sample_rows(features, sample, seed, "The Gaussian distance"), slices, seed, _GRID.floor)


def isotropy_distance(
    features: Tensor, slices: int = 256, *, sample: int = 2048, seed: int = 0
) -> GaussianDistance:
    r"""How far features are from an isotropic Gaussian of any mean and scale.

    This is `gaussian_distance` of features that are centred, and divided by one number so that their mean
    variance over channels is 1. Shift, scale and rotation change nothing, up to the random slices. Unequal
    variances, clusters and heavy tails raise it. The floor is that of centred rows, 0.5701.

    It sees no more of a missing rank than `gaussian_distance` does, and says nothing about the use of the
    features: those of a good encoder before the head are seldom Gaussian.

    Args:
        features: Features (N, D).
        slices: The number M of random directions, 1 or more.
        sample: Of more rows than this, a random sample is taken.
        seed: The seed of the directions and of the sample.

    Raises:
        UsageError: For no slice, or an invalid sample.
        DataError: For fewer than 2 rows, rows that are all equal, or rows that are not finite.

    >>> x = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    >>> abs(isotropy_distance(5 * x + 3).excess) < 0.001
    True
    >>> round(isotropy_distance(x.sign() * x**2).excess, 2)  # heavy tails
    0.01

    Source: as `gaussian_distance`; the floor of centred rows is that of a composite test of normality.
    """
    rows = sample_rows(features, sample, seed, "The isotropy distance")
    centred = rows - rows.mean(0)
    scale = centred.square().sum() / ((len(rows) - 1) * rows.shape[1])
    if not scale > 0:
        raise DataError(f"All {len(rows)} rows are equal, so they have no shape; pass rows that vary.")
    return _distance(centred / scale.sqrt(), slices, seed, _GRID.centred_floor)


def _distance(rows: Tensor, slices: int, seed: int, floor: float) -> GaussianDistance:
    if not slices >= 1:
        raise UsageError(f"slices must be 1 or more, but got {slices}; leave it out for 256.")
    directions = random_slices(rows.shape[1], slices, torch.Generator().manual_seed(seed), rows)
    sums = wave_sums(rows[None], directions, _GRID.step, _GRID.knots - 1)
    return GaussianDistance(
        len(rows) * float(_GRID.statistic(sums, len(rows))), floor, len(rows), directions.shape[1]
    )
