"""The ridge regression and the AUROC of the read-out against normal equations and the counting of pairs."""

import numpy as np
import pytest
import related_oracle as oracle
import torch

from fullrank.probes import auroc, ridge_r2

TRAIN, TEST = 40, 25


def rows_of(width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features with unlike scales and a mean, and three targets: a linear one, a square, and noise."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(TRAIN + TEST, width)) * np.arange(1, width + 1) + 3
    y = np.column_stack([x[:, 0] - 2 * x[:, 1], x[:, 1] ** 2, generator.normal(size=len(x))])
    return x, y


@pytest.mark.parametrize("width", [4, 60])
@pytest.mark.parametrize("penalty", [1e-3, 1.0, 100.0])
def test_ridge_r2_equals_the_normal_equations(width, penalty):
    x, y = rows_of(width, seed=width)
    parts = x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:]
    mean, expected = oracle.ridge_r2(*parts, penalty * TRAIN)  # ours is a penalty on the mean of the errors
    found = ridge_r2(*map(torch.from_numpy, parts), penalty)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8)
    assert float(found.mean()) == pytest.approx(mean, rel=1e-8)


@pytest.mark.parametrize("digits", [0, 1, 8])
def test_auroc_equals_the_count_of_pairs(digits):
    generator = np.random.default_rng(digits)
    hit = generator.random(50) < 0.3
    scores = (generator.normal(size=50) + hit).round(digits)
    assert auroc(scores, hit) == pytest.approx(oracle.auroc(scores, hit), rel=1e-12)
