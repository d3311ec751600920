"""Sampling errors of accuracies against SciPy's distributions and against simulated test sets."""

import numpy as np
import pytest
from refusals import refuses
from scipy import stats

from fullrank.errors import UsageError
from fullrank.statistics import (
    binomial_error,
    binomial_interval,
    correlation_interval,
    detectable_difference,
    paired_error,
    sampling_spread,
)


@pytest.mark.parametrize(("share", "count"), [(0.95, 500), (0.5, 7), (0.0, 3), (1.0, 10)])
def test_binomial_error_is_the_deviation_of_scipys_distribution(share, count):
    assert binomial_error(share, count) == pytest.approx(stats.binom.std(count, share) / count)


@pytest.mark.parametrize(("right", "count"), [(475, 500), (0, 3), (10, 10), (1, 7)])
def test_binomial_interval_is_scipys_wilson_interval(right, count):
    theirs = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert binomial_interval(right / count, count) == pytest.approx((theirs.low, theirs.high), rel=1e-6)


# The shares of images that both, only the first, only the second and neither get right.
@pytest.mark.parametrize("shares", [(0.90, 0.05, 0.02, 0.03), (0.30, 0.20, 0.25, 0.25), (0.2, 0.3, 0.1, 0.4)])
def test_paired_error_is_the_spread_over_simulated_test_sets(shares):
    count = 500
    draws = np.random.default_rng(0).multinomial(count, shares, size=40_000)
    spread = ((draws[:, 1] - draws[:, 2]) / count).std()
    first, second, discordant = shares[0] + shares[1], shares[0] + shares[2], shares[1] + shares[2]
    assert paired_error(first, second, count, discordant) == pytest.approx(spread, rel=0.02)
    # Without the outcomes of images: as for independent failures, more where failures go together.
    independent = [first * second, first * (1 - second), (1 - first) * second, (1 - first) * (1 - second)]
    apart = np.random.default_rng(1).multinomial(count, independent, size=40_000)
    bound = paired_error(first, second, count)
    assert bound == pytest.approx(((apart[:, 1] - apart[:, 2]) / count).std(), rel=0.02)
    assert (bound > spread) == (shares[0] > independent[0])


def test_detectable_difference_is_exceeded_by_chance_in_5_percent_of_the_cases():
    """Two independent encoders of one true accuracy, on 500 images."""
    shares = np.random.default_rng(2).binomial(500, 0.9, size=(40_000, 2)) / 500
    limit = detectable_difference(0.9, 0.9, 500)
    assert np.mean(np.abs(shares[:, 0] - shares[:, 1]) > limit) == pytest.approx(0.05, abs=0.006)
    assert limit == pytest.approx(stats.norm.ppf(0.975) * paired_error(0.9, 0.9, 500))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1.2, 500), ["1.2", "0 to 1"]),
        ((0.5, 0), ["0", "1 test image"]),
    ],
)
def test_binomial_error_refuses_what_is_no_accuracy(arguments, words):
    with refuses(UsageError, *words):
        binomial_error(*arguments)


@pytest.mark.parametrize("discordant", [0.01, 0.2])
def test_paired_error_refuses_a_discordance_that_the_accuracies_do_not_allow(discordant):
    with refuses(UsageError, f"{discordant:g}", "0.05", "0.15"):
        paired_error(0.95, 0.90, 500, discordant)


@pytest.mark.parametrize(("share", "counts"), [(0.9, [50] * 10), (0.6, [200] * 3), (0.8, [60, 80, 120] * 5)])
def test_one_in_twenty_test_sets_of_equal_classes_has_a_larger_spread(share, counts):
    rng = np.random.default_rng(0)
    sets = rng.binomial(counts, share, (4000, len(counts))) / counts
    larger = [np.std(shares) > sampling_spread(shares, counts) for shares in sets]
    assert 0.035 < np.mean(larger) < 0.07


def test_a_spread_needs_two_classes_and_their_counts():
    assert sampling_spread([1.0, 1.0], [5, 5]) == 0
    with refuses(UsageError, 2, "1 accuracies", "1 counts"):
        sampling_spread([0.5], [10])
    with refuses(UsageError, "2 accuracies", "3 counts"):
        sampling_spread([0.5, 0.6], [10, 10, 10])


def test_the_interval_of_a_correlation_is_scipys_at_zero_and_wider_elsewhere():
    x, y = np.array([-2.0, -1, 0, 1, 2]), np.array([1.0, -2, 2, -2, 1])
    theirs = stats.pearsonr(x, y).confidence_interval()
    assert correlation_interval(0.0, 5) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    y = x + rng.normal(size=30)
    found = stats.pearsonr(x, y)
    low, high = correlation_interval(found.statistic, 30)
    theirs = found.confidence_interval()
    assert theirs.low - 0.05 < low < theirs.low and theirs.high < high < theirs.high + 0.05
    assert correlation_interval(1.0, 4) == (1.0, 1.0) and correlation_interval(0.5, 3) is None
