import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses
from scipy.linalg import expm

from fullrank.errors import UsageError
from fullrank.theory.collapse.infonce_flow import (
    augmentation_covariance,
    collapse_count,
    collapsing_directions,
    data_covariance,
    distance_gradients,
    distance_loss,
    driving_matrix,
    embedding_covariance,
    exact_weights,
    moving_velocity,
    softmax_weights,
)
from fullrank.theory.collapse.inner_products import (
    inner_driving_matrix,
    inner_gradients,
    inner_loss,
    inner_residual,
    limit_driving_matrix,
    limit_gram,
    limit_loss,
    limit_velocity,
)
from fullrank.theory.common.flow import integrate


def samples(seed, n=7, d=4, noise=0.7):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    return rng, x, x + noise * rng.normal(size=x.shape)


def numeric(function, at, step=1e-5):
    """The gradient of a number to an array by central differences."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        move = np.zeros_like(at)
        move[index] = step
        gradient[index] = (function(at + move) - function(at - move)) / (2 * step)
    return gradient


def torch_distance_loss(z, views):
    n = len(z)
    rows = []
    for i in range(n):
        row = [-((z[i] - (views[i] if j == i else z[j])) ** 2).sum() / 2 for j in range(n)]
        rows.append(torch.stack(row))
    return torch.nn.functional.cross_entropy(torch.stack(rows), torch.arange(n), reduction="sum")


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), mean=st.sampled_from([0.0, 1e3]))
def test_loss_weights_and_gradients_against_autograd(seed, mean):
    _, x, views = samples(seed)
    z, z_views = (torch.tensor(part + mean, requires_grad=True) for part in (x, views))
    loss = torch_distance_loss(z, z_views)
    loss.backward()
    alpha = softmax_weights(x + mean, views + mean)
    np.testing.assert_allclose(distance_loss(x + mean, views + mean), loss.item(), rtol=1e-9)
    np.testing.assert_allclose(alpha.sum(1), 1, rtol=1e-12)
    for computed, tensor in zip(distance_gradients(x + mean, views + mean, alpha), (z, z_views), strict=True):
        np.testing.assert_allclose(computed, tensor.grad, atol=1e-8)


def test_embeddings_far_apart_neither_overflow_nor_lose_the_loss():
    z = np.array([[0.0], [1e3], [2e3]])
    assert distance_loss(z, z) == 0.0
    # Each anchor's view is as far as its neighbours: one of two, of three and of two.
    assert distance_loss(z, z + 1e3) == pytest.approx(np.log(12))
    np.testing.assert_array_equal(softmax_weights(z, z), np.eye(3))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), noise=st.sampled_from([0.1, 1.0, 3.0]))
def test_lemma_2_gives_the_gradient_of_finite_differences(seed, noise):
    rng, x, views = samples(seed, noise=noise)
    w = rng.normal(size=(3, 4)) / 2
    gradient = numeric(lambda layer: distance_loss(x @ layer.T, views @ layer.T), w)
    drive = driving_matrix(x, views, softmax_weights(x @ w.T, views @ w.T))
    scale = max(1.0, np.abs(gradient).max())
    np.testing.assert_allclose(-w @ drive, gradient, atol=1e-6 * scale)
    np.testing.assert_allclose(moving_velocity(x, views)((w,))[0], -gradient, atol=1e-6 * scale)


def test_the_minus_that_equation_6_prints_first_is_an_erratum():
    rng, x, views = samples(3)
    w = rng.normal(size=(3, 4))
    z, z_views = x @ w.T, views @ w.T
    alpha = softmax_weights(z, z_views)
    n = range(len(x))
    first = sum(
        np.outer(alpha[i, j] * (views[i] - x[j]) + alpha[j, i] * (x[i] - x[j]), x[i])
        for i in n
        for j in n
        if i != j
    )
    second = sum((1 - alpha[i, i]) * np.outer(views[i] - x[i], views[i]) for i in n)
    gradient = numeric(lambda layer: distance_loss(x @ layer.T, views @ layer.T), w)
    np.testing.assert_allclose(-w @ (first - second), gradient, atol=1e-6)
    assert np.abs(-w @ (-first - second) - gradient).max() > 1
    np.testing.assert_allclose(driving_matrix(x, views, alpha), first - second, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999))
def test_lemma_2_holds_for_any_weights_whose_rows_sum_to_1(seed):
    rng, x, views = samples(seed)
    alpha = rng.dirichlet(np.full(len(x), 0.5), size=len(x))
    w = rng.normal(size=(3, 4))
    to_z, to_views = distance_gradients(x @ w.T, views @ w.T, alpha)
    drive = driving_matrix(x, views, alpha)
    np.testing.assert_allclose(to_z.T @ x + to_views.T @ views, -w @ drive, atol=1e-10)
    np.testing.assert_array_equal(drive, drive.T)
    pairs = [(i, j) for i in range(len(x)) for j in range(len(x))]
    expected = sum(alpha[i, j] * np.outer(x[i] - x[j], x[i] - x[j]) for i, j in pairs)
    np.testing.assert_allclose(data_covariance(x, alpha), expected, atol=1e-12)
    for part in (data_covariance(x, alpha), augmentation_covariance(x, views, alpha)):
        assert np.linalg.eigvalsh(part)[0] > -1e-10


def test_uniform_weights_give_twice_the_data_variance_against_the_augmentations():
    _, x, views = samples(0, n=50, noise=1.3)
    n = len(x)
    uniform = np.full((n, n), 1 / n)
    np.testing.assert_allclose(data_covariance(x, uniform), 2 * n * np.cov(x.T, bias=True), rtol=1e-12)
    shift = views - x
    np.testing.assert_allclose(augmentation_covariance(x, views, uniform), (1 - 1 / n) * shift.T @ shift)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 999))
def test_the_exact_flow_is_the_matrix_exponential_and_the_simulated_one(seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(4, 4))
    drive, start, times = root + root.T, rng.normal(size=(3, 4)), np.array([0.0, 0.3, 0.9])
    computed = exact_weights(start, drive, times)
    for time, weights in zip(times, computed, strict=True):
        np.testing.assert_allclose(weights, start @ expm(drive * time), rtol=1e-8, atol=1e-8)
    simulated = integrate(lambda w: (w[0] @ drive,), (start,), times)
    np.testing.assert_allclose(simulated.weights[0], computed, rtol=1e-6, atol=1e-7)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), falling=st.integers(0, 5), width=st.integers(1, 7))
def test_theorem_1_counts_the_singular_values_that_vanish(seed, falling, width):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    values = rng.uniform(1, 2, 5) * np.where(np.arange(5) < falling, -1, 1)
    drive = basis * values @ basis.T
    drive = (drive + drive.T) / 2
    directions = collapsing_directions(drive)
    assert directions.shape == (5, falling)
    np.testing.assert_allclose(np.linalg.norm(basis[:, :falling].T @ directions, axis=0), 1, rtol=1e-9)
    end = exact_weights(rng.normal(size=(width, 5)), drive, np.array([8.0]))[0]
    vanished = (np.linalg.svd(end, compute_uv=False) < 1e-2).sum()
    assert collapse_count(drive, width) == vanished


def test_under_the_moving_x_strong_noise_takes_its_directions_and_weak_noise_does_not():
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 120, 4))
    start = rng.normal(size=(4, 4)) / 4
    gains = []
    for scale in (0.5, 2.5):
        views = x + scale * noise * np.array([0, 0, 1, 1])
        alpha = softmax_weights(x @ start.T, views @ start.T)
        assert collapse_count(driving_matrix(x, views, alpha), 4) == (2 if scale == 2.5 else 0)
        flow = integrate(moving_velocity(x, views), (start,), [0.0, 4 / 120], rtol=1e-6, atol=1e-9)
        gains.append(np.linalg.norm(flow.last[0], axis=0) / np.linalg.norm(start, axis=0))
    assert (gains[0] > 1).all()
    assert (gains[1][:2] > 1).all() and (gains[1][2:] < 0.1).all()
    # Corollary 1: the embedding covariance loses the same two dimensions.
    spectrum = np.linalg.eigvalsh(embedding_covariance(flow.last[0], np.cov(x.T)))
    assert (spectrum[:2] < 2e-3).all() and (spectrum[2:] > 0.1).all()


def test_embedding_covariance_is_that_of_the_embeddings():
    rng, x, _ = samples(1, n=30)
    w = rng.normal(size=(6, 4))
    np.testing.assert_allclose(embedding_covariance(w, np.cov(x.T)), np.cov((x @ w.T).T), atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), temperature=st.sampled_from([0.1, 1.0]))
def test_inner_products_against_torch(seed, temperature):
    rng, x_a, x_b = samples(seed)
    w = torch.tensor(rng.normal(size=(3, 4)), requires_grad=True)
    z_a, z_b = torch.tensor(x_a) @ w.T, torch.tensor(x_b) @ w.T
    for z in (z_a, z_b):
        z.retain_grad()
    loss = torch.nn.functional.cross_entropy(z_a @ z_b.T / temperature, torch.arange(len(x_a)))
    loss.backward()
    a, b = z_a.detach().numpy(), z_b.detach().numpy()
    np.testing.assert_allclose(inner_loss(a, b, temperature), loss.item(), rtol=1e-9)
    for computed, z in zip(inner_gradients(a, b, temperature), (z_a, z_b), strict=True):
        np.testing.assert_allclose(computed, z.grad, atol=1e-10)
    drive = inner_driving_matrix(x_a, x_b, inner_residual(a, b, temperature), temperature)
    np.testing.assert_allclose(-w.detach().numpy() @ drive, w.grad, atol=1e-9)
    np.testing.assert_array_equal(drive, drive.T)


def gaussian_moments(seed):
    rng = np.random.default_rng(seed)
    root, noise = np.eye(3) / 2 + rng.normal(size=(2, 3, 3)) / 4
    cross = root @ root.T
    return rng, cross + noise @ noise.T, cross, root, noise


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999))
def test_the_limit_flow_descends_the_limit_loss(seed):
    rng, moment, cross, _, _ = gaussian_moments(seed)
    w, bias = rng.normal(size=(2, 3)), rng.normal(size=2)
    to_w = numeric(lambda layer: limit_loss(layer, bias, moment, cross, 0.5), w)
    to_bias = numeric(lambda offset: limit_loss(w, offset, moment, cross, 0.5), bias)
    for computed, gradient in zip(
        limit_velocity(moment, cross, 0.5)((w, bias)), (to_w, to_bias), strict=True
    ):
        np.testing.assert_allclose(computed, -gradient, rtol=1e-6, atol=1e-6)
    free = numeric(lambda layer: limit_loss(layer, 0 * bias, moment, cross, 0.5), w)
    np.testing.assert_allclose(-w @ limit_driving_matrix(w, moment, cross, 0.5), free, rtol=1e-6, atol=1e-6)


def test_infonce_of_many_gaussian_views_tends_to_the_limit_loss():
    rng, moment, cross, root, noise = gaussian_moments(5)
    w, bias = rng.normal(size=(2, 3)) / 2, rng.normal(size=2) / 2
    losses = []
    for _ in range(20):
        shared = rng.normal(size=(500, 3)) @ root.T
        z_a, z_b = ((shared + rng.normal(size=(500, 3)) @ noise.T) @ w.T + bias for _ in range(2))
        losses.append(inner_loss(z_a, z_b, 1.0) - np.log(500))
    error = np.std(losses) / np.sqrt(len(losses))
    expected = limit_loss(w, bias, moment, cross, 1.0)
    assert abs(expected) > 10 * error
    assert abs(np.mean(losses) - expected) < 4 * error


def test_the_limit_flow_ends_at_the_limit_gram():
    rng, moment, cross, _, _ = gaussian_moments(2)
    start = rng.normal(size=(4, 3)) / 2
    end = integrate(limit_velocity(moment, cross, 0.5), (start, np.zeros(4)), [0.0, 60.0], rtol=1e-8).last[0]
    np.testing.assert_allclose(end.T @ end, limit_gram(moment, cross, 0.5), atol=1e-6)


@pytest.mark.parametrize(("squared", "kept"), [(0.15, True), (0.25, False)])
def test_a_bias_takes_its_direction_where_it_is_longer_than_the_threshold(squared, kept):
    # T = 0.1 and m = m~ = 1: the threshold on the squared length is 0.2.
    velocity = limit_velocity(np.eye(2), np.eye(2), 0.1)
    flow = integrate(velocity, (np.diag([0.3, 1e-6]), np.array([0.0, squared**0.5])), [0.0, 3.0], rtol=1e-8)
    assert flow.last[0][0, 0] == pytest.approx(0.1**0.5, abs=1e-6)
    assert (flow.last[0][1, 1] > 0.1) == kept
    if not kept:
        assert flow.last[0][1, 1] < 1e-6


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: softmax_weights(np.zeros((3, 2)), np.zeros((2, 2))), ["(N, K)", (3, 2), (2, 2)]),
        (lambda: data_covariance(np.zeros((2, 2)), np.eye(3)), ["2 samples", (2, 2), (3, 3)]),
        (lambda: data_covariance(np.zeros((2, 2)), np.ones((2, 2))), ["sum to 1", "off by 1"]),
        (
            lambda: augmentation_covariance(np.zeros((2, 2)), np.zeros((2, 2)), np.full((2, 2), np.nan)),
            ["sum to 1", "nan"],
        ),
        (lambda: exact_weights(np.eye(2), np.triu(np.ones((2, 2))), [0]), ["X", "symmetric", 1]),
        (lambda: collapsing_directions(np.ones((2, 3))), ["X", "square", (2, 3)]),
        (lambda: collapsing_directions(np.full((2, 2), np.nan)), ["X", "NaN"]),
        (lambda: collapse_count(np.eye(2), 0), ["width", 1, 0]),
        (lambda: embedding_covariance(np.eye(2), -np.eye(2)), ["covariance", "negative", -1]),
        (lambda: limit_gram(np.eye(2), np.diag([1.0, -1.0]), 0.1), ["cross_moment", "negative", -1]),
        (lambda: limit_velocity(np.triu(np.ones((2, 2))), np.eye(2), 0.1), ["moment", "symmetric", 1]),
    ],
)
def test_wrong_input_is_named(call, parts):
    with refuses(UsageError, *parts):
        call()
