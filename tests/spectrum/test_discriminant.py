import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import assume, given, settings, strategies as st
from refusals import refuses

from fullrank.errors import DataError, UsageError
from fullrank.spectrum import discriminant, group_moments, lidar, lidar_of


def groups(n=12, q=4, d=5, seed=0, noise=0.5):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(n, 1, d, dtype=torch.float64, generator=generator)
    return centres + noise * torch.randn(n, q, d, dtype=torch.float64, generator=generator)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 50), n=st.integers(2, 15), q=st.integers(2, 5), unit=st.sampled_from([1.0, 1e-6, 1e6])
)
def test_against_scipys_generalised_eigenvalues(seed, n, q, unit):
    # Fewer offsets than dimensions leave delta alone in some: beside numbers of 1e12 it is below rounding.
    assume(unit <= 1 or n * (q - 1) >= 10)
    x = unit * groups(n, q, seed=seed).numpy()  # at 1e-6 the eigenvalues are no larger than epsilon
    centres = x.mean(1)
    between = np.cov(centres.T)
    within = sum((group - group.mean(0)).T @ (group - group.mean(0)) for group in x) / (n * (q - 1))
    values = scipy.linalg.eigh(between, within + 1e-4 * np.eye(5), eigvals_only=True).clip(0)
    p = (values + 1e-8) / (values + 1e-8).sum()
    assert lidar(torch.from_numpy(x)) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-6)


def test_views_that_move_a_direction_take_it_away():
    calm = groups(200, 4, noise=0.05)
    moved = calm.clone()
    moved[:, :, 0] += 300 * torch.randn(200, 4, dtype=torch.float64)
    assert lidar(calm) == pytest.approx(5, abs=0.2) and lidar(moved) == pytest.approx(4, abs=0.2)


def test_a_rotation_changes_nothing_and_neither_does_the_order_of_groups():
    x = groups()
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    assert lidar((x @ rotation).flip(0)) == pytest.approx(lidar(x), rel=1e-9)


def test_complete_collapse_has_rank_zero_not_full():
    assert lidar(torch.ones(6, 3, 4)) == 0.0


def test_groups_add_up_in_blocks_and_in_batches(monkeypatch):
    x = groups()
    whole_means, whole_within = group_moments(x)
    monkeypatch.setattr(discriminant, "_NUMBERS", 40)
    means, within = group_moments(x[:7])
    rest_means, rest_within = group_moments(x[7:])
    means, within = means.merge(rest_means), within + rest_within
    torch.testing.assert_close(within, whole_within)
    torch.testing.assert_close(means.scatter, whole_means.scatter)
    assert lidar_of(means, within, views=4) == pytest.approx(lidar(x), rel=1e-10)


def test_what_are_no_groups_raises():
    with refuses(UsageError, "(n, q, D)", (3, 4)):
        lidar(torch.zeros(3, 4))
    with refuses(DataError, "views", 2, 1):
        lidar(torch.zeros(3, 1, 4))
    with refuses(DataError, "images", 2, 1):
        lidar(torch.zeros(1, 3, 4))
    with refuses(UsageError, "delta", "eps", 0.0, 1e-8):
        lidar(groups(), delta=0.0)
    broken = groups()
    broken[1, 2, 0] = math.nan
    with refuses(DataError, "1 of 48", "row 6"):
        lidar(broken)
