import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.theory.common.steady_state import settle
from fullrank.theory.weighting.augmentation_models import keep_or_resample
from fullrank.theory.weighting.spectral_model import gains, layer_weights, measured_weights
from fullrank.theory.weighting.weight_decay import (
    decay_loss,
    decay_thresholds,
    decayed_gains,
    decayed_velocity,
)

STRENGTHS, KEEP = np.array([2, 1, 0.5, 1, 0.7]), np.array([1, 0.9, 1, 0.3, 0.6])
VECTOR = keep_or_resample(STRENGTHS, KEEP)
one_feature = {"strength": st.floats(0.3, 3), "keep": st.floats(0.2, 1), "share": st.floats(0.05, 1.5)}


def test_the_printed_digits_of_both_minima():
    minima = decayed_gains(*VECTOR, decay=0.1)
    local = [[1.40517, 0.93133, 0.68762, 0, 0.55983], [0.98726, 0.86738, 0.94565, 0, 0.44774]]
    np.testing.assert_allclose(layer_weights(STRENGTHS, minima.largest_local, 2), local, atol=6e-6)
    best = np.array(local) * [1, 1, 1, 1, 0]
    np.testing.assert_allclose(layer_weights(STRENGTHS, minima.best, 2), best, atol=6e-6)
    assert (minima.largest_local != minima.best).tolist() == [False, False, False, False, True]


def test_the_printed_thresholds():
    thresholds = decay_thresholds(*VECTOR)
    assert thresholds.wins[4].round(3) == 0.082 and thresholds.exists[4].round(3) == 0.116
    m, q = np.diag(VECTOR[0]), np.diag(VECTOR[1])
    np.testing.assert_allclose(thresholds.exists, 4 / (3 * np.sqrt(3)) * q**1.5 / m)
    np.testing.assert_allclose(thresholds.wins, 2 * np.sqrt(2) / (3 * np.sqrt(3)) * q**1.5 / m)


@settings(max_examples=20, deadline=None)
@given(**one_feature)
def test_two_layers_obey_the_cubic_and_take_its_larger_root(strength, keep, share):
    moments = keep_or_resample([strength], [keep])
    decay = share * decay_thresholds(*moments).exists[0]
    m, q = moments[0][0, 0], moments[1][0, 0]
    roots = np.roots([m**2, 0, -q, decay / 2])
    positive = np.sort(roots[(np.abs(roots.imag) < 1e-9) & (roots.real > 0)].real)
    minima = decayed_gains(*moments, decay)
    if abs(share - 1) < 1e-3:
        return  # the double root: neither solver says on which side of it rounding falls
    if share > 1:
        assert len(positive) == 0 and minima.largest_local[0] == 0 and minima.border[0] == np.inf
    else:
        np.testing.assert_allclose([minima.border[0], minima.largest_local[0]], positive, rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(depth=st.integers(1, 5), **one_feature)
def test_the_best_minimum_is_the_lowest_of_a_fine_grid(depth, strength, keep, share):
    moments = keep_or_resample([strength], [keep])
    thresholds = decay_thresholds(*moments, depth)
    decay = share * thresholds.wins[0]
    best = decayed_gains(*moments, decay, depth).best
    grid = np.linspace(0, 1.5 * keep / strength, 20_001)[:, None]
    losses = decay_loss(grid, *moments, decay, depth)
    assert decay_loss(best, *moments, decay, depth)[0] <= losses.min() + 1e-9
    if abs(share - 1) > 1e-3:
        assert (best[0] > 0) == (share < 1)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_flow_ends_in_the_minimum_on_its_side_of_the_border(depth):
    decay = 0.05
    minima = decayed_gains(*VECTOR, decay, depth)
    velocity = decayed_velocity(*VECTOR, decay)
    border = np.where(np.isfinite(minima.border), minima.border, 0.05)
    for factor, expected in ((1.1, minima.largest_local), (0.9, np.zeros(5))):
        start = np.diag((factor * border + (0.1 if depth == 1 else 0)) ** (1 / depth))
        end = measured_weights(settle(velocity, (start,) * depth).last, STRENGTHS)[-1]
        if depth > 1 or factor > 1:
            np.testing.assert_allclose(end, STRENGTHS * expected, rtol=1e-5, atol=1e-8)


def test_without_decay_the_net_is_the_free_one_and_one_layer_has_one_minimum():
    free = decayed_gains(*VECTOR, 0)
    np.testing.assert_allclose(free.largest_local, gains(*VECTOR), rtol=1e-12)
    np.testing.assert_array_equal(free.best, free.largest_local)
    one = decayed_gains(*VECTOR, 0.1, depth=1)
    m, q = np.diag(VECTOR[0]), np.diag(VECTOR[1])
    np.testing.assert_allclose(one.best, np.sqrt(np.maximum(q - 0.05, 0)) / m)
    assert (one.largest_local == one.best).all()


def test_a_feature_that_views_never_share_is_lost_without_a_threshold():
    moments = keep_or_resample([1, 1], [0, 1])
    assert decay_thresholds(*moments).exists[0] == 0
    assert decayed_gains(*moments, 1e-6).largest_local[0] == 0


def test_wrong_decays_are_refused():
    for decay in (-0.1, np.nan):
        with refuses(UsageError, "decay", 0, decay):
            decayed_gains(*VECTOR, decay)
    with refuses(UsageError, "depth", 1, 0):
        decay_thresholds(*VECTOR, 0)
