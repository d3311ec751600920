import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.theory.collapse.aligned_modes import (
    balanced_values,
    divergence_time,
    fixed_mode_velocity,
    limit_mode_velocity,
    two_layer_values,
)
from fullrank.theory.collapse.inner_products import limit_driving_matrix
from fullrank.theory.collapse.linear_stack import (
    alignment,
    alignment_rate,
    contrastive_velocity,
    fixed_velocity,
    imbalance,
    layer_gradients,
    linear,
    product,
    rectified,
    relative_imbalance,
    singular_rates,
    within_block_share,
)
from fullrank.theory.common.flow import integrate

SHAPES = [(5, 4), (3, 5), (3, 3), (2, 3)]


def layers(seed, depth, scale=0.5):
    rng = np.random.default_rng(seed)
    return rng, tuple(scale * rng.normal(size=shape) for shape in SHAPES[:depth])


def turned(rng, n):
    return np.linalg.qr(rng.normal(size=(n, n)))[0]


def aligned_layers(rng, vectors, values):
    """Layers with those singular values, aligned with each other and with the directions of X."""
    inner = [vectors, *(turned(rng, len(vectors)) for _ in values)]
    return tuple(inner[k + 1] * own @ inner[k].T for k, own in enumerate(values))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 999), depth=st.integers(1, 4), network=st.sampled_from([linear, rectified]))
def test_networks_and_their_gradients_against_autograd(seed, depth, network):
    rng, weights = layers(seed, depth)
    x, gradient = rng.normal(size=(6, 4)), rng.normal(size=(6, weights[-1].shape[0]))
    tensors = [torch.tensor(layer, requires_grad=True) for layer in weights]
    h = torch.tensor(x)
    for index, layer in enumerate(tensors):
        h = h @ layer.T
        if network is rectified and index < depth - 1:
            h = h.relu()
    h.backward(torch.tensor(gradient))
    z, pull = network(weights, x)
    np.testing.assert_allclose(z, h.detach(), atol=1e-12)
    for computed, tensor in zip(pull(gradient), tensors, strict=True):
        np.testing.assert_allclose(computed, tensor.grad, atol=1e-12)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 999), depth=st.integers(1, 4), network=st.sampled_from([linear, rectified]))
def test_the_contrastive_flow_is_the_negative_gradient(seed, depth, network):
    rng, weights = layers(seed, depth)
    x = rng.normal(size=(6, 4))
    views = x + 0.5 * rng.normal(size=x.shape)
    tensors = [torch.tensor(layer, requires_grad=True) for layer in weights]

    def embed(h):
        for index, layer in enumerate(tensors):
            h = h @ layer.T
            h = h.relu() if network is rectified and index < depth - 1 else h
        return h

    z, z_views = embed(torch.tensor(x)), embed(torch.tensor(views))
    logits = -((z[:, None] - z) ** 2).sum(-1) / 2
    own = -((z - z_views) ** 2).sum(-1) / 2
    logits = torch.where(torch.eye(6, dtype=torch.bool), own[:, None], logits)
    torch.nn.functional.cross_entropy(logits, torch.arange(6), reduction="sum").backward()
    computed = contrastive_velocity(network, x, views)(weights)
    for velocity, tensor in zip(computed, tensors, strict=True):
        np.testing.assert_allclose(velocity, -tensor.grad, atol=1e-10)


def test_the_fixed_flow_descends_a_quadratic_of_the_product():
    # With X fixed, -tr(W X W')/2 is the loss whose flow this is.
    rng, weights = layers(1, 4)
    root = rng.normal(size=(4, 4))
    tensors = [torch.tensor(layer, requires_grad=True) for layer in weights]
    whole = torch.linalg.multi_dot(tensors[::-1])
    (-(whole @ torch.tensor(root + root.T) * whole).sum() / 2).backward()
    for velocity, tensor in zip(fixed_velocity(root + root.T)(weights), tensors, strict=True):
        np.testing.assert_allclose(velocity, -tensor.grad, atol=1e-12)
    np.testing.assert_allclose(product(weights), whole.detach(), atol=1e-12)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_imbalance_is_conserved_over_both_flows(depth):
    rng, weights = layers(depth, depth, scale=0.4)
    root = rng.normal(size=(4, 4)) / 10
    x = rng.normal(size=(12, 4))
    views = x + 0.3 * rng.normal(size=x.shape)
    for velocity, end in (
        (fixed_velocity(root + root.T), 0.5),
        (contrastive_velocity(linear, x, views), 0.02),
    ):
        flow = integrate(velocity, weights, np.linspace(0, end, 5))
        assert flow.diverged_at is None
        assert np.abs(flow.last[0] - weights[0]).max() > 2e-3
        for gap in imbalance(flow.weights):
            np.testing.assert_allclose(gap, np.broadcast_to(gap[0], gap.shape), atol=1e-8)


def test_relu_conserves_the_diagonal_of_the_imbalance_only():
    rng, weights = layers(0, 3)
    x = rng.normal(size=(12, 4))
    rates = contrastive_velocity(rectified, x, x + 0.3 * rng.normal(size=x.shape))(weights)
    for below, above, moves_below, moves_above in zip(weights, weights[1:], rates, rates[1:], strict=False):
        half = above.T @ moves_above - below @ moves_below.T
        np.testing.assert_allclose(np.diag(half), 0, atol=1e-10)
        assert np.abs(half + half.T).max() > 1e-2


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 999),
    depth=st.integers(1, 4),
    start=st.lists(st.floats(0.5, 0.8), min_size=3, max_size=3),
    strengths=st.lists(st.floats(0.3, 3), min_size=3, max_size=3),
    keep=st.lists(st.floats(0.2, 1), min_size=3, max_size=3),
)
def test_balanced_layers_follow_the_closed_form(seed, depth, start, strengths, keep):
    # X as of views that keep a feature of that strength with that probability, less what they lose.
    gains = np.array(strengths) ** 2 * (2 * np.array(keep) - 1)
    rng = np.random.default_rng(seed)
    vectors, start = turned(rng, 3), np.array(start)
    drive = vectors * gains @ vectors.T
    drive = (drive + drive.T) / 2
    times = np.linspace(0, min(0.9 * divergence_time(start, gains, depth), 1.0), 4)
    closed = balanced_values(start, gains, depth, times)
    flow = integrate(fixed_velocity(drive), aligned_layers(rng, vectors, [start] * depth), times)
    for layer in flow.weights:
        simulated = np.linalg.svd(layer, compute_uv=False)
        np.testing.assert_allclose(simulated, -np.sort(-closed), rtol=1e-4)
    law = integrate(fixed_mode_velocity(gains), (start,) * depth, times)
    np.testing.assert_allclose(law.weights[-1], closed, rtol=1e-6)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 999),
    lower=st.lists(st.floats(0.3, 1), min_size=3, max_size=3),
    upper=st.lists(st.floats(0.3, 1), min_size=3, max_size=3),
    gains=st.lists(st.floats(-1, 2), min_size=3, max_size=3),
)
def test_theorem_3_for_layers_that_are_not_balanced(seed, lower, upper, gains):
    lower, upper, gains = np.array(lower), np.array(upper), np.array(gains)
    rng = np.random.default_rng(seed)
    vectors = turned(rng, 3)
    drive = vectors * gains @ vectors.T
    times = np.array([0.0, 0.1, 0.2])
    closed = two_layer_values(lower, upper, gains, times)
    start = aligned_layers(rng, vectors, [lower, upper])
    flow = integrate(fixed_velocity((drive + drive.T) / 2), start, times)
    for layer, values in zip(flow.weights, closed, strict=True):
        np.testing.assert_allclose(np.linalg.svd(layer, compute_uv=False), -np.sort(-values), rtol=1e-6)


def test_theorem_3_conserves_lower_less_upper_and_so_takes_minus_c():
    lower, upper, gain = np.array([0.9]), np.array([0.4]), np.array([1.5])
    step = 1e-5
    near = two_layer_values(lower, upper, gain, np.array([0.0, step, 2 * step]))[0][:, 0]
    rate, middle, constant = (near[2] - near[0]) / (2 * step), near[1], lower**2 - upper**2
    np.testing.assert_allclose(middle * (middle**2 - constant) * gain, rate, rtol=1e-8)
    assert abs(middle * (middle**2 + constant) * gain - rate) > 1


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_positive_x_diverges_at_the_predicted_time_from_two_layers_on(depth):
    start, gains = np.array([0.8, 0.5]), np.array([1.0, 3.0])
    end = divergence_time(start, gains, depth)
    flow = integrate(fixed_velocity(np.diag(gains)), (np.diag(start),) * depth, [0.0, 10.0], rtol=1e-7)
    if depth == 1:
        assert end == np.inf and flow.diverged_at is None
    else:
        assert flow.diverged_at == pytest.approx(end, rel=1e-4)
        assert all(np.isfinite(layer).all() for layer in flow.weights)
    assert divergence_time(start, -gains, depth) == np.inf


def test_unbalanced_layers_diverge_where_the_closed_form_says():
    lower, upper, gains = np.array([0.9, 0.5]), np.array([0.4, 0.5]), np.array([1.0, 0.3])
    flow = integrate(fixed_velocity(np.diag(gains)), (np.diag(lower), np.diag(upper)), [0.0, 20.0])
    before = flow.diverged_at * (1 - 1e-3)
    assert two_layer_values(lower, upper, gains, np.array([before]))[0].max() > 10
    with refuses(UsageError, "bound", f"{flow.diverged_at:.6g}", f"{flow.diverged_at * 1.001:.6g}"):
        two_layer_values(lower, upper, gains, np.array([flow.diverged_at * 1.001]))


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 999), depth=st.integers(1, 4))
def test_saturating_modes_are_those_of_the_matrix_flow(seed, depth):
    rng = np.random.default_rng(seed)
    cross, noise = rng.uniform(0.3, 2, 3), rng.uniform(0, 1, 3)
    values, vectors = rng.uniform(0.4, 0.8, (depth, 3)), turned(rng, 3)
    moment, cross_moment = (vectors * part @ vectors.T for part in (cross + noise, cross))

    def velocity(weights):
        whole = product(weights)
        return layer_gradients(weights, whole @ limit_driving_matrix(whole, moment, cross_moment, 0.5))

    flow = integrate(velocity, aligned_layers(rng, vectors, values), [0.0, 0.2, 0.4], rtol=1e-8)
    law = integrate(limit_mode_velocity(cross + noise, cross, 0.5), tuple(values), [0.0, 0.2, 0.4], rtol=1e-8)
    for layer, modes in zip(flow.weights, law.weights, strict=True):
        np.testing.assert_allclose(np.linalg.svd(layer, compute_uv=False), -np.sort(-modes), rtol=1e-5)


def signed(reference, matrix):
    """The singular vectors of a matrix with the signs of a reference's, which it is near."""
    u, s, vt = np.linalg.svd(matrix)
    sign = np.sign((reference[0] * u).sum(0))
    return u * sign, s, (vt.T * sign).T


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 999))
def test_rates_of_singular_vectors_hold_with_the_corrected_sign_and_fail_with_the_printed_one(seed):
    rng = np.random.default_rng(seed)
    w = turned(rng, 4) * np.array([2.0, 1.5, 1.0, 0.5]) @ turned(rng, 4)
    velocity, step = rng.normal(size=(4, 4)), 1e-5
    middle = np.linalg.svd(w)
    ahead, behind = (signed(middle, w + move * velocity) for move in (step, -step))
    s, u, v = singular_rates(w, velocity)
    np.testing.assert_allclose(s, (ahead[1] - behind[1]) / (2 * step), atol=1e-6)
    for computed, (after, before) in ((u, (ahead[0], behind[0])), (v, (ahead[2].T, behind[2].T))):
        difference = (after - before) / (2 * step)
        np.testing.assert_allclose(computed, difference, atol=1e-6)
        assert np.abs(-computed - difference).max() > 0.1


def test_the_rate_of_the_alignment_matrix_has_the_corrected_sign_too():
    rng = np.random.default_rng(4)
    values = np.array([2.0, 1.5, 1.0, 0.5])
    lower, upper = (turned(rng, 4) * values @ turned(rng, 4) for _ in range(2))
    gradient, step = rng.normal(size=(4, 4)), 1e-5
    references = [np.linalg.svd(layer) for layer in (lower, upper)]
    changes = [-part for part in layer_gradients((lower, upper), gradient)]

    def signed_alignment(time):
        first = signed(references[0], lower + time * changes[0])
        second = signed(references[1], upper + time * changes[1])
        return second[2] @ first[0]

    difference = (signed_alignment(step) - signed_alignment(-step)) / (2 * step)
    computed = alignment_rate(lower, upper, gradient)
    np.testing.assert_allclose(computed, difference, atol=1e-6)
    assert np.abs(-computed - difference).max() > 0.1


def test_alignment_over_time_keeps_the_identity_from_a_balanced_start():
    rng = np.random.default_rng(0)
    vectors, values = turned(rng, 4), np.array([0.8, 0.6, 0.4, 0.2])
    drive = vectors * np.array([2.0, 1.5, 1.0, 0.5]) @ vectors.T
    start = aligned_layers(rng, vectors, [values, values])
    flow = integrate(fixed_velocity((drive + drive.T) / 2), start, np.linspace(0, 0.3, 4))
    over_time = alignment(*flow.weights)
    assert over_time.shape == (4, 4, 4)
    np.testing.assert_allclose(over_time, np.broadcast_to(np.eye(4), over_time.shape), atol=1e-6)
    np.testing.assert_allclose(relative_imbalance(flow.weights), 0, atol=1e-8)


def test_growth_lowers_the_relative_imbalance_while_the_absolute_stays():
    _, weights = layers(2, 2)
    flow = integrate(fixed_velocity(np.eye(4)), weights, np.linspace(0, 10, 200))
    assert flow.diverged_at is not None
    relative = relative_imbalance(flow.weights)[:, 0]
    assert relative[-1] < 0.5 * relative[0]


def test_within_block_share_forgives_turns_within_equal_values_only():
    rng = np.random.default_rng(1)
    aligned = np.eye(5)
    aligned[:3, :3] = turned(rng, 3)
    assert within_block_share(aligned, np.array([1.0, 0.99, 0.98, 0.3, 0.1])) == pytest.approx(1)
    strict = within_block_share(aligned, np.array([5.0, 4.0, 3.0, 2.0, 1.0]))
    assert strict == pytest.approx((np.diag(aligned) ** 2).mean())
    assert within_block_share(turned(rng, 5), np.ones(5)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: product(()), ["1 layer"]),
        (lambda: product((np.ones((2, 3)), np.ones((2, 3)))), [1, "width 2", "layer 2", 3]),
        (
            lambda: rectified((np.ones((2, 3)), np.ones((2, 3))), np.ones((1, 3))),
            [1, "width 2", "layer 2", 3],
        ),
        (lambda: fixed_velocity(np.triu(np.ones((2, 2)))), ["X", "symmetric", 1]),
        (lambda: relative_imbalance((np.zeros((2, 2)), np.eye(2))), ["zero", "`imbalance`"]),
        (lambda: within_block_share(np.eye(2), np.array([1.0, 2.0])), ["descend", "[1.0, 2.0]"]),
        (lambda: singular_rates(np.eye(2), np.eye(2)), ["differ", "[1.0, 1.0]"]),
        (lambda: singular_rates(np.ones((2, 3)), np.ones((2, 3))), ["square", (2, 3)]),
        (lambda: divergence_time(np.ones(1), np.ones(1), 0), ["depth", 1, 0]),
        (lambda: divergence_time(-np.ones(1), np.ones(1), 2), [0, "smallest is -1"]),
        (lambda: balanced_values(np.ones(1), np.ones(1), 2, np.array([0.6])), ["t = 0.5", "t = 0.6"]),
        (lambda: two_layer_values(-np.ones(1), np.ones(1), np.ones(1), np.zeros(1)), [0, "smallest is -1"]),
    ],
)
def test_wrong_input_is_named(call, parts):
    with refuses(UsageError, *parts):
        call()
