"""Choosing without labels against oracles: loops over pairs of rows, permutations and normal integrals."""

import math

import numpy as np
import pytest
import torch
from oracles import choosing as oracle
from sklearn.metrics import normalized_mutual_info_score

from fullrank.choosing.judging import expected_best, rank_correlation
from fullrank.choosing.rule import relative_ranks, weighted_scores
from fullrank.probes import cluster_predictability
from fullrank.spectrum import (
    dime,
    infonce_at_place,
    infonce_by_image,
    isotropy_ratio,
    mst_dimension,
    self_cluster,
)


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
    assert isotropy_ratio(*tensors(features)) == pytest.approx(oracle.isotropy(features), rel=1e-9)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_isotropy_of_equal_variances_is_the_share_of_directions(rank):
    random = np.random.default_rng(rank)
    turned = np.linalg.qr(random.normal(size=(8, 8)))[0][:rank]
    features = np.concatenate([np.eye(rank), -np.eye(rank)]) @ turned + 3
    assert isotropy_ratio(*tensors(features)) == pytest.approx(rank / 8, rel=1e-9)


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


def gaussian_grams(a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    """The kernel exp(-|x - y|^2 / 2) of unit rows, after the joint mean of both views was subtracted."""
    mean = np.concatenate([a, b]).mean(0)
    units = ([oracle.unit(row - mean) for row in view] for view in (a, b))
    return [oracle.gram(rows, lambda x, y: math.exp(-math.fsum((x - y) ** 2) / 2)) for rows in units]


@pytest.mark.parametrize(("count", "width", "noise"), [(2, 3, 0.1), (4, 6, 0.3), (5, 2, 1.0)])
def test_dime_tends_to_the_mean_over_all_permutations(count, width, noise):
    a, b = views(count, count, width, noise)
    expected = oracle.dime(*gaussian_grams(a, b))
    assert dime(*tensors(a, b), draws=3000) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("penalty", [0.01, 0.1, 3.0])
@pytest.mark.parametrize(("count", "width", "few"), [(60, 5, 20), (40, 30, 12), (50, 1, 10)])
def test_cluster_predictability_equals_one_ridge_a_teacher_with_a_column_of_ones(count, width, few, penalty):
    random = np.random.default_rng(few)
    features = views(few, count, width, 0.0)[0]
    signs = features[:, 0] > np.median(features[:, 0])
    teachers = [random.integers(0, 4, count), signs.astype(int), np.zeros(count, int)]
    fit = random.permutation(count)[:few]
    rest = np.setdiff1d(np.arange(count), fit)
    weight = few * penalty * np.trace(oracle.covariance(features[fit])) / width
    expected = []
    for ids in teachers[:2]:
        predicted = oracle.ridge_predictions(features, ids, fit, weight)
        expected.append(oracle.above_majority(predicted[rest].tolist(), ids[rest].tolist()))
    measured = cluster_predictability(*tensors(features), teachers, fit, penalty)
    np.testing.assert_allclose(measured, [*expected, 0.0], rtol=1e-9, atol=1e-12)


# Boundaries make a small sample of many directions look flatter, so the tolerance grows with them.
@pytest.mark.parametrize(
    ("directions", "low", "high"), [(1, 0.95, 1.05), (2, 1.8, 2.3), (3, 2.5, 3.3), (5, 3.4, 5.3)]
)
def test_mst_dimension_of_a_cube_in_more_channels(directions, low, high):
    random = np.random.default_rng(directions)
    turned = np.linalg.qr(random.normal(size=(8, 8)))[0][:directions]
    rows = random.random((600, directions)) @ turned
    measured = mst_dimension(*tensors(rows))
    assert low < measured < high
    # Shift and scale change nothing. Rows that are there twice count once, but other subsets are drawn.
    assert mst_dimension(*tensors(rows * 7 + 3)) == pytest.approx(measured, rel=1e-6)
    assert low < mst_dimension(*tensors(np.concatenate([rows, rows]))) < high


def test_mst_dimension_is_near_that_of_trees_grown_one_row_at_a_time():
    random = np.random.default_rng(0)
    rows = random.random((400, 3))
    sizes = [50, 100, 200, 400]
    lengths = [np.mean([oracle.tree_length(random.permutation(rows)[:n]) for _ in range(2)]) for n in sizes]
    slope = np.polyfit(np.log(sizes), np.log(lengths), 1)[0]
    assert mst_dimension(*tensors(rows)) == pytest.approx(1 / (1 - slope), rel=0.15)


def test_ranks_among_candidates_share_ties_and_go_from_zero_to_one():
    random = np.random.default_rng(0)
    for count in (2, 3, 7, 20):
        values = random.integers(0, 6, count).astype(float)
        expected = oracle.ranks(values.tolist(), [True] * count)
        assert relative_ranks(values).tolist() == pytest.approx(expected)


def test_scores_are_the_weighted_mean_of_the_parts_that_were_measured():
    random = np.random.default_rng(1)
    ranks = {name: random.random(5) for name in ("a", "b")}
    weights = {"a": 2.0, "b": 0.5, "absent": 7.0}
    expected = [(2 * a + 0.5 * b) / 2.5 for a, b in zip(ranks["a"], ranks["b"], strict=True)]
    assert weighted_scores(ranks, weights).tolist() == pytest.approx(expected)


def test_rank_correlation_is_spearmans_with_ties():
    random = np.random.default_rng(2)
    for count in (3, 9, 30):
        one, other = random.integers(0, 5, count) + np.eye(count)[0], random.normal(size=count)
        assert rank_correlation(one, other) == pytest.approx(oracle.spearman(one, other))


def test_normalised_mutual_information_of_the_oracle_is_that_of_scikit_learn():
    random = np.random.default_rng(3)
    one, other = random.integers(0, 4, 50), random.integers(0, 3, 50)
    expected = normalized_mutual_info_score(one, other)
    assert oracle.mutual_information_share(one.tolist(), other.tolist()) == pytest.approx(expected)


def drawn_hits(truth: np.ndarray, images: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((len(truth), images)) < truth[:, None]


def test_expected_best_of_one_clear_leader_is_its_accuracy():
    truth = np.array([0.95, 0.7, 0.6, 0.5])
    found = [expected_best(drawn_hits(truth, 400, seed), samples=50) for seed in range(40)]
    error = math.sqrt(0.95 * 0.05 / 400 / 40)
    assert np.mean(found) == pytest.approx(0.95, abs=4 * error)


@pytest.mark.parametrize("count", [3, 12])
def test_expected_best_of_equal_candidates_removes_more_than_half_of_the_excess(count):
    truth, images = np.full(count, 0.8), 400
    every = [drawn_hits(truth, images, seed) for seed in range(40)]
    spread = math.sqrt(0.8 * 0.2 / images)
    largest, owner = oracle.expected_maximum(truth, [spread] * count)
    assert np.mean([hits.mean(1).max() for hits in every]) == pytest.approx(largest, abs=4 * spread / 40**0.5)
    left = np.mean([expected_best(hits, samples=50) for hits in every]) - 0.8
    assert abs(left) < 0.5 * (largest - owner)
