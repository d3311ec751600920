import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses
from scipy.stats.contingency import association as scipy_association

from fullrank.errors import DataError, UsageError
from fullrank.spectrum.factors import association, factor_weights, independent_factors

# Level means whose deviations are known: weights 1, sqrt(2) / 2 and 0.
SHAPE = torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0]])
COLOUR = torch.tensor([[0.0, 1, 0, 0], [0, 0, 0.5, 0], [0, -1, -0.5, 0]])
WEIGHTS = {
    "shape": 1.0,
    "colour": math.sqrt(float((COLOUR - COLOUR.mean(0)).square().sum()) / 3),
    "none": 0.0,
}


def crossed_features(seed, rows=240, noise=1.5, crossed=True):
    """Features of two factors and one that does nothing; levels are crossed evenly, or at random."""
    rng = np.random.default_rng(seed)
    cells = np.array(list(itertools.product(range(2), range(3), range(4))))
    levels = cells[np.arange(rows) % len(cells)] if crossed else rng.integers(0, [2, 3, 4], (rows, 3))
    levels = torch.from_numpy(levels)
    features = (
        7 + SHAPE[levels[:, 0]] + COLOUR[levels[:, 1]] + noise * torch.from_numpy(rng.normal(size=(rows, 4)))
    )
    return features, dict(zip(WEIGHTS, levels.T, strict=True))


@pytest.mark.parametrize("crossed", [True, False])
def test_known_weights_without_noise(crossed):
    weights = factor_weights(*crossed_features(0, noise=0.0, crossed=crossed))
    assert weights == pytest.approx(WEIGHTS, abs=1e-6)


@pytest.mark.parametrize("crossed", [True, False])
def test_squares_are_unbiased_whatever_the_noise(crossed):
    # Without correction 24 rows of noise 1.5 in 4 dimensions would add more than 0.7 to each square.
    squares = {name: [] for name in WEIGHTS}
    for seed in range(150):
        features, factors = crossed_features(seed, rows=24 if crossed else 48, crossed=crossed)
        for name, weight in factor_weights(features, {k: factors[k] for k in ("shape", "colour")}).items():
            squares[name].append(weight**2)
    for name in ("shape", "colour"):
        error = np.std(squares[name]) / math.sqrt(150)
        # What is clipped at 0 adds a little.
        assert abs(np.mean(squares[name]) - WEIGHTS[name] ** 2) < 4 * error + 0.03


def test_an_idle_factor_is_0_as_often_as_not():
    idle = [factor_weights(*crossed_features(seed))["none"] for seed in range(60)]
    assert 15 < sum(weight == 0 for weight in idle) < 50 and max(idle) < 0.6


def test_one_factor_is_the_balanced_analysis_of_variance():
    features, factors = crossed_features(3)
    level = factors["colour"].numpy()
    groups = [features[level == v].numpy() for v in range(3)]
    means = np.array([group.mean(0) for group in groups])
    within = np.mean([group.var(0, ddof=1).sum() for group in groups])
    expected = np.square(means - means.mean(0)).sum() / 3 - within / 80 * 2 / 3
    assert factor_weights(features, {"colour": factors["colour"]})["colour"] ** 2 == pytest.approx(expected)


def test_what_meets_evenly_adds_no_noise():
    # A second factor that is crossed with the first shifts no level mean, so it must not be taken off.
    shape, colour = torch.arange(40) % 2, torch.arange(40) // 2 % 2
    features = (0.1 * shape + 100.0 * colour)[:, None].float()
    assert factor_weights(features, {"shape": shape, "colour": colour}) == pytest.approx(
        {"shape": 0.05, "colour": 50.0}, rel=1e-4
    )


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 100))
def test_rotations_shifts_and_names_of_levels_change_nothing_and_scale_scales(seed, scale):
    features, factors = crossed_features(seed, rows=72, crossed=False)
    rotation = torch.linalg.qr(torch.from_numpy(np.random.default_rng(seed).normal(size=(4, 4))))[0]
    renamed = {name: 5 * (levels.max() - levels) for name, levels in factors.items()}
    weights = factor_weights(scale * features @ rotation - 3, renamed)
    expected = {name: scale * weight for name, weight in factor_weights(features, factors).items()}
    assert weights == pytest.approx(expected, rel=1e-6, abs=1e-6 * scale)


def test_unlabelled_rows_are_left_out():
    features, factors = crossed_features(1)
    factors["shape"] = torch.where(torch.arange(240) < 40, -1, factors["shape"])
    independent = {name: levels[40:] for name, levels in factors.items()}
    expected = factor_weights(features[40:], independent)
    features[:40] = torch.nan
    assert factor_weights(features, factors) == expected


def test_what_cannot_be_weighed_is_said():
    features, factors = crossed_features(0)
    with refuses(DataError, "'shape'", 1, 240, 2):
        factor_weights(features, {"shape": torch.zeros(240, dtype=torch.int64)})
    with refuses(DataError, "shape, again"):
        factor_weights(features, {"shape": factors["shape"], "again": 1 - factors["shape"]})
    with refuses(DataError, "2 labelled rows", "shape", 3):
        factor_weights(features[:2], {"shape": torch.tensor([0, 1])})
    with refuses(DataError, "240 of 240", "NaN"):
        factor_weights(features * torch.nan, factors)
    with refuses(UsageError, "'shape'", "(3,)", "(240,)"):
        factor_weights(features, {"shape": torch.zeros(3)})
    with refuses(UsageError, "factor", 1):
        factor_weights(features, {})
    with refuses(UsageError, "(N, D)", "(4,)"):
        factor_weights(features[0], factors)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), r=st.integers(2, 5), c=st.integers(2, 4))
def test_association_is_cramers_v_without_chance(seed, r, c):
    rng = np.random.default_rng(seed)
    first = np.r_[np.arange(r), rng.integers(0, r, 300)]
    second = np.r_[np.arange(r) % c, np.arange(c), rng.integers(0, c, 300 - c)]
    second[100:] = np.where(rng.random(len(second) - 100) < 0.5, first[100:] % c, second[100:])
    table = np.histogram2d(first, second, bins=(r, c))[0]
    n, plain = table.sum(), scipy_association(table.astype(int), method="cramer")
    phi = plain**2 * (min(r, c) - 1)
    smaller = min(side - (side - 1) ** 2 / (n - 1) for side in (r, c))
    expected = math.sqrt(max(0, phi - (r - 1) * (c - 1) / (n - 1)) / (smaller - 1))
    measured = association(torch.from_numpy(first), torch.from_numpy(second))
    assert measured == pytest.approx(min(1, expected), abs=1e-9)


def test_chance_is_no_association():
    rng = np.random.default_rng(0)
    weights = [association(*torch.from_numpy(rng.integers(0, 10, (2, 500)))) for _ in range(40)]
    assert np.median(weights) < 0.05 and max(weights) < 0.15


def test_association_needs_levels_of_the_same_rows():
    with refuses(UsageError, "(3,)", "(4,)"):
        association(torch.zeros(3), torch.zeros(4))
    with refuses(DataError, "'second'", "1 level"):
        association(torch.tensor([0, 1, 0]), torch.tensor([1, 1, -1]))


def test_refinements_and_constants_are_no_factors_of_their_own():
    _, factors = crossed_features(0)
    shape, colour = factors["shape"], factors["colour"]
    labels = {"shape": shape, "colour": colour, "both": 3 * shape + colour, "still": torch.zeros(240)}
    independent, left_out = independent_factors(labels)
    assert independent == ["shape", "colour"]
    assert [(out.factor, out.goes_with) for out in left_out] == [("both", "shape")]
    assert left_out[0].strength > 0.9
    assert independent_factors({"both": labels["both"], "shape": shape})[0] == ["both"]


def test_the_tolerance_decides():
    shape = torch.arange(400) % 2
    near = torch.where(torch.arange(400) < 260, torch.arange(400) // 2 % 2, shape)
    assert independent_factors({"shape": shape, "near": near}, tolerance=0.5)[0] == ["shape", "near"]
    assert independent_factors({"shape": shape, "near": near})[0] == ["shape"]
