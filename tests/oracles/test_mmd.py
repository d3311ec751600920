"""The discrepancy within classes against the oracle, which goes through pairs of rows one by one."""

import numpy as np
import pytest
import torch
from oracles import corrections as oracle

from fullrank.mmd import within_class_mmd


def case(seed: int, count: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, classes and values, of which some are unknown, alone in their group, or equal to another row."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, 1 + seed % 4)) * 10.0 ** random.integers(-3, 4) + 100 * (seed % 3)
    features[random.integers(count)] = features[random.integers(count)]
    labels, values = [-1, 0, 0, 0, 0, 1, 1, 1, 1, 2], [-1, 0, 0, 0, 0, 5, 5, 5, 2, 2]
    return features, random.choice(labels, count), random.choice(values, count)


def measured(features: np.ndarray, labels: np.ndarray, values: np.ndarray) -> float:
    return within_class_mmd(*(torch.from_numpy(each) for each in (features, labels, values))).item()


@pytest.mark.parametrize("count", [2, 5, 12, 20])
def test_mmd_equals_the_loop_over_pairs(count):
    found = [measured(*case(seed, count)) for seed in range(20)]
    expected = [oracle.within_class_mmd(*case(seed, count)) for seed in range(20)]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    assert count < 12 or np.count_nonzero(expected) > 10


def test_mmd_is_zero_where_no_value_can_be_compared():
    features = case(0)[0]
    for labels, values in (
        (np.zeros(12), np.zeros(12)),  # one value
        (np.arange(12) // 2, np.arange(12) % 2),  # one row a group
        (np.arange(12) // 6, np.arange(12) // 6),  # the value is the class
        (-np.ones(12), np.arange(12) % 2),
    ):
        assert measured(features, labels.astype(int), values.astype(int)) == 0


def test_mmd_of_rows_with_a_median_distance_of_zero_is_zero():
    features = np.zeros((6, 2))
    features[0] = 1
    labels, values = np.zeros(6, dtype=int), np.array([0, 0, 0, 1, 1, 1])
    assert oracle.within_class_mmd(features, labels, values) == 0
    assert measured(features, labels, values) == 0


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_mmd_gradient_is_the_slope_with_the_bandwidth_held(seed):
    features, labels, values = case(seed)
    leaf = torch.from_numpy(features).requires_grad_()
    within_class_mmd(leaf, torch.from_numpy(labels), torch.from_numpy(values)).backward()
    expected = oracle.mmd_gradient(features, labels, values)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-7, atol=1e-8 * np.abs(expected).max())


def test_mmd_gradient_without_a_comparison_is_zero():
    leaf = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    within_class_mmd(leaf, torch.zeros(4, dtype=torch.int64), torch.arange(4)).backward()
    assert not leaf.grad.any()
