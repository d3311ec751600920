"""The oracles against closed forms, and each of two derivations against the other."""

import math
from fractions import Fraction

import numpy as np
import pytest
from oracles import attention, classes, corrections, redundancy, segmentation


def rows(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_principal_directions_are_those_of_a_rotated_diagonal_covariance():
    rotation = np.linalg.qr(rows(3, 3))[0]
    cube = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], dtype=float)
    variances, directions = redundancy.principal_directions(cube * [3, 1, 2] @ rotation + 5)
    np.testing.assert_allclose(variances, [9, 4, 1], rtol=1e-12)
    np.testing.assert_allclose(np.abs(rotation[[0, 2, 1]] @ directions), np.eye(3), atol=1e-12)


def test_the_least_direction_holds_a_class_that_the_principal_one_misses():
    features = np.array([[3.0, 1], [3, -1], [-3, 1], [-3, -1]])
    labels = np.array([0, 1, 0, 1])
    shares = {}
    for kind in ("principal", "least"):
        train = redundancy.projected(features, features, kind, 1)
        predicted = redundancy.nearest_mean(train, labels, train)
        shares[kind] = redundancy.accuracies(predicted, labels)
    assert shares["least"] == (1, 1)
    assert shares["principal"][0] == Fraction(1, 2)


def test_worst_class_of_a_perfect_and_of_a_constant_rule():
    labels = np.array([0, 0, 0, 1, -1])
    assert redundancy.accuracies(np.zeros(5, dtype=int), labels) == (Fraction(3, 4), 0)
    assert redundancy.accuracies(labels, labels) == (1, 1)


def test_extremes_never_overlap_and_are_two_of_ten_and_five_of_a_hundred():
    sizes = [classes.extremes(count) for count in range(1, 200)]
    assert all(m >= 1 and (2 * m <= count or count == 1) for count, m in enumerate(sizes, 1))
    assert (sizes[9], sizes[99]) == (2, 5)


def test_classes_of_a_constant_rule():
    predicted, labels = [1] * 6, [0, 1, 1, 2, 2, 2]
    assert classes.accuracy(predicted, labels) == {0: 0, 1: 1, 2: 0}
    assert classes.bias(predicted, labels) == {0: 0, 1: 3, 2: 0}
    assert classes.false_positives(predicted, labels) == {0: 0, 1: 4, 2: 0}
    assert classes.spread({0: 0.0, 1: 1.0, 2: 0.0}) == pytest.approx(math.sqrt(2) / 3, rel=1e-15)


def test_spearman_is_one_for_any_rising_function_and_pearson_for_lines_only():
    one = {c: c / 7 for c in range(7)}
    assert classes.agreement(one, {c: share**5 for c, share in one.items()}) == pytest.approx(1, rel=1e-15)
    assert classes.agreement(one, {c: -share for c, share in one.items()}) == pytest.approx(-1, rel=1e-15)
    assert classes.agreement(one, {0: 0.1, 1: 0.2}) is None


def test_mmd_of_two_far_pairs_of_equal_rows():
    features = np.array([[0.0], [0.0], [1.0], [1.0]])
    found = corrections.within_class_mmd(features, np.zeros(4), np.array([0, 0, 1, 1]))
    # The distances are 0, 1, 1, 1, 1, 0, so the median is 1; both means within are 1.
    expected = 2 - 2 * sum(math.exp(-1 / (2 * s**2)) for s in (1, 2, 4, 8)) / 4
    assert found == pytest.approx(expected, rel=1e-14)


def test_mmd_has_mean_zero_where_the_values_are_drawn_from_one_distribution():
    draws = []
    for seed in range(60):
        features, values = rows(10, 2, seed=seed), np.array([0, 1] * 5)
        draws.append(corrections.within_class_mmd(features, np.zeros(10), values, median=1.5))
    assert abs(np.mean(draws)) < 3 * np.std(draws) / math.sqrt(60)
    assert min(draws) < 0


def test_mmd_gradient_of_two_far_pairs():
    features, values = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([0, 0, 1, 1])
    found = corrections.mmd_gradient(features, np.zeros(4), values)
    # d/dx of -2 * mean of 4 cross terms, two of which hold the row, at distance 1: x moves away, so minus.
    slope = -sum(math.exp(-1 / (2 * s**2)) / s**2 for s in (1, 2, 4, 8)) / 4
    np.testing.assert_allclose(found[:, 0], [slope, slope, -slope, -slope], rtol=1e-9)


def test_mmd_without_two_values_or_two_rows_is_zero():
    features = rows(5, 2)
    for values in ([0, 0, 0, 0, 0], [0, 1, 2, 3, 4], [-1, -1, 0, 0, 1]):
        assert corrections.within_class_mmd(features, np.zeros(5), np.array(values)) == 0


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize(("width", "count", "constant"), [(4, 40, 0), (9, 8, 0), (5, 30, 2)])
def test_leace_by_eigenvectors_and_by_lagrange_agree_and_erase(width, count, constant, within):
    features, cues = rows(count, width, seed=width), [np.arange(count) % 3, np.arange(count) // 2 % 2]
    features[:, :constant] = 7
    classes = np.arange(count) // 3 % 2 if within else None
    one, other = (of(features, cues, classes) for of in (corrections.leace, corrections.leace_by_lagrange))
    np.testing.assert_allclose(one[1], other[1], atol=1e-8)
    for each in (one, other):
        _, _, cross = corrections.moments(corrections.corrected_by(each, features), cues, classes)
        assert np.abs(cross).max() < 1e-9


def test_leace_on_white_features_is_the_projection_off_the_class_means():
    features = np.array([[a, b] for a in (-1.0, 1) for b in (-1.0, 1)])
    mean, matrix = corrections.leace(features, [np.array([0, 0, 1, 1])])
    np.testing.assert_allclose(mean, 0, atol=1e-15)
    np.testing.assert_allclose(matrix, np.diag([0, 1]), atol=1e-12)


def test_mean_differences_of_additive_cues_are_the_cues():
    # x = class + cue: whatever the sizes of the groups, the difference within classes is the cue's.
    labels, values = np.array([0, 0, 0, 1, 1, 1, 2]), np.array([0, 0, 1, 0, 1, 1, 0])
    features = np.array([[10.0 * y + 3 * v] for y, v in zip(labels, values, strict=True)])
    shifts = corrections.mean_differences(features, labels, values)
    assert {v: shift.item() for v, shift in shifts.items()} == {0: -1.5, 1: 1.5}


@pytest.mark.parametrize("count", range(1, 6))
def test_expected_best_of_subsets_equals_the_sum_over_order_statistics(count):
    values = np.random.default_rng(count).random(5)
    shares = [math.comb(i - 1, count - 1) / math.comb(5, count) for i in range(1, 6)]
    assert segmentation.expected_best(values, count) == pytest.approx(shares @ np.sort(values), rel=1e-14)


def test_jaccard_of_attention_on_the_object_alone_is_one():
    mask = np.zeros((1, 4, 4), dtype=int)
    mask[0, :2, :2] = 7
    maps = np.full((1, 2, 2, 2), 0.0)
    maps[0, :, 0, 0] = 1
    maps[0, 1, 1, 1] = 9
    np.testing.assert_array_equal(segmentation.jaccard(maps, mask), [1])
    np.testing.assert_array_equal(segmentation.jaccard(maps, mask, heads=1), [0.5])
    assert np.isnan(segmentation.jaccard(maps, 0 * mask)).all()


def test_permuted_control_by_permutations_and_by_sets_agree():
    maps = np.random.default_rng(0).random((2, 2, 2))
    mask = np.array([[1, 1, 0, 2], [1, 1, 0, 255], [0, 0, 0, 0], [2, 2, 0, 0]])
    for heads in (1, 2):
        one, other = (
            of(maps, mask, 0.6, heads)
            for of in (segmentation.permuted_by_enumeration, segmentation.permuted_by_sets)
        )
        assert one == pytest.approx(other, rel=1e-13)


def test_foreground_share_of_an_even_gradient_is_the_share_of_the_area():
    masks = np.zeros((1, 4, 5), dtype=int)
    masks[0, 0] = 3
    masks[0, 1, :2] = 255
    np.testing.assert_allclose(segmentation.foreground_share(np.ones((2, 1, 3, 4, 5)), masks), 5 / 18)
    np.testing.assert_allclose(segmentation.area_share(masks), 5 / 18)


def test_attention_is_even_where_queries_are_zero_and_follows_the_equal_key_else():
    tokens = np.array([[1.0, 0], [0, 1], [1, 0]])
    even, outputs = attention.attended(tokens, np.vstack([np.zeros((4, 2)), np.eye(2)]), np.zeros(6), heads=2)
    np.testing.assert_allclose(even, 1 / 3)
    np.testing.assert_allclose(outputs, np.tile([2 / 3, 1 / 3], (3, 1)))
    maps, _ = attention.attended(tokens, np.vstack([np.eye(2), np.eye(2), np.eye(2)]), np.zeros(6), heads=1)
    power = math.exp(1 / math.sqrt(2))
    np.testing.assert_allclose(maps[0, 0], np.array([power, 1, power]) / (2 * power + 1))
