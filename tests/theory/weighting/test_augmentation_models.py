import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.theory.weighting.augmentation_models import additive_noise, drop, keep_or_resample
from fullrank.theory.weighting.spectral_model import gains, layer_weights

STRENGTHS = np.array([2.0, 1.0, 0.5])
features = st.lists(st.tuples(st.floats(0.2, 4), st.floats(0, 1)), min_size=1, max_size=5)


@settings(max_examples=30, deadline=None)
@given(features)
def test_noise_weighs_features_by_their_share_of_the_variance(pairs):
    phi, s = np.array(pairs).T
    pre, post = layer_weights(phi, gains(*additive_noise(phi, s)), 2)
    np.testing.assert_allclose(post, phi**2 / (phi**2 + s**2))
    np.testing.assert_allclose(pre, np.sqrt(phi**3 / (phi**2 + s**2)))


@settings(max_examples=30, deadline=None)
@given(features)
def test_the_output_knows_how_often_a_feature_is_kept_and_nothing_of_its_strength(pairs):
    phi, k = np.array(pairs).T
    pre, post = layer_weights(phi, gains(*keep_or_resample(phi, k)), 2)
    np.testing.assert_allclose(post, k, atol=1e-12)
    np.testing.assert_allclose(pre, np.sqrt(k * phi), atol=1e-12)


def test_dropping_changes_no_weight_at_full_rank_and_chooses_features_at_a_lower_one():
    for probabilities in ([0, 0, 0], [0.1, 0.8, 0.5]):
        np.testing.assert_allclose(gains(*drop(STRENGTHS, probabilities)), 1 / STRENGTHS)
    np.testing.assert_allclose(gains(*drop(STRENGTHS, [0.1, 0.8, 0.5]), 2), [0.5, 0, 2])
    with refuses(UsageError, "rank 1", "unique", 1, 2):
        gains(*drop(STRENGTHS, [0.5, 0.5, 0.5]), 1)
    np.testing.assert_allclose(gains(*drop(STRENGTHS, [0, 1, 0])), [0.5, 0, 2])


@pytest.mark.parametrize("model", ["noise", "keep", "drop"])
def test_the_moments_are_those_of_drawn_views(model):
    rng = np.random.default_rng(0)
    n, amount = 50_000, np.array([0.3, 0.6, 0.9])
    u = rng.choice([-1.0, 1.0], size=(n, 3))

    def view():
        if model == "noise":
            return STRENGTHS * u + amount * rng.normal(size=u.shape)
        if model == "keep":
            return STRENGTHS * np.where(
                rng.random(u.shape) < amount, u, rng.choice([-1.0, 1.0], size=u.shape)
            )
        return STRENGTHS * u * (rng.random(u.shape) >= amount)

    first, second = view(), view()
    build = {"noise": additive_noise, "keep": keep_or_resample, "drop": drop}[model]
    moment, cross = build(STRENGTHS, amount)
    np.testing.assert_allclose(first.T @ first / n, moment, atol=0.05)
    np.testing.assert_allclose(first.T @ second / n, cross, atol=0.05)


def test_amounts_outside_their_limits_are_refused():
    with refuses(UsageError, "noise", "feature 1", -0.1):
        additive_noise([1], [-0.1])
    with refuses(UsageError, "keep", "0 to 1", "feature 2", 1.1):
        keep_or_resample([1, 1], [0.5, 1.1])
    with refuses(UsageError, "drop", "0 to 1", "feature 1", 2):
        drop([1], [2])
    with refuses(UsageError, "drop", 1):
        drop([1, 1], [1, 1])
    for model in (additive_noise, keep_or_resample, drop):
        with refuses(UsageError, "1 strengths", 2):
            model([1], [0.5, 0.5])
        with refuses(UsageError, "strengths", "feature 1", -1):
            model([-1], [0.5])
