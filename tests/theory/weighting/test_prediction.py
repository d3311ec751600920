import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from refusals import refuses
from scipy.linalg import eigh

from fullrank.errors import UsageError
from fullrank.theory.weighting.prediction import fates, predict_directions, view_correlations
from fullrank.theory.weighting.spectral_model import optimal_gram


def views(rng, count, noise, mixing=None):
    noise = np.asarray(noise, float)
    mixing = np.eye(len(noise)) if mixing is None else mixing
    clean = rng.normal(size=(count, len(noise)))
    return tuple((clean + noise * rng.normal(size=clean.shape)) @ mixing.T for _ in range(2))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_agreements_are_generalised_eigenvalues_whatever_the_coordinates(seed):
    rng = np.random.default_rng(seed)
    a, b = views(rng, 400, [0.2, 1, 3], rng.normal(size=(3, 3)) + 2 * np.eye(3))
    _, _, agreements = view_correlations(a, b)
    mean = (a.mean(0) + b.mean(0)) / 2
    a, b = a - mean, b - mean
    cross = a.T @ b
    expected = eigh(cross + cross.T, a.T @ a + b.T @ b, eigvals_only=True)[::-1]
    np.testing.assert_allclose(agreements, expected, atol=1e-9)
    _, _, turned = view_correlations(a @ rng.normal(size=(3, 3)) + 7, b @ np.eye(3))
    assert turned.shape == (3,)


def test_the_coordinates_have_variance_one_and_no_correlation():
    a, b = views(np.random.default_rng(0), 500, [0.1, 2], np.array([[3.0, 1], [0, 0.1]]))
    mean, whitening, _ = view_correlations(a, b)
    u, v = (a - mean) @ whitening, (b - mean) @ whitening
    np.testing.assert_allclose((u.T @ u + v.T @ v) / (2 * len(u)), np.eye(2), atol=1e-9)


@pytest.mark.parametrize("rank", [None, 2])
def test_a_map_that_is_the_minimiser_gives_what_is_predicted(rank):
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(4, 4))
    a, b = views(rng, 8000, [0.1, 0.6, 1.2, 4], mixing)
    moment = (a.T @ a + b.T @ b) / (2 * len(a))
    cross = (a.T @ b + b.T @ a) / (2 * len(a))
    values, axes = np.linalg.eigh(optimal_gram(moment, cross, rank))
    weight = np.sqrt(np.clip(values, 0, None))[:, None] * axes.T
    prediction = predict_directions((a, b), (a @ weight.T, b @ weight.T), rank)
    # The directions of half of the images are not quite those of all.
    np.testing.assert_allclose(prediction.measured, prediction.predicted, atol=0.05)
    assert prediction.correlation > 0.9 and prediction.low > 0.5
    assert fates(prediction.predicted).count("lost") == (2 if rank else 0)


def test_a_map_that_keeps_what_the_theory_loses_is_told_apart():
    rng = np.random.default_rng(2)
    a, b = views(rng, 4000, [0.1, 0.5, 1.5, 4])
    against = np.diag([0.01, 0.1, 1, 1])
    prediction = predict_directions((a, b), (a @ against, b @ against))
    assert prediction.correlation < -0.7 and prediction.high < 0


def test_no_direction_agrees_by_chance_more_than_by_the_other_half():
    # 64 directions of noise in 600 images: chosen and measured on the same images they would seem to agree.
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 600, 64))
    assert view_correlations(a, b)[2][0] > 0.3
    prediction = predict_directions((a, b), (a, b))
    assert np.abs(prediction.agreement).max() < 0.25 and abs(prediction.agreement.mean()) < 0.03


def typical(pairs):
    return np.mean([predict_directions(*pair).correlation for pair in pairs])


def test_noise_alone_gives_no_correlation():
    def nothing_shared(seed):  # z is the same in both views, and has to do with neither
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=(2, 600, 16))
        z = rng.normal(size=(600, 16))
        return (a, b), (z, z)

    def isometry(seed):  # all directions agree alike and all are kept: nothing is predicted
        rng = np.random.default_rng(seed)
        a, b = views(rng, 600, np.ones(16))
        return (a, b), (a, b)

    assert abs(typical(map(nothing_shared, range(4)))) < 0.1
    assert abs(typical(map(isometry, range(4)))) < 0.1


def test_directions_without_agreement_are_lost_at_a_thousand_images():
    rng = np.random.default_rng(5)
    noise = np.r_[np.full(8, 0.2), np.full(40, 50.0)]
    a, b = views(rng, 1024, noise)
    gain = 1 / (1 + noise**2)
    prediction = predict_directions((a, b), (a * gain, b * gain))
    assert fates(prediction.predicted)[:8] == fates(prediction.measured)[:8] == ["kept"] * 8
    assert fates(prediction.measured)[8:].count("lost") >= 36
    assert fates(prediction.predicted)[8:].count("lost") >= 36
    assert prediction.low <= prediction.correlation <= prediction.high


@pytest.mark.parametrize(
    ("first", "second", "parts"),
    [
        (np.ones((7, 2)), np.ones((7, 2)), ["8 images", (7, 2)]),
        (np.ones((10, 2)), np.ones((10, 3)), ["8 images", (10, 2), (10, 3)]),
        (np.ones(10), np.ones(10), ["8 images", "(10,)"]),
        (np.ones((10, 2)), np.ones((10, 2)), ["features", "vary"]),
    ],
)
def test_views_that_cannot_be_used_are_refused(first, second, parts):
    with refuses(UsageError, *parts):
        view_correlations(first, second)


def test_outcomes_of_other_images_are_refused():
    a = np.random.default_rng(0).normal(size=(20, 2))
    with refuses(UsageError, 20, 10):
        predict_directions((a, a), (a[:10], a[:10]))
