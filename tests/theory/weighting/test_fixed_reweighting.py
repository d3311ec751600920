from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.theory.common.steady_state import settle
from fullrank.theory.weighting.augmentation_models import keep_or_resample
from fullrank.theory.weighting.fixed_reweighting import (
    channels_by_speed,
    effective_channels,
    lost_in_float32,
    order_margin,
    reweighted_velocity,
    reweighted_weights,
    reweighting,
)
from fullrank.theory.weighting.spectral_model import gains, optimal_gram

STRENGTHS, KEEP = np.array([2, 1, 0.5, 1, 0.7]), np.array([1, 0.9, 1, 0.3, 0.6])
MOMENTS = keep_or_resample(STRENGTHS, KEEP)


@cache
def learned(kappa, start=1e-8, width=5, horizon=1e6, seed=0):
    """The encoder (width, 5) at the end of the flow, and z's map."""
    head = reweighting(width, kappa)
    first = np.random.default_rng(seed).normal(scale=start, size=(width, 5))
    path = settle(reweighted_velocity(*MOMENTS, head), (first,), horizon=horizon, atol=start * 1e-7)
    return path.last[0], head[:, None] * path.last[0]


def test_the_velocity_is_autograds_through_the_head():
    w = np.random.default_rng(0).normal(size=(3, 5))
    head = np.array([1.0, 0.5, 0.2])
    leaf = torch.tensor(w, requires_grad=True)
    v = torch.tensor(head)[:, None] * leaf
    m, c = map(torch.tensor, MOMENTS)
    (-2 * torch.trace(v @ c @ v.T) + torch.trace(torch.linalg.matrix_power(v @ m @ v.T, 2))).backward()
    np.testing.assert_allclose(reweighted_velocity(*MOMENTS, head)((w,))[0], -leaf.grad.numpy(), rtol=1e-9)


@pytest.mark.parametrize(("kappa", "start"), [(1.0, 1e-4), (1.5, 1e-8), (3.0, 1e-4)])
def test_kappa_changes_nothing_after_the_head(kappa, start):
    z = learned(kappa, start)[1]
    np.testing.assert_allclose(z.T @ z, optimal_gram(*MOMENTS), atol=1e-5)


def test_a_narrower_head_keeps_the_features_on_which_views_agree_whatever_their_speed():
    z = learned(1.3, width=3)[1]
    np.testing.assert_allclose(z.T @ z, optimal_gram(*MOMENTS, 3), atol=1e-4)


@pytest.mark.parametrize("kappa", [1.3, 1.5])
def test_features_take_channels_by_speed_and_weigh_the_more_before_the_head(kappa):
    encoder, _ = learned(kappa, 1e-8)
    channels = channels_by_speed(*MOMENTS)
    margin = order_margin(*MOMENTS, kappa)
    assert margin > 0.2
    assert np.abs(encoder * reweighting(5, kappa)[:, None]).argmax(0).tolist() == channels.tolist()
    predicted = reweighted_weights(STRENGTHS * gains(*MOMENTS), channels, kappa)[0]
    # What the margin says is misplaced enters the norms squared.
    misplaced = 1e-8**margin
    np.testing.assert_allclose(
        STRENGTHS * np.linalg.norm(encoder, axis=0), predicted, rtol=3 * misplaced**2 + 1e-6
    )


def test_the_misplaced_share_shrinks_with_the_start_as_the_margin_says():
    kappa, channels = 1.3, channels_by_speed(*MOMENTS)
    starts = np.array([1e-4, 1e-8])
    misplaced = []
    for start in starts:
        z = learned(kappa, start)[1] * STRENGTHS
        z[channels, range(5)] = 0
        misplaced.append(np.abs(z).max())
    slope = np.polyfit(np.log(starts), np.log(misplaced), 1)[0]
    assert slope == pytest.approx(order_margin(*MOMENTS, kappa), abs=0.05)


def test_a_large_kappa_leaves_time_for_takeovers_and_the_margin_says_so():
    assert order_margin(*MOMENTS, 5.0) < 0
    channels = np.abs(learned(5.0, start=1e-4, horizon=1e9)[1]).argmax(0)
    assert channels.tolist() != channels_by_speed(*MOMENTS).tolist()
    agreement = KEEP**2
    assert channels[agreement.argmin()] == 4 and channels[2] < channels[1]  # 1 before 0.81, though slower


def test_features_of_one_channel_or_none_have_no_rival():
    assert order_margin(np.eye(1), np.eye(1), 1.5) == np.inf
    assert channels_by_speed(np.eye(2), np.diag([0.0, 1.0])).tolist() == [-1, 0]
    assert reweighted_weights([0.0, 1.0], [-1, 0], 2.0).tolist() == [[0, 1], [0, 1]]


@settings(max_examples=40, deadline=None)
@given(st.floats(1.0001, 5), st.integers(1, 3000))
def test_effective_channels_are_the_participation_ratio(kappa, width):
    squares = reweighting(width, kappa) ** 2
    expected = squares.sum() ** 2 / (squares**2).sum()
    assert effective_channels(kappa, width) == pytest.approx(expected, rel=1e-9)
    r = kappa**-2
    assert effective_channels(kappa) == pytest.approx((1 + r) / (1 - r), rel=1e-9)
    assert effective_channels(1, width) == width


@pytest.mark.parametrize("kappa", [1.05, 1.1, 1.2, 1.5])
def test_channels_lost_in_float32_are_those_of_numpy(kappa):
    weights = reweighting(3000, kappa).astype(np.float32)
    tiny = np.finfo(np.float32).tiny
    assert lost_in_float32(kappa) == (int(np.argmax(weights < tiny)), int(np.argmax(weights == 0)))


def test_a_kappa_of_the_papers_needs_no_power_that_overflows():
    weights = reweighting(2048, 1.5)
    assert np.isfinite(weights).all() and weights[0] == 1
    np.testing.assert_allclose(np.log10(reweighting(2048, 1.05)[-1]), -43.4, atol=0.05)


def test_wrong_kappas_are_refused():
    for kappa in (0.9, np.nan):
        with refuses(UsageError, "kappa", 1, kappa):
            reweighting(3, kappa)
    with refuses(UsageError, "kappa 1", "width"):
        effective_channels(1)
    with refuses(UsageError, "kappa 1", "above 1"):
        lost_in_float32(1)
    with refuses(UsageError, "width", 1, 0):
        reweighting(0, 1.1)
