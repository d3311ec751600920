from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses
from scipy.optimize import minimize
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fullrank.errors import UsageError
from fullrank.theory.common.flow import integrate
from fullrank.theory.common.steady_state import settle
from fullrank.theory.weighting.diagonal_nets import (
    absent_above,
    class_moment,
    core_to_spurious,
    correlated_gains,
    diagonal_velocity,
    relu_velocity,
    relu_weights,
    supervised_map,
    symmetric_relu,
)
from fullrank.theory.weighting.spectral_model import balanced_start, layer_grams, layer_weights, optimal_gram


def correlated(seed, d=3):
    rng = np.random.default_rng(seed)
    mixing, own = rng.normal(size=(2, d, d)) / np.sqrt(d)
    cross = mixing @ mixing.T + 0.05 * np.eye(d)
    return cross + own @ own.T / 2, cross


def autograd(loss, weights):
    leaves = [torch.tensor(layer, dtype=torch.float64, requires_grad=True) for layer in weights]
    loss(*leaves).backward()
    return [leaf.grad.numpy() for leaf in leaves]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_diagonal_velocity_is_autograds_negative_gradient(depth):
    moment, cross = correlated(0)
    weights = tuple(np.random.default_rng(1).normal(size=(depth, 3)))

    def loss(*layers):
        w = torch.diag(torch.stack(layers).prod(0))
        m, c = torch.tensor(moment), torch.tensor(cross)
        return -2 * torch.trace(w @ c @ w) + torch.trace(torch.linalg.matrix_power(w @ m @ w, 2))

    for move, slope in zip(diagonal_velocity(moment, cross)(weights), autograd(loss, weights), strict=True):
        np.testing.assert_allclose(move, -slope, rtol=1e-9, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 9999))
def test_the_gains_against_scipys_bounded_minimum(seed):
    moment, cross = correlated(seed)
    squared, target = moment**2, np.diag(cross)

    def loss(g):
        return g @ squared @ g - 2 * target @ g

    bounded = minimize(
        loss,
        np.ones(3),
        jac=lambda g: 2 * (squared @ g - target),
        bounds=[(0, None)] * 3,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-12},
    )
    assert loss(correlated_gains(moment, cross) ** 2) == pytest.approx(bounded.fun, rel=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_diagonal_flow_comes_to_the_weights_of_the_closed_form(depth):
    moment, cross = correlated(3)
    gain = correlated_gains(moment, cross)
    assert (gain > 0).all()
    layers = settle(diagonal_velocity(moment, cross), (np.full(3, 0.7),) * depth).last
    strengths = np.sqrt(np.diag(moment))
    partial = strengths * np.cumprod(layers, axis=0)
    np.testing.assert_allclose(partial, layer_weights(strengths, gain, depth), rtol=1e-6)


def test_two_layers_weigh_by_the_fourth_and_the_square_root():
    moment = np.array([[1.0, 0.5], [0.5, 1.0]])
    pre, post = layer_weights([1, 1], correlated_gains(moment, np.eye(2)), 2)
    np.testing.assert_allclose(pre, 0.8**0.25)
    np.testing.assert_allclose(post, 0.8**0.5)


def test_a_feature_that_others_replace_is_given_up():
    moment, cross = np.array([[1.0, 0.9], [0.9, 1.0]]), np.diag([1.0, 0.2])
    gain = correlated_gains(moment, cross)
    np.testing.assert_allclose(gain, [1, 0], atol=1e-12)
    path = settle(diagonal_velocity(moment, cross), (np.full(2, 0.7),) * 2)
    np.testing.assert_allclose(path.last[0] * path.last[1], gain, atol=1e-5)


def test_gains_that_are_not_unique_are_refused():
    with refuses(UsageError, "correlated", "unique"):
        correlated_gains(np.ones((2, 2)), np.eye(2))


def test_two_balanced_classes_leave_the_discriminant_direction_in_every_layer():
    rng = np.random.default_rng(0)
    centre, spread = np.array([1.0, -0.5, 0.3]), rng.normal(size=(3, 3))
    noise = rng.normal(size=(400, 3)) @ spread
    noise -= noise.mean(0)
    x = np.concatenate([noise + centre, noise - centre])
    gram = optimal_gram(x.T @ x / len(x), class_moment([centre, -centre]))
    lda = LinearDiscriminantAnalysis(solver="lsqr").fit(x, np.repeat([1, 0], 400)).coef_[0]
    for layer in layer_grams(gram, 2):
        values, axes = np.linalg.eigh(layer)
        assert values[-2] < 1e-9 * values[-1]
        assert abs(axes[:, -1] @ lda) / np.linalg.norm(lda) == pytest.approx(1, abs=1e-9)


def test_the_class_moment_is_the_mean_over_pairs_of_one_class():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(12, 3)), np.repeat([0, 1, 2], [2, 4, 6])
    means = np.array([x[y == c].mean(0) for c in range(3)])
    shares = np.array([2, 4, 6]) / 12
    pairs = sum(
        share * np.mean([np.outer(a, b) for a in x[y == c] for b in x[y == c]], axis=0)
        for c, share in enumerate(shares)
    )
    np.testing.assert_allclose(class_moment(means, shares), pairs, atol=1e-12)
    with refuses(UsageError, "shares", 3, 1.5):
        class_moment(means, [0.5, 0.5, 0.5])
    with refuses(UsageError, "means", "(3,)"):
        class_moment(means[0])


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_supervised_flow_comes_to_the_balanced_regression(depth):
    moment, _ = correlated(2)
    labels = np.random.default_rng(3).normal(size=(3, 3)) / 2

    def velocity(weights):
        products = [np.eye(3)]
        for layer in weights:
            products.append(layer @ products[-1])
        force, moves = labels - products[-1] @ moment, []
        for layer, below in zip(weights[::-1], products[-2::-1], strict=True):
            moves.append(force @ below.T)
            force = layer.T @ force
        return tuple(moves[::-1])

    w = supervised_map(moment, labels)
    path = settle(velocity, balanced_start(depth, 3, scale=0.7, seed=1))
    partial = np.eye(3)
    for layer, gram in zip(path.last, layer_grams(w.T @ w, depth), strict=True):
        partial = layer @ partial
        np.testing.assert_allclose(partial.T @ partial, gram, atol=1e-5 * np.abs(gram).max())
    np.testing.assert_allclose(partial, w, atol=1e-5)


def test_the_supervised_net_is_least_squares():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(50, 2))
    expected = np.linalg.lstsq(x, y, rcond=None)[0].T
    np.testing.assert_allclose(supervised_map(x.T @ x / 50, y.T @ x / 50), expected, rtol=1e-9)
    with refuses(UsageError, "moment", "invertible", 0, 1):
        supervised_map(np.diag([1.0, 0.0]), np.ones((1, 2)))
    with refuses(UsageError, "label_moment", "(C, 2)", (1, 3)):
        supervised_map(np.eye(2), np.ones((1, 3)))


def test_a_spurious_feature_dominates_less_below():
    ratios = core_to_spurious(1, 4, 4)
    np.testing.assert_allclose(ratios, [4**-0.25, 0.5, 4**-0.75, 0.25])
    core, spurious = layer_weights([1, 1], [1, 4], 4).T
    np.testing.assert_allclose(ratios, core / spurious)
    with refuses(UsageError, "core_gain", "above 0"):
        core_to_spurious(0, 1, 2)


@settings(max_examples=40, deadline=None)
@given(st.floats(-5, 5), st.floats(0, 3))
def test_the_symmetric_relu_is_torchs_soft_threshold(value, threshold):
    expected = torch.nn.functional.softshrink(torch.tensor(value, dtype=torch.float64), threshold)
    assert symmetric_relu(value, threshold) == pytest.approx(float(expected), abs=1e-12)


def test_the_relu_velocity_is_autograds_over_every_input():
    strengths, keep, b = torch.tensor([2.0, 1.0, 0.5]).double(), torch.tensor([1.0, 0.9, 0.6]).double(), 0.5
    signs = torch.tensor(list(product([-1.0, 1.0], repeat=3))).double()
    weights = (np.array([0.9, -1.1, 0.8]), np.array([0.7, 0.5, 1.2]))

    def loss(first, second):
        # Views of one image agree on feature i with correlation keep^2, those of two images on nothing.
        h = first * strengths * signs
        z = second * (torch.relu(h - b) - torch.relu(-h - b))
        moment = z.T @ z / len(z)
        return -2 * (keep**2 * torch.diag(moment)).sum() + ((z @ z.T) ** 2).mean()

    moves = relu_velocity(strengths.numpy(), keep.numpy(), b)(weights)
    for move, slope in zip(moves, autograd(loss, weights), strict=True):
        np.testing.assert_allclose(move, -slope, atol=1e-12)
    assert absent_above(weights[0], strengths.numpy(), b).tolist() == [False, False, True]
    assert moves[0][2] == moves[1][2] == 0


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.3, 3), st.floats(0.2, 1), st.floats(0.5, 1.5), st.floats(0.3, 1)),
        min_size=1,
        max_size=4,
    ),
    st.floats(0, 1),
)
def test_the_relu_flow_ends_where_the_closed_form_says(features, threshold):
    strengths, keep, first, second = np.array(features).T
    clear = np.abs(first * strengths - threshold) > 0.02
    strengths, keep, first, second = strengths[clear], keep[clear], first[clear], second[clear]
    if not len(strengths):
        return
    path = settle(relu_velocity(strengths, keep, threshold), (first, second))
    pre = np.abs(path.last[0]) * strengths
    measured = np.stack([pre, np.abs(path.last[1]) * symmetric_relu(pre, threshold)])
    np.testing.assert_allclose(
        measured, relu_weights(first, second, strengths, keep, threshold), rtol=1e-5, atol=1e-9
    )


def test_the_relu_flow_conserves_its_difference_of_squares():
    start = (np.array([0.9, 1.5]), np.array([0.4, 0.6]))
    path = integrate(relu_velocity([2.0, 0.7], [1.0, 0.5], 0.3), start, np.linspace(0, 5, 6))
    kept = (path.weights[0] * [2.0, 0.7] - 0.3) ** 2 - ([2.0, 0.7] * path.weights[1]) ** 2
    assert np.abs(kept - kept[0]).max() < 1e-8


def test_a_relu_net_that_starts_at_zero_or_with_a_negative_threshold_is_refused():
    with refuses(UsageError, "layers", 0):
        relu_weights([1.0], [0.0], [1.0], [1.0], 0.5)
    with refuses(UsageError, "threshold", 0, -1):
        symmetric_relu([1.0], -1)
    with refuses(UsageError, "first", "feature 1", "nan"):
        absent_above([np.nan], [1.0], 0.5)
