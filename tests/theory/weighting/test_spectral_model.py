from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.theory.common.flow import descend
from fullrank.theory.common.steady_state import settle
from fullrank.theory.weighting.augmentation_models import keep_or_resample
from fullrank.theory.weighting.spectral_model import (
    balanced_factors,
    balanced_start,
    gains,
    gradient_flow,
    layer_grams,
    layer_weights,
    measured_weights,
    optimal_gram,
    spectral_loss,
    spectral_velocity,
)

STRENGTHS, KEEP = np.array([2, 1, 0.5, 1, 0.7]), np.array([1, 0.9, 1, 0.3, 0.6])


def moments(seed, d=4):
    """M and M~ that do not commute, with M - M~ positive semi-definite as in data."""
    rng = np.random.default_rng(seed)
    shared, own = rng.normal(size=(2, d, d)) / np.sqrt(d)
    cross = shared @ shared.T + 0.1 * np.eye(d)
    return cross + own @ own.T / 2, cross


def layers(rng, *sizes):
    return tuple(rng.normal(size=(out, into)) / 2 for into, out in pairwise(sizes))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999))
def test_the_loss_is_that_of_samples(seed):
    # Both expectations over a finite set, every pair of independent views included.
    rng = np.random.default_rng(seed)
    x1, x2 = rng.normal(size=(2, 30, 3))
    x = np.concatenate([x1, x2])
    cross = (x1.T @ x2 + x2.T @ x1) / 60
    cross += 3 * np.eye(3)  # an exact moment; the loss is linear in it
    (w,) = layers(rng, 3, 2)
    repelled = np.mean((x @ w.T @ w @ x.T) ** 2)
    attracted = np.trace(w @ cross @ w.T)
    assert spectral_loss((w,), x.T @ x / 60, cross) == pytest.approx(repelled - 2 * attracted)


@pytest.mark.parametrize("sizes", [(4, 2), (4, 3, 2), (4, 5, 3, 4, 2)])
def test_the_velocity_is_autograds_negative_gradient(sizes):
    moment, cross = moments(1)
    weights = layers(np.random.default_rng(0), *sizes)
    leaves = [torch.tensor(layer, requires_grad=True) for layer in weights]
    w = leaves[0]
    for leaf in leaves[1:]:
        w = leaf @ w
    m, c = torch.tensor(moment), torch.tensor(cross)
    (-2 * torch.trace(w @ c @ w.T) + torch.trace(torch.linalg.matrix_power(w @ m @ w.T, 2))).backward()
    for move, leaf in zip(spectral_velocity(moment, cross)(weights), leaves, strict=True):
        np.testing.assert_allclose(move, -leaf.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_the_velocity_is_the_loss_s_finite_difference():
    moment, cross = moments(2)
    weights = layers(np.random.default_rng(1), 4, 3, 2)
    step = 1e-6
    for number, move in enumerate(spectral_velocity(moment, cross)(weights)):
        for place in np.ndindex(move.shape):
            nudge = [np.zeros_like(layer) for layer in weights]
            nudge[number][place] = step
            ends = [
                spectral_loss(tuple(w + sign * n for w, n in zip(weights, nudge, strict=True)), moment, cross)
                for sign in (1, -1)
            ]
            assert -(ends[0] - ends[1]) / (2 * step) == pytest.approx(move[place], abs=1e-6)


@settings(max_examples=6, deadline=None)
@given(
    depth=st.integers(1, 4),
    features=st.lists(st.tuples(st.floats(0.3, 3), st.floats(0.2, 1)), min_size=2, max_size=3),
    scale=st.floats(0.5, 0.8),
    seed=st.integers(0, 99),
)
def test_every_layer_s_weights_are_those_of_the_flow(depth, features, scale, seed):
    strengths, keep = np.array(features).T
    velocity = spectral_velocity(*keep_or_resample(strengths, keep))
    path = settle(velocity, balanced_start(depth, len(features), scale=scale, seed=seed))
    predicted = layer_weights(strengths, keep / strengths, depth)
    np.testing.assert_allclose(measured_weights(path.last, strengths), predicted, rtol=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("rank", [2, 3])
def test_the_flow_of_full_matrices_comes_to_the_balanced_minimiser(depth, rank):
    moment, cross = moments(3, d=3)
    assert np.abs(moment @ cross - cross @ moment).max() > 0.01
    path = settle(spectral_velocity(moment, cross), balanced_start(depth, 3, width=rank))
    partial = np.eye(3)
    for layer, gram in zip(path.last, layer_grams(optimal_gram(moment, cross, rank), depth), strict=True):
        partial = layer @ partial
        np.testing.assert_allclose(partial.T @ partial, gram, atol=1e-5 * np.abs(gram).max())


def test_the_flow_conserves_the_imbalance():
    moment, cross = moments(4)
    start = layers(np.random.default_rng(2), 4, 3, 5, 2)
    path = gradient_flow(start, moment, cross, np.linspace(0, 5, 6))
    for first, second in zip(path.weights[:-1], path.weights[1:], strict=True):
        kept = second.transpose(0, 2, 1) @ second - first @ first.transpose(0, 2, 1)
        assert np.abs(kept - kept[0]).max() < 1e-8


def test_descent_and_both_solvers_end_in_one_place():
    strengths, keep = STRENGTHS[:2], KEEP[:2]
    start, two = balanced_start(2, 2), keep_or_resample(strengths, keep)
    velocity = spectral_velocity(*two)
    ends = [
        gradient_flow(start, *two, [0, 10]).last,
        settle(velocity, start).last,
        descend(velocity, start, rate=0.02, steps=500, keep_every=500).last,
    ]
    for end in ends:
        np.testing.assert_allclose(
            measured_weights(end, strengths), layer_weights(strengths, keep / strengths, 2), rtol=1e-6
        )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), rank=st.integers(1, 4))
def test_no_other_net_of_the_rank_has_a_lower_loss(seed, rank):
    moment, cross = moments(seed)
    rng = np.random.default_rng(seed)
    (best,) = balanced_factors(optimal_gram(moment, cross, rank), 1, width=rank)
    lowest = spectral_loss((best,), moment, cross)
    for size in (1e-3, 0.1, 1.0):
        other = best + size * rng.normal(size=best.shape)
        assert spectral_loss((other,), moment, cross) >= lowest - 1e-12


def test_at_full_rank_the_minimiser_is_a_product_of_inverses():
    moment, cross = moments(5)
    inverse = np.linalg.inv(moment)
    np.testing.assert_allclose(optimal_gram(moment, cross), inverse @ cross @ inverse, rtol=1e-9)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), depth=st.integers(1, 5), rank=st.integers(1, 4))
def test_balanced_factors_are_balanced_and_give_the_layers_grams(seed, depth, rank):
    gram = optimal_gram(*moments(seed), rank)
    factors = balanced_factors(gram, depth, width=rank)
    partial = np.eye(4)
    for layer, expected in zip(factors, layer_grams(gram, depth), strict=True):
        partial = layer @ partial
        np.testing.assert_allclose(
            partial.T @ partial, expected, atol=1e-9 * np.abs(gram).max() ** 0.5 + 1e-9
        )
    np.testing.assert_allclose(partial.T @ partial, gram, atol=1e-9 * np.abs(gram).max())
    for first, second in pairwise(factors):
        np.testing.assert_allclose(first @ first.T, second.T @ second, atol=1e-9)


def test_the_printed_digits_of_the_test_vector():
    gain = gains(*keep_or_resample(STRENGTHS, KEEP))
    two = [[1.41421, 0.94868, 0.70711, 0.54772, 0.64807], KEEP]
    three = [[1.5874, 0.96549, 0.62996, 0.66943, 0.66494], [1.25992, 0.93217, 0.7937, 0.44814, 0.63164], KEEP]
    np.testing.assert_allclose(layer_weights(STRENGTHS, gain, 2), two, atol=6e-6)
    np.testing.assert_allclose(layer_weights(STRENGTHS, gain, 3), three, atol=6e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 5), st.floats(0.01, 5)), min_size=1, max_size=5), st.integers(1, 6))
def test_depth_is_a_straight_line_between_input_and_output_in_logarithms(features, depth):
    strengths, gain = np.array(features).T
    weights = np.log(np.vstack([strengths, layer_weights(strengths, gain, depth)]))
    np.testing.assert_allclose(np.diff(weights, axis=0) * depth, np.tile(np.log(gain), (depth, 1)), atol=1e-9)


def test_where_no_view_varies_the_net_is_zero():
    moment, cross = np.diag([4.0, 1.0, 0.0]), np.diag([4.0, 0.25, 0.0])
    np.testing.assert_allclose(optimal_gram(moment, cross), np.diag([0.25, 0.25, 0.0]))
    np.testing.assert_allclose(gains(moment, cross), [0.5, 0.5, 0.0])


def test_a_loss_without_a_minimum_is_refused_and_its_flow_diverges_when_the_closed_form_says():
    moment, cross = np.diag([1.0, 0.0]), np.diag([0.5, 0.5])
    with refuses(UsageError, "cross_moment", 0.5, "moment is 0"):
        optimal_gram(moment, cross)
    # w' = 8 q w^2 from 1/4 leaves every bound at 1 / (8 q / 4).
    path = gradient_flow((np.eye(2) / 2, np.eye(2) / 2), moment, cross, [0, 0.5, 2])
    assert path.diverged_at == pytest.approx(1.0, rel=1e-6)
    assert path.times.tolist() == [0, 0.5] and np.isfinite(path.weights[0]).all()


def test_what_does_not_fit_is_refused():
    eye = np.eye(3)
    for rank in (0, 4):
        with refuses(UsageError, "rank", "1 to 3", rank):
            optimal_gram(eye, eye, rank)
    with refuses(UsageError, "rank 1", "unique", "1 and 2"):
        optimal_gram(eye, eye, 1)
    with refuses(UsageError, "rank 3", "width 2"):
        balanced_factors(eye, 2, width=2)
    with refuses(UsageError, "depth", 1, 0):
        layer_grams(eye, 0)
    with refuses(UsageError, "gram", "negative", -1):
        layer_grams(-eye, 2)
    with refuses(UsageError, "Layer 2", "width 3", (2, 2)):
        gradient_flow((eye, np.eye(2)), eye, eye, [0, 1])
    with refuses(UsageError, "1 layer"):
        spectral_loss((), eye, eye)
    with refuses(UsageError, "scale", "above 0", 0.5):
        balanced_start(2, 3, scale=0)
    with refuses(UsageError, "width", "1 to 3", 4):
        balanced_start(2, 3, width=4)
    with refuses(UsageError, "gains", 0, "feature 1", -1):
        layer_weights([1, 1], [-1, 1], 2)


def test_gains_know_no_smallest_feature():
    strengths = [1e3, 1e-3]
    np.testing.assert_allclose(gains(*keep_or_resample(strengths, [1.0, 0.5])), [1e-3, 500.0], rtol=1e-12)
