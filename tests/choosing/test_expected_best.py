"""How much of the excess of the largest accuracy is left, from normal order statistics and known truths."""

import math

import numpy as np
import pytest

from fullrank.choosing.judging import expected_best, regret


def drawn(truths: np.ndarray, images: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((len(truths), images)) < truths[:, None]


def test_of_two_equal_candidates_the_excess_left_is_that_of_normal_numbers():
    """Two gaps d ~ N(0, 2 se^2): the maximum is too high by E|d| / 2 = se / sqrt(pi).

    The bootstrap draws a gap with the same variance about d, and takes off E[(|d + e| - sign(d + e) d)] / 2
    = E[e sign(d + e)] / 2 = se / sqrt(2 pi), so the share 1 - 1 / sqrt(2) is left.
    """
    images, trials, truth = 400, 400, 0.8
    error = math.sqrt(truth * (1 - truth) / images)
    hits = [drawn(np.full(2, truth), images, seed) for seed in range(trials)]
    # The mean of both accuracies has no bias, and most of the noise.
    left = np.array([expected_best(each, 60, seed) - each.mean() for seed, each in enumerate(hits)]) / error
    expected = (1 - 1 / math.sqrt(2)) / math.sqrt(math.pi)
    assert left.mean() == pytest.approx(expected, abs=4 * left.std() / math.sqrt(trials))
    assert 4 * left.std() / math.sqrt(trials) < 0.12


def test_of_candidates_far_apart_nothing_is_taken_off():
    truths = np.array([0.9, 0.6, 0.5])
    for seed in range(5):
        hits = drawn(truths, 400, seed)
        assert expected_best(hits, 400, seed) == pytest.approx(hits[0].mean(), abs=0.003)


def test_candidates_that_are_right_on_the_same_images_have_no_excess():
    """Errors that all share cancel: the excess comes from differences alone."""
    row = drawn(np.array([0.8]), 300, 0)
    shared = np.repeat(row, 12, axis=0)
    apart = drawn(np.full(12, 0.8), 300, 1)
    draws = 2000
    noise = row.std() / math.sqrt(300 * draws)
    assert expected_best(shared, draws) == pytest.approx(row.mean(), abs=4 * noise)
    assert expected_best(apart, draws) < apart.mean(1).max() - 20 * noise


def test_the_order_of_candidates_does_not_matter():
    hits = drawn(np.linspace(0.7, 0.8, 6), 301, 3)
    order = np.array([4, 2, 0, 5, 1, 3])
    assert expected_best(hits[order]) == pytest.approx(expected_best(hits), abs=1e-3)
    assert regret(hits[order], [0, 1]) == pytest.approx(regret(hits, [4, 2]), abs=0.2)
