"""Stacked maps: balance, alignment by blocks, and what neither may depend on."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses

from fullrank.diagnosis import alignment_matrix, block_alignment, imbalance
from fullrank.diagnosis.stacked import product
from fullrank.errors import UsageError


def rotation(size, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


def aligned(values, seed, out=None):
    """Two maps that share singular values and the directions between them."""
    m = len(values)
    between, s = rotation(m, seed), torch.diag(torch.tensor(values, dtype=torch.float64))
    return between @ s @ rotation(m, seed + 1), rotation(out or m, seed + 2)[:, :m] @ s @ between.T


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), scale=st.floats(0.1, 10))
def test_aligned_maps_are_balanced_and_aligned(seed, scale):
    first, second = aligned([4.0, 2.0, 1.0, 0.5], seed)
    assert imbalance(scale * first, scale * second) < 1e-10
    torch.testing.assert_close(alignment_matrix(first, second), torch.eye(4, dtype=torch.float64))
    for rank in (1, 2, 3):
        assert block_alignment(first, second, rank) == pytest.approx(1)


def test_nearly_equal_singular_values_spoil_the_diagonal_and_not_the_blocks():
    first, second = aligned([1.0, 1.0, 1.0, 1e-3, 1e-3, 1e-3], 5)
    # The same maps but for the seventh digit: the vectors within a block turn freely.
    first = first + 1e-7 * rotation(6, 9)
    assert alignment_matrix(first, second).diagonal().mean() < 0.9
    assert block_alignment(first, second, 3) == pytest.approx(1, abs=1e-3)


def test_unrelated_maps_are_at_chance():
    values = []
    scales = torch.diag(torch.arange(12, 0, -1.0).double())
    for seed in range(30):
        first, second = rotation(12, seed) @ scales, scales @ rotation(12, seed + 99)
        values.append(block_alignment(first, second, 5))
    assert abs(sum(values) / 30) < 0.1


def test_imbalance_by_hand_and_against_gradient_flow():
    assert imbalance(torch.eye(2), 2 * torch.eye(2)) == pytest.approx(3)
    # Euler steps of any loss of W2 W1 conserve W1 W1' - W2' W2 to first order: half the step, half the drift.
    drift = []
    for steps in (100, 200):
        w1, w2 = rotation(4, 0) / 2, rotation(4, 1) / 3
        target = torch.diag(torch.arange(4.0)).double()
        start = w1 @ w1.T - w2.T @ w2
        for _ in range(steps):
            g = w2 @ w1 - target
            w1, w2 = w1 - w2.T @ g / steps, w2 - g @ w1.T / steps
        drift.append(float((w1 @ w1.T - w2.T @ w2 - start).norm()))
    assert drift[1] == pytest.approx(drift[0] / 2, rel=0.2)


def test_rectangular_maps():
    first, second = torch.randn(6, 9), torch.randn(3, 6)
    assert alignment_matrix(first, second).shape == (6, 6)
    torch.testing.assert_close(product([first, second]), (second @ first).double(), rtol=1e-5, atol=1e-5)


def test_maps_that_do_not_fit_are_refused():
    with refuses(UsageError, "(m, D)", "(K, m)", "(3, 4) and (3, 4)"):
        alignment_matrix(torch.ones(3, 4), torch.ones(3, 4))
    with refuses(UsageError, "rank", "1 to 2", "got 3"):
        block_alignment(torch.ones(3, 4), torch.ones(3, 3), 3)
    with refuses(UsageError, "zero"):
        imbalance(torch.zeros(3, 4), torch.ones(3, 3))
