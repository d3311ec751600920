import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from refusals import assert_names, refuses
from scipy.optimize import minimize_scalar

from fullrank.errors import UsageError
from fullrank.theory.weighting.augmentation_models import additive_noise, keep_or_resample
from fullrank.theory.weighting.sample_complexity import (
    advise,
    advise_dropping,
    best_share,
    pre_beats_post,
    samples_needed,
)
from fullrank.theory.weighting.spectral_model import gains, layer_weights

features = st.lists(st.tuples(st.floats(0.1, 4), st.floats(0.05, 5)), min_size=2, max_size=6)


@settings(max_examples=25, deadline=None)
@given(features)
def test_the_logarithm_is_convex_in_the_depth(pairs):
    strengths, gain = np.array(pairs).T
    shares = np.linspace(0, 1, 21)
    for j in range(len(pairs)):
        bends = np.diff(np.log(samples_needed(strengths, gain, j, shares)), n=2)
        assert bends.min() >= -1e-12


@settings(max_examples=25, deadline=None)
@given(features)
def test_the_rule_says_where_half_the_depth_needs_fewer(pairs):
    strengths, gain = np.array(pairs).T
    for j in range(len(pairs)):
        half, end = samples_needed(strengths, gain, j, [0.5, 1.0])
        if abs(half - end) > 1e-9 * end:
            assert pre_beats_post(strengths, gain, j) == (half < end)


@settings(max_examples=15, deadline=None)
@given(features)
def test_the_best_depth_against_scipys_bounded_minimum(pairs):
    strengths, gain = np.array(pairs).T
    for j in range(len(pairs)):
        share = best_share(strengths, gain, j)
        bounded = minimize_scalar(
            lambda t, j=j: float(np.log(samples_needed(strengths, gain, j, t))),
            bounds=(0, 1),
            method="bounded",
            options={"xatol": 1e-10},
        )
        assert np.log(samples_needed(strengths, gain, j, share)) <= bounded.fun + 1e-12


def test_an_interior_depth_can_be_the_best():
    strengths, keep = [2, 1, 0.5, 1, 0.7], [1, 0.9, 1, 0.3, 0.6]
    gain = gains(*keep_or_resample(strengths, keep))
    assert 0.8 < best_share(strengths, gain, 4) < 0.95
    assert best_share(strengths, np.full(5, 2.0), 0) == 0.0  # every depth alike


def test_it_is_the_radius_over_the_margin_of_a_layer():
    strengths, gain = np.array([2.0, 1.0, 0.5]), np.array([0.5, 0.8, 1.2])
    for layer, weights in enumerate(layer_weights(strengths, gain, 4), 1):
        expected = (weights**2).sum() / weights[1] ** 2
        assert samples_needed(strengths, gain, 1, layer / 4) == pytest.approx(expected)


def test_noise_favours_pre_for_a_feature_too_weak_or_too_strong():
    noise = np.ones(5)
    strengths = np.array([0.1, 0.5, 1.0, 2.0, 10.0])
    gain = gains(*additive_noise(strengths, noise))
    assert np.argmax(gain) == 2  # strength = noise
    assert pre_beats_post(strengths, gain, 0) and pre_beats_post(strengths, gain, 4)
    assert not pre_beats_post(strengths, gain, 2)


def test_nothing_is_predicted_about_dropping_at_full_rank():
    for probabilities in ([0.0, 0.0, 0.0], [0.9, 0.1, 0.5]):
        advice = advise_dropping([2, 1, 0.5], probabilities, 0)
        assert advice.best_share is None and advice.pre_wins is None
        assert_names(advice.reason, "rank (3)", "dropping")
        assert advise_dropping([2, 1, 0.5], probabilities, 0, rank=3) == advice


def test_dropping_at_a_lower_rank_is_advice_on_the_features_that_remain():
    lost = advise_dropping([2, 1, 0.5], [0.9, 0.1, 0.5], 0, rank=2)
    assert lost.best_share == 0 and lost.pre_wins is None and "input" in lost.reason
    kept = advise_dropping([2, 1, 0.5], [0.9, 0.1, 0.5], 2, rank=2)
    assert kept == advise([1, 0.5], [1, 2], 1)


def test_a_feature_that_is_lost_needs_endless_labels_and_no_depth_is_best():
    assert samples_needed([1, 1], [1, 0], 1, [0, 1]).tolist() == [2, np.inf]
    with refuses(UsageError, "gains", "above 0", "feature 2"):
        best_share([1, 1], [1, 0], 0)
    with refuses(UsageError, "gains", 0):
        pre_beats_post([1, 1], [0, 0], 0)


def test_wrong_features_and_shares_are_refused():
    with refuses(UsageError, "feature", "0 to 1", 2):
        samples_needed([1, 1], [1, 1], 2, 0)
    with refuses(UsageError, "share", 0, 1, 1.5):
        samples_needed([1, 1], [1, 1], 0, 1.5)
