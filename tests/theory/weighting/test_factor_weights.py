import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from refusals import refuses
from scipy.linalg import fractional_matrix_power

from fullrank.errors import UsageError
from fullrank.theory.weighting.augmentation_models import additive_noise, drop, keep_or_resample
from fullrank.theory.weighting.factor_weights import (
    DECIDED,
    LinearNet,
    ViewMoments,
    labels_needed,
    linear_net,
)
from fullrank.theory.weighting.fixed_reweighting import channels_by_speed, reweighted_weights
from fullrank.theory.weighting.prediction import view_correlations
from fullrank.theory.weighting.sample_complexity import pre_beats_post, samples_needed
from fullrank.theory.weighting.spectral_model import gains, layer_grams, layer_weights, optimal_gram

STRENGTHS = np.array([2.0, 1.0, 0.5, 1.3])
MODELS = {
    "noise": additive_noise(STRENGTHS, [0.3, 1.0, 0.1, 2.0]),
    "keep": keep_or_resample(STRENGTHS, [1.0, 0.9, 0.8, 0.3]),
    "drop": drop(STRENGTHS, [0.1, 0.2, 0.4, 0.5]),
}
CORNERS = STRENGTHS * np.array(list(itertools.product([-1, 1], repeat=4)))


def exact(moments, mean=0.0, images=1000):
    """View moments whose centred ones are given."""
    m, q = moments
    mean = np.full(len(m), mean)
    return ViewMoments(images, mean, m + np.outer(mean, mean), q + np.outer(mean, mean))


def weights_at(net, share):
    """The weight of each feature of the corners at a share of the depth, by the means of its two levels."""
    represented = net.represent(CORNERS + net.mean, share)
    means = [[represented[np.sign(CORNERS[:, j]) == side].mean(0) for side in (-1, 1)] for j in range(4)]
    return np.array([np.linalg.norm(high - low) / 2 for low, high in means]), represented.var(0).sum()


def rounds(seed, count, images=300, noise=(0.2, 1, 3), mixing=None):
    rng = np.random.default_rng(seed)
    mixing = np.eye(len(noise)) if mixing is None else mixing
    clean = rng.normal(size=(images, len(noise)))
    return [
        tuple((clean + np.array(noise) * rng.normal(size=clean.shape)) @ mixing.T + 2 for _ in range(2))
        for _ in range(count)
    ]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("share", [1 / 3, 0.5, 1.0])
@pytest.mark.parametrize("rank", [None, 2])
def test_independent_features_have_the_diagonal_weights_and_labels(model, share, rank):
    net = linear_net(exact(MODELS[model], mean=0.4), rank)
    gain = gains(*MODELS[model], rank)
    measured, variance = weights_at(net, share)
    np.testing.assert_allclose(measured, STRENGTHS * gain**share, atol=1e-9)
    expected = [samples_needed(STRENGTHS, gain, j, share) for j in range(4)]
    alive = gain > 0
    labels = np.array([labels_needed(variance, weight) for weight in measured])
    np.testing.assert_allclose(labels[alive], np.array(expected)[alive], rtol=1e-9)
    assert (labels[~alive] > 1e9).all()


@pytest.mark.parametrize("model", MODELS)
def test_depth_two_is_layer_weights_and_the_sign_is_pre_beats_post(model):
    net, gain = linear_net(exact(MODELS[model])), gains(*MODELS[model])
    measured = {share: weights_at(net, share) for share in (0.5, 1.0)}
    np.testing.assert_allclose([measured[0.5][0], measured[1.0][0]], layer_weights(STRENGTHS, gain, 2))
    for j in range(4):
        pre, post = (labels_needed(measured[share][1], measured[share][0][j]) for share in (0.5, 1.0))
        assert (np.log(post) - np.log(pre) > 0) == pre_beats_post(STRENGTHS, gain, j)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), rank=st.sampled_from([None, 2]))
def test_the_gram_at_a_depth_is_the_power_of_the_optimal_one(seed, rank):
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(2, 5, 5))
    m = roots[0] @ roots[0].T + np.eye(5)
    q = roots[1] @ roots[1].T
    net = linear_net(exact((m, q), mean=0.1), rank)
    basis = net.represent(np.eye(5) + net.mean, 1.0)
    np.testing.assert_allclose(basis @ basis.T, optimal_gram(m, q, rank), atol=1e-8)
    third = net.represent(np.eye(5) + net.mean, 1 / 3)
    np.testing.assert_allclose(third @ third.T, layer_grams(optimal_gram(m, q, rank), 3)[0], atol=1e-5)
    if rank is None:
        half = net.represent(np.eye(5) + net.mean, 0.5)
        np.testing.assert_allclose(half @ half.T, fractional_matrix_power(optimal_gram(m, q), 0.5), atol=1e-6)


def test_one_round_agrees_with_view_correlations():
    ((first, second),) = rounds(0, 1, mixing=np.random.default_rng(9).normal(size=(3, 3)))
    mean, _, agreement = view_correlations(first, second)
    net = linear_net(ViewMoments.of([(first, second)]))
    np.testing.assert_allclose(net.mean, mean)
    np.testing.assert_allclose(net.agreement, np.clip(agreement, 0, None), atol=1e-9)


def test_more_rounds_are_sharper_and_unbiased():
    truth = np.eye(3)

    def miss(count):
        measured = [ViewMoments.of(rounds(seed, count, images=1500)).cross_moment for seed in range(8)]
        return np.abs(np.mean(measured, 0) - truth).max(), np.mean(
            [np.abs(one - truth).max() for one in measured]
        )

    one, many = miss(1), miss(12)
    assert many[1] < 0.6 * one[1] and many[0] < 0.1


def test_a_mean_far_away_costs_nothing_and_parts_merge():
    views = rounds(1, 2)
    whole = ViewMoments.of(views)
    rows = np.random.default_rng(2).permutation(300)
    parts = ViewMoments.of_parts(views, [rows[:90], rows[90:]])
    alone = ViewMoments.of([(a[rows[:90]], b[rows[:90]]) for a, b in views])
    np.testing.assert_allclose(parts[0].cross, alone.cross)
    merged = ViewMoments.merged(parts)
    moved = ViewMoments.of([(a + 100, b + 100) for a, b in views])
    for other in (merged, moved):
        assert other.images == 300
        np.testing.assert_allclose(other.moment, whole.moment, atol=1e-8)
        np.testing.assert_allclose(other.cross_moment, whole.cross_moment, atol=1e-8)


def test_no_more_components_than_a_quarter_of_the_images():
    rng = np.random.default_rng(0)
    views = [tuple(rng.normal(size=(2, 40, 30)))]
    assert linear_net(ViewMoments.of(views)).whitening.shape == (30, 10)
    assert linear_net(ViewMoments.of(views), components=3).whitening.shape == (30, 3)
    assert linear_net(ViewMoments.of(views), rank=2).whitening.shape == (30, 2)


def test_below_a_fixed_reweighting_features_stand_by_channel():
    # Commuting moments with well separated speeds: which feature has which channel is then known.
    moments = np.diag([9.0, 2.0, 0.4]), np.diag([9.0, 1.6, 0.2])
    net, kappa = linear_net(exact(moments)), 1.5
    corners = 1.0 * np.array(list(itertools.product([-1, 1], repeat=3)))
    represented = net.represent_below(corners, kappa)
    measured = [np.linalg.norm(represented[corners[:, j] > 0].mean(0)) for j in range(3)]
    expected = reweighted_weights(gains(*moments), channels_by_speed(*moments), kappa)[0]
    np.testing.assert_allclose(measured, expected, rtol=1e-9)


def test_an_undecided_order_is_said():
    alike = np.diag([1.0, 0.9, 0.8]), np.diag([0.8, 0.75, 0.7])
    assert linear_net(exact(alike)).represent_below(np.eye(3), 1.01) is None
    # Two channels for three directions: which of them the two take, speed alone does not say.
    apart = np.diag([9.0, 2.0, 0.4]), np.diag([9.0, 1.6, 0.2])
    assert linear_net(exact(apart), rank=2).represent_below(np.eye(3), 1.5) is None
    assert 0 < DECIDED < 1


def test_what_cannot_be_used_is_said():
    views = np.random.default_rng(0).normal(size=(2, 20, 3))
    with refuses(UsageError, "1 round"):
        ViewMoments.of([])
    for pair in ((views[0], views[1][:10]), (views[0, 0], views[1, 0])):
        with refuses(UsageError, "(n, D)"):
            ViewMoments.of([pair])
    with refuses(UsageError, "(n, D)"):
        ViewMoments.of([tuple(views), tuple(views[:, :9])])
    with refuses(UsageError, "3, 2"):
        ViewMoments.merged([ViewMoments.of([tuple(views)]), ViewMoments.of([tuple(views[..., :2])])])
    with refuses(UsageError, 7, 8):
        linear_net(ViewMoments.of([tuple(views[:, :7])]))
    with refuses(UsageError, "images", "vary"):
        linear_net(ViewMoments.of([(np.ones((20, 3)), np.ones((20, 3)))]))
    moments = ViewMoments.of([tuple(views)])
    with refuses(UsageError, "rank", 1, 0):
        linear_net(moments, rank=0)
    with refuses(UsageError, "components", 1, 0):
        linear_net(moments, components=0)
    net = linear_net(moments)
    assert isinstance(net, LinearNet)
    for share in (0, 1.5, np.nan):
        with refuses(UsageError, "share", share, 1):
            net.represent(views[0], share)
    with refuses(UsageError, "kappa", 1, 0.5):
        net.represent_below(views[0], 0.5)
    with refuses(UsageError, "variance", "weight", 0, -1):
        labels_needed(1.0, -1.0)
