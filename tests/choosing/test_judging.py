"""Regret and its correction, by Monte Carlo with known truths."""

import numpy as np
import pytest

from fullrank.choosing.judging import expected_best, median_interval, regret


def drawn(truths: np.ndarray, images: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((len(truths), images)) < truths[:, None]


@pytest.mark.parametrize("truths", [np.full(12, 0.9), np.linspace(0.5, 0.95, 12)])
def test_the_expected_best_is_less_biased_than_the_largest(truths):
    """Equal truths, where the largest accuracy is too high by 1.6 errors, and truths far apart."""
    trials, images = 60, 400
    excess, left = [], []
    for seed in range(trials):
        hits = drawn(truths, images, seed)
        excess.append(hits.mean(1).max() - truths[hits.mean(1).argmax()])
        left.append(expected_best(hits, samples=150, seed=seed) - truths[hits.mean(1).argmax()])
    error = np.std(left) / np.sqrt(trials)
    assert abs(np.mean(left)) < abs(np.mean(excess)) * 0.75 + 2 * error


def test_regret_of_all_is_zero_and_of_the_worst_the_largest():
    hits = drawn(np.array([0.9, 0.8, 0.6]), 2000, 0)
    assert regret(hits, [0, 1, 2]) == 0
    assert regret(hits, [2]) > regret(hits, [1]) > regret(hits, [0]) - 1e-9
    assert regret(hits, [2]) == pytest.approx(30, abs=4)


def test_an_interval_over_groups_is_wider_than_one_over_their_cases():
    values = [0.0] * 20 + [5.0] * 20 + [1.0] * 20
    groups = ["a"] * 20 + ["b"] * 20 + ["c"] * 20
    _, low, high = median_interval(values, groups)
    _, close, far = median_interval(values, [str(number) for number in range(60)])
    assert high - low > far - close
