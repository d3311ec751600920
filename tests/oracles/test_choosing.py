"""Choosing without labels against oracles: loops over pairs of rows, permutations and normal integrals."""

import math

import numpy as np
import pytest
import torch
from oracles import choosing as oracle

from fullrank.spectrum import infonce_at_place, infonce_by_image, isotropy, self_cluster


def views(seed: int, count: int, width: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Two views of images whose channels have unlike sizes and a large mean."""
    random = np.random.default_rng(seed)
    sizes, mean = random.exponential(size=width), 5 * random.normal(size=width)
    images = random.normal(size=(count, width)) * sizes + mean
    return tuple(images + noise * random.normal(size=images.shape) for _ in range(2))


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(each)) for each in arrays]


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
@pytest.mark.parametrize(("count", "width", "noise"), [(2, 3, 0.1), (7, 1, 0.1), (12, 4, 0.3), (9, 30, 2.0)])
def test_infonce_equals_the_loop_over_pairs_of_images(count, width, noise, temperature):
    a, b = views(count, count, width, noise)
    expected = oracle.infonce_by_image(a, b, temperature)
    measured = infonce_by_image(*tensors(a, b), temperature=temperature).numpy()
    np.testing.assert_allclose(measured, expected, rtol=1e-9, atol=1e-11)
    mean = infonce_at_place(*tensors(a, b), temperature=temperature)
    assert mean == pytest.approx(expected.mean(), rel=1e-9)


def test_infonce_of_float32_views_is_that_of_their_float64_values():
    a, b = (each.astype(np.float32) for each in views(0, 12, 5, 0.1))
    expected = oracle.infonce_by_image(a.astype(np.float64), b.astype(np.float64), 0.2).mean()
    assert infonce_at_place(*tensors(a, b)) == pytest.approx(expected, rel=1e-9)


def test_infonce_of_more_images_than_a_block_equals_the_loop():
    a, b = views(1, 1100, 3, 0.2)
    joint = np.concatenate([a, b]).mean(0)
    x, y = ((each - joint) / np.linalg.norm(each - joint, axis=1, keepdims=True) for each in (a, b))
    logits = x @ y.T / 0.2
    both = [np.log(np.exp(each).sum(1)) - np.diag(each) for each in (logits, logits.T)]
    np.testing.assert_allclose(infonce_by_image(*tensors(a, b)).numpy(), np.mean(both, axis=0), rtol=1e-9)


@pytest.mark.parametrize(("count", "width"), [(3, 2), (10, 4), (15, 40)])
def test_self_cluster_equals_the_loop_over_pairs_of_rows(count, width):
    features = views(count, count, width, 0.0)[0]
    assert self_cluster(*tensors(features)) == pytest.approx(oracle.self_cluster(features), rel=1e-9)


def test_self_cluster_of_one_line_is_one_and_of_orthogonal_rows_is_below_zero():
    line = np.outer([1.0, -2.0, 3.0, 0.5], [1.0, 2.0, 2.0])
    assert self_cluster(*tensors(line)) == pytest.approx(1)
    # sum cos^2 = N = D: (0 - (D - 1)) / (D^2 - D - (D - 1)) = -1 / (D - 1).
    assert self_cluster(torch.eye(6, dtype=torch.float64)) == pytest.approx(-1 / 5)


@pytest.mark.parametrize(("count", "width"), [(3, 2), (40, 6), (8, 20), (5, 1)])
def test_isotropy_equals_the_traces_of_the_covariance(count, width):
    features = views(count, count, width, 0.0)[0]
    assert isotropy(*tensors(features)) == pytest.approx(oracle.isotropy(features), rel=1e-9)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_isotropy_of_equal_variances_is_the_share_of_directions(rank):
    random = np.random.default_rng(rank)
    turned = np.linalg.qr(random.normal(size=(8, 8)))[0][:rank]
    features = np.concatenate([np.eye(rank), -np.eye(rank)]) @ turned + 3
    assert isotropy(*tensors(features)) == pytest.approx(rank / 8, rel=1e-9)


@pytest.mark.parametrize(("count", "excess"), [(2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.sqrt(math.pi))])
def test_expected_excess_of_equal_truths_is_that_of_normal_order_statistics(count, excess):
    largest, owner = oracle.expected_maximum([90.0] * count, [2.0] * count)
    assert (largest, owner) == pytest.approx((90 + 2 * excess, 90), abs=1e-6)


def test_expected_excess_equals_the_mean_of_drawn_maxima():
    random = np.random.default_rng(0)
    truth, errors = np.array([90.0, 91.0, 93.0, 92.5]), np.array([1.0, 3.0, 0.5, 2.0])
    drawn = truth + errors * random.normal(size=(200_000, 4))
    found = drawn.max(1).mean(), truth[drawn.argmax(1)].mean()
    assert oracle.expected_maximum(truth, errors) == pytest.approx(found, abs=0.02)
