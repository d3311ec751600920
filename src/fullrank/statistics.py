"""Statistics that every page shares: intervals over seeds, sampling errors of accuracies, live dimensions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, stdtrit

from fullrank.errors import UsageError

# 97.5 % of a standard normal variable lie below it, so 95 % lie within plus and minus it.
NORMAL_95 = 1.959964

# From `scipy.special`, since importing `scipy.stats` takes ten times as long for the same quantile.


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % t interval. `low` and `high` are None for fewer than two seeds.

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
        """Whether the interval exists and excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def binomial_error(share: float, count: int) -> float:
    r"""The standard error of an accuracy that was measured on `count` test images.

    .. math:: \mathrm{se} = \sqrt{p (1 - p) / n}

    It is the spread that the accuracy would have over other test sets of this size. The noise of training is
    not in it.

    Args:
        share: the accuracy p, 0 to 1.
        count: the number n of labelled test images.

    Raises:
        UsageError: for a share outside 0 to 1 or a count below 1.

    >>> round(binomial_error(0.95, 500), 4)
    0.0097

    Source: the standard error of a binomial proportion (Wald).
    """
    if not 0 <= share <= 1 or count < 1:
        got = f"{share:g} of {count}"
        raise UsageError(f"An accuracy lies in 0 to 1 and needs 1 test image or more, but got {got}.")
    return math.sqrt(share * (1 - share) / count)


def binomial_interval(share: float, count: int) -> tuple[float, float]:
    r"""The 95 % interval of an accuracy that was measured on `count` test images, by Wilson's formula.

    .. math:: \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4n^2}}{1 + z^2 / n}, \qquad z = 1.96

    Unlike p plus and minus 1.96 standard errors, it has a width at 0 and at 1 and stays between them.

    Args:
        share: The accuracy p, 0 to 1.
        count: The number n of labelled test images.

    Raises:
        UsageError: For a share outside 0 to 1 or a count below 1.

    >>> low, high = binomial_interval(0.95, 500)
    >>> round(low, 4), round(high, 4)
    (0.9272, 0.9659)

    Source: Wilson 1927 (JASA 22), Equation 2.
    """
    error, square = binomial_error(share, count), NORMAL_95**2
    middle = share + square / (2 * count)
    half = NORMAL_95 * math.sqrt(error**2 + square / (4 * count**2))
    return (middle - half) / (1 + square / count), (middle + half) / (1 + square / count)


def one_error_below(best: float, count: int) -> float:
    r"""The lowest accuracy within one standard error of the best one, on `count` test images.

    .. math:: a - \sqrt{\hat a (1 - \hat a) / n}, \qquad \hat a = \frac{a n + 1}{n + 2}

    The accuracy in the error is smoothed, because even a perfect score has an error.

    Args:
        best: the best accuracy a, 0 to 1.
        count: the number n of labelled test images.

    >>> round(one_error_below(1.0, 100), 3)
    0.99
    """
    return best - binomial_error((best * count + 1) / (count + 2), count)


def paired_error(first: float, second: float, count: int, discordant: float | None = None) -> float:
    r"""The standard error of the difference of two accuracies on the same `count` test images.

    .. math:: \mathrm{se} = \sqrt{\frac{d - (p - q)^2}{n}} \text{ (McNemar)}, \qquad
              \mathrm{se} \le \sqrt{\frac{p (1 - p) + q (1 - q)}{n}} \text{ without } d

    The share d of images that exactly one of the two gets right needs the outcome of each image. A record
    does not keep these outcomes. Without d the error is that of two independent test sets. It is an upper
    bound unless the two tend to fail on different images: as a rule an image that is hard for one encoder is
    hard for the other, and then the true error is smaller.

    Args:
        first: the accuracy p, 0 to 1.
        second: the accuracy q, 0 to 1.
        count: the number n of labelled test images.
        discordant: the share d of images that exactly one of the two gets right, where it is known.

    Raises:
        UsageError: for a share outside 0 to 1, a count below 1, or a d that the two accuracies do not allow.

    >>> round(paired_error(0.95, 0.94, 500), 4), round(paired_error(0.95, 0.94, 500, discordant=0.03), 4)
    (0.0144, 0.0077)

    Source: McNemar 1947; the variance is that of the paired difference, as in Agresti, Categorical Data
    Analysis, section 11.1.
    """
    bound = math.hypot(binomial_error(first, count), binomial_error(second, count))
    if discordant is None:
        return bound
    gap = abs(first - second)
    # Half of one image more: shares of whole images are rounded.
    most, slack = min(first + second, 2 - first - second), 0.5 / count
    if not gap - slack <= discordant <= most + slack:
        limits = f"{gap:g} to {most:g}"
        raise UsageError(f"Accuracies of {first:g} and {second:g} differ on {limits}, not {discordant:g}.")
    return math.sqrt(max(discordant - gap**2, 0.0) / count)


def detectable_difference(first: float, second: float, count: int, discordant: float | None = None) -> float:
    """The difference of two accuracies, 0 to 1, below which the sampling of the test images explains it.

    It is 1.96 times `paired_error`, whose arguments and errors it has: the 95 % limit for one pair of runs.
    What another seed would change is not in it.

    >>> round(detectable_difference(0.95, 0.94, 500), 3)
    0.028
    """
    return NORMAL_95 * paired_error(first, second, count, discordant)


def extreme_count(classes: int) -> int:
    """How many of so many classes count as the worst, and as the best.

    >>> [extreme_count(classes) for classes in (1, 2, 3, 10, 100, 1000)]
    [1, 1, 1, 2, 5, 50]
    """
    return max(1, min(classes // 2, max(2, round(classes / 20))))


def sampling_spread(accuracies: Sequence[float], counts: Sequence[int]) -> float:
    r"""The standard deviation over classes that sampling explains if all classes are equally hard.

    .. math:: \sqrt{\frac{\chi^2_{0.95,\,C - 1}}{C} \cdot
              \frac1C \sum_c \frac{\bar a (1 - \bar a)}{n_c}}, \qquad
              \bar a = \frac{\sum_c n_c a_c}{\sum_c n_c}

    In 95 of 100 test sets the standard deviation (1/C) of equally hard classes is below it; for classes of
    unequal sizes this holds roughly.

    Args:
        accuracies: The accuracies of C classes, 0 to 1.
        counts: The number of test images of each class.

    Raises:
        UsageError: For fewer than two classes, or lists of unequal lengths.

    >>> round(sampling_spread([0.9] * 10, [1000] * 10), 4), round(sampling_spread([0.9] * 10, [50] * 10), 4)
    (0.0123, 0.0552)

    Source: the chi-square test of equal proportions.
    """
    if len(accuracies) < 2 or len(accuracies) != len(counts):
        got = f"{len(accuracies)} accuracies and {len(counts)} counts"
        raise UsageError(f"A spread needs 2 classes or more and a count for each, but got {got}.")
    mean = min(max(float(np.average(accuracies, weights=counts)), 0.0), 1.0)
    variance = float(np.mean([mean * (1 - mean) / count for count in counts]))
    return math.sqrt(float(chdtri(len(counts) - 1, 0.05)) / len(counts) * variance)


def correlation_interval(value: float, count: int) -> tuple[float, float] | None:
    r"""The 95 % interval of a rank correlation of `count` pairs; None for fewer than 4.

    .. math:: \tanh\left(\operatorname{artanh} r \pm 1.96 \sqrt{(1 + r^2 / 2) / (n - 3)}\right)

    For a Pearson correlation it is slightly too wide. It says what other classes of the same kind would give.
    It is rough for fewer than 10 pairs.

    Args:
        value: The correlation r, -1 to 1.
        count: The number n of pairs.

    >>> [round(end, 2) for end in correlation_interval(0.9, 10)], correlation_interval(0.9, 3)
    ([0.53, 0.98], None)

    Source: Bonett and Wright 2000 (Psychometrika 65), for Spearman's correlation.
    """
    if count < 4:
        return None
    if abs(value) >= 1:
        return (value, value)
    half = NORMAL_95 * math.sqrt((1 + value**2 / 2) / (count - 3))
    middle = math.atanh(value)
    return math.tanh(middle - half), math.tanh(middle + half)


def live_dimensions(variances: Sequence[float] | np.ndarray, tolerance: float | None = None) -> int:
    """The number of live variances of a spectrum (D,); see `live`.

    >>> live_dimensions([4.0, 1.0, 1e-20, 0.0])
    2
    """
    return int(live(np.asarray(variances, dtype=np.float64), tolerance).sum())


def live(variances: np.ndarray, tolerance: float | None = None) -> np.ndarray:
    r"""Mask of the variances above `tolerance` times the largest one along the last axis.

    .. math:: \lambda_k > \mathrm{tolerance} \cdot \max_j \lambda_j, \qquad
              \mathrm{tolerance} = (D \epsilon_{32})^2 \text{ by default}

    The default is the tolerance of numpy.linalg.matrix_rank for features computed in float32. A variance
    below it is rounding. A value that is not finite is not live. Every table, figure and finding uses this
    definition.

    Args:
        variances: spectra (..., D), variances along the last axis in any order.
        tolerance: the share of the largest variance that a live one exceeds.

    Returns:
        A mask of the shape of `variances`.

    >>> live(np.array([[4.0, 1.0, 1e-20], [0.0, 0.0, np.nan]]))
    array([[ True,  True, False],
           [False, False, False]])
    """
    if tolerance is None:
        tolerance = (variances.shape[-1] * float(np.finfo(np.float32).eps)) ** 2
    finite = np.where(np.isfinite(variances), variances, 0.0)
    mask: np.ndarray = finite > tolerance * finite.max(axis=-1, keepdims=True, initial=0.0)
    return mask


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """The ranks, from 1, of numbers (..., N) along the last axis; equal numbers share their mean rank.

    >>> mean_ranks(np.array([0.3, 0.1, 0.3])).tolist()
    [2.5, 1.0, 2.5]
    """
    one, other = values[..., :, None], values[..., None, :]
    ranks: np.ndarray = (one > other).sum(-1) + ((one == other).sum(-1) + 1) / 2
    return ranks


def correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's correlation of numbers (..., N) and (..., N) along the last axis; nan where one is constant.

    That of their `mean_ranks` is Spearman's.

    >>> correlations(np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]), np.arange(3.0)).round(6).tolist()
    [1.0, nan]
    """
    a, b = (values - values.mean(-1, keepdims=True) for values in (one, other))
    constant = (np.ptp(one, axis=-1) == 0) | (np.ptp(other, axis=-1) == 0)
    size = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.where(constant, np.nan, (a * b).sum(-1) / np.where(constant, 1.0, size))
