import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from fullrank.theory.weighting.augmentation_models import keep_or_resample
from fullrank.theory.weighting.placement import share_better_before, strengths_before_and_after
from fullrank.theory.weighting.sample_complexity import pre_beats_post, samples_needed
from fullrank.theory.weighting.spectral_model import gains

POSITIVE = st.lists(st.tuples(st.floats(0.1, 3), st.floats(0.05, 2)), min_size=2, max_size=6)


def share(views, outcome, seed=0):
    before, after, agreement = strengths_before_and_after(views, outcome, seed)
    return share_better_before(before, after, agreement * before)


def noisy_views(count, noise, seed=0, strengths=1.0):
    rng = np.random.default_rng(seed)
    noise = np.asarray(noise, float)
    clean = strengths * rng.normal(size=(count, len(noise)))
    a, b = (clean + noise * rng.normal(size=clean.shape) for _ in range(2))
    return a, b


@settings(max_examples=60, deadline=None)
@given(POSITIVE)
def test_each_direction_of_a_two_layer_net_has_the_sign_of_the_sample_complexity(features):
    phi, w = np.array(features).T
    for j in range(len(phi)):
        half, end = samples_needed(phi, w, j, [0.5, 1.0])
        assume(abs(half / end - 1) > 1e-3)
        found = share_better_before(phi**2 * w, phi**2 * w**2, np.eye(len(phi))[j])
        assert found == float(half < end) == float(pre_beats_post(phi, w, j))


def test_directions_count_by_their_signal():
    before, after = np.ones(3), np.array([0.1, 1.0, 1.9])  # the middle one is as strong as before
    assert share_better_before(before, after, np.array([6.0, 2.0, 2.0])) == pytest.approx(0.7)
    assert share_better_before(before, after, np.zeros(3)) == 0.5


@settings(max_examples=30, deadline=None)
@given(POSITIVE, st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_scale_of_h_and_of_z_does_not_matter(features, of_h, of_z):
    before, after = np.array(features).T
    ratio = after / before / (after.sum() / before.sum())
    assume((abs(ratio - 1) > 1e-3).all())
    found = share_better_before(of_h * before, of_z * after, before)
    assert found == pytest.approx(share_better_before(before, after, before))


def test_where_views_agree_equally_the_share_compares_the_median_weight_with_the_mean():
    rng = np.random.default_rng(0)
    for skew in (-1, 1):
        before = rng.uniform(1, 2, 301)
        ratio = np.exp(skew * rng.exponential(size=301))
        order = np.argsort(ratio)
        median = ratio[order][np.searchsorted(np.cumsum(before[order]), before.sum() / 2)]
        below = median < np.average(ratio, weights=before)
        assert (share_better_before(before, ratio * before, before) > 0.5) == below


def test_views_that_keep_or_resample_give_the_closed_form():
    phi, keep = np.array([2.0, 1, 0.5, 1, 0.7]), np.array([1, 0.9, 0.8, 0.3, 0.6])
    w = gains(*keep_or_resample(phi, keep))
    rng = np.random.default_rng(0)
    clean = rng.choice([-1.0, 1.0], size=(20000, 5))
    a, b = (
        np.where(rng.random(clean.shape) < keep, clean, rng.choice([-1.0, 1.0], size=clean.shape))
        for _ in range(2)
    )
    pre, post = phi * np.sqrt(w), phi * w
    before, after, agreement = strengths_before_and_after((a * pre, b * pre), (a * post, b * post))
    order = np.argsort(-keep)  # directions come by agreement, which is keep squared
    np.testing.assert_allclose(before, pre[order] ** 2, rtol=0.05)
    np.testing.assert_allclose(after, post[order] ** 2, rtol=0.05)
    np.testing.assert_allclose(agreement, keep[order] ** 2, atol=0.03)
    wins = np.array([pre_beats_post(phi, w, j) for j in range(5)])
    signal = keep**2 * pre**2
    assert share_better_before(before, after, agreement * before) == pytest.approx(
        signal @ wins / signal.sum(), abs=0.03
    )
    assert 0 < wins.sum() < 5


def test_strengths_do_not_depend_on_the_axes_or_on_an_offset():
    a, b = noisy_views(400, [0.1, 0.5, 1, 2], strengths=np.array([2.0, 1, 1, 0.5]))
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    plain = strengths_before_and_after((a, b), (a[:, :2], b[:, :2]))
    into_more = np.linalg.qr(rng.normal(size=(5, 2)))[0].T
    turned = strengths_before_and_after(
        (a @ turn + 30, b @ turn + 30), (a[:, :2] @ into_more - 50, b[:, :2] @ into_more - 50)
    )
    for one, other in zip(plain, turned, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_an_isometry_in_single_precision_has_no_preference(seed):
    a, b = (side.astype(np.float32) for side in noisy_views(600, np.full(12, 3.0), seed, np.arange(1, 13)))
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(12, 12)))[0].astype(np.float32)
    assert share((a, b), (a @ turn, b @ turn)) == pytest.approx(0.5)
    assert share((a, b), (7 * a, 7 * b)) == pytest.approx(0.5)


@pytest.mark.parametrize(("weight", "strengthened"), [(0.1, False), (10.0, True)])
def test_one_reweighted_direction_decides_its_own_share_and_the_rest(weight, strengthened):
    # Four directions of equal signal. If the head weakens one, h is better for that one alone.
    a, b = noisy_views(6000, [0.1, 0.2, 0.3, 0.4])
    head = np.array([1, 1, weight, 1])
    assert share((a, b), (a * head, b * head)) == pytest.approx(0.75 if strengthened else 0.25, abs=0.02)


def test_directions_come_from_other_images_than_their_strengths():
    # Noise in 64 directions: on the images that chose them, the first of them would seem to agree.
    a, b = np.random.default_rng(3).normal(size=(2, 800, 64))
    agreement = strengths_before_and_after((a, b), (a, b))[2]
    assert agreement.max() < 0.25 and agreement.min() == 0
