import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses

from fullrank.errors import DataError, UsageError
from fullrank.spectrum import (
    alignment,
    mean_cosine,
    principal_angles,
    rogue_dimensions,
    uniformity,
    unit_rows,
    view_gap,
)


def normal(n, d, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_unit_rows_leave_a_zero_row_at_zero():
    rows = unit_rows(torch.tensor([[0, 0], [3, -4]]))
    assert rows.tolist() == [[0.0, 0.0], [0.6, -0.8]]


@settings(max_examples=15, deadline=None)
@given(alpha=st.floats(0.5, 3), seed=st.integers(0, 20))
def test_alignment_against_cosines(alpha, seed):
    a, b = normal(20, 4, seed), normal(20, 4, seed + 100)
    cosine = torch.nn.functional.cosine_similarity(a, b)
    expected = (2 - 2 * cosine).pow(alpha / 2).mean()  # the law of cosines
    assert alignment(a, b, alpha) == pytest.approx(float(expected), rel=1e-9)
    assert alignment(3 * a, b, alpha) == pytest.approx(alignment(b, a, alpha))


def test_alignment_has_its_bounds():
    a = normal(10, 3)
    assert alignment(a, a) == 0.0 and alignment(a, -a) == pytest.approx(4.0)


def test_uniformity_against_pairwise_distances():
    x = normal(700, 5)
    distances = torch.pdist(x / x.norm(dim=1, keepdim=True))
    expected = distances.square().mul(-2).exp().mean().log()
    assert uniformity(x) == pytest.approx(float(expected), rel=1e-9)
    assert uniformity(7 * x, t=3.0) < uniformity(x)


def test_uniformity_of_known_shapes():
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0.0, abs=1e-12)
    assert uniformity(normal(1000, 512)) == pytest.approx(-4.0, abs=0.05)  # nearly all pairs at a right angle
    assert uniformity(torch.tensor([[1.0], [-1.0]]), t=1e4) == pytest.approx(-4e4)  # underflows nowhere


def test_uniformity_draws_a_seeded_sample():
    x = normal(300, 4)
    assert uniformity(x, sample=300) == uniformity(x)
    assert uniformity(x, sample=100) == uniformity(x, sample=100, seed=0) != uniformity(x, sample=100, seed=1)
    assert uniformity(x, sample=250) == pytest.approx(uniformity(x), rel=0.1)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(2, 30), mean=st.floats(-10, 10))
def test_mean_cosine_against_all_pairs(n, mean):
    x = normal(n, 4, n) + mean
    pairs = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1)
    expected = pairs[~torch.eye(n, dtype=torch.bool)].mean()
    assert mean_cosine(x) == pytest.approx(float(expected), abs=1e-12)


def test_mean_cosine_has_its_bounds():
    assert mean_cosine(torch.ones(9, 3)) == pytest.approx(1.0)
    simplex = torch.eye(4) - 0.25
    assert mean_cosine(simplex) == pytest.approx(-1 / 3)
    assert mean_cosine(torch.zeros(3, 2)) == 0.0


@settings(max_examples=15, deadline=None)
@given(k=st.integers(1, 4), m=st.integers(1, 4), seed=st.integers(0, 50))
def test_principal_angles_against_scipy(k, m, seed):
    a, b = normal(6, k, seed), normal(6, m, seed + 1000)
    expected = scipy.linalg.subspace_angles(a.numpy(), b.numpy())[::-1]
    angles = principal_angles(a, b)
    np.testing.assert_allclose(angles, expected, atol=1e-7)  # SciPy takes some angles of 0 from their cosine
    assert (angles < 1e-14).sum() == max(k + m - 6, 0)  # what two such spaces must share
    rotation = torch.linalg.qr(normal(6, 6, seed)).Q
    np.testing.assert_allclose(principal_angles(rotation @ b, rotation @ a * 5), expected, atol=1e-7)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-5, 0.7, math.pi / 2 - 1e-12, math.pi / 2])
def test_a_known_angle_is_exact_at_both_ends(angle):
    a = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    b = torch.tensor([[math.cos(angle)], [math.sin(angle)]], dtype=torch.float64)
    assert principal_angles(a, b).item() == pytest.approx(angle, rel=1e-12, abs=1e-15)


def test_dependent_columns_add_no_angle():
    a = torch.eye(5)[:, :3]
    assert len(principal_angles(torch.cat([a, a @ torch.randn(3, 4)], 1), a)) == 3
    with refuses(DataError, "(5, 2)", "zero"):
        principal_angles(a, torch.zeros(5, 2))


def test_rogue_dimensions_by_hand_and_their_sums():
    x = normal(200, 6)
    x[:, 2] = 50 + 0.01 * x[:, 2]
    x[:, 4] *= 20
    rogue = rogue_dimensions(x)
    variances = np.var(x.numpy(), axis=0)
    np.testing.assert_allclose(rogue.variance, variances / variances.sum(), rtol=1e-9)
    assert int(rogue.variance.argmax()) == 4 and int(rogue.cosine.argmax()) == 2
    assert float(rogue.cosine.sum()) == pytest.approx(mean_cosine(x))


def test_rogue_dimensions_of_a_large_mean_and_of_constants():
    x = normal(500, 3)
    np.testing.assert_allclose(rogue_dimensions(x + 1e7).variance, rogue_dimensions(x).variance, rtol=1e-6)
    assert rogue_dimensions(torch.ones(4, 3)).variance.tolist() == [0.0] * 3


def test_what_does_not_fit_raises():
    with refuses(UsageError, (2, 3), (3, 3)):
        alignment(torch.ones(2, 3), torch.ones(3, 3))
    with refuses(UsageError, "alpha", 0.0):
        alignment(torch.ones(2, 3), torch.ones(2, 3), alpha=0.0)
    with refuses(DataError, "Alignment", 1, 0):
        alignment(torch.ones(0, 3), torch.ones(0, 3))
    with refuses(UsageError, "t", "nan"):
        uniformity(torch.eye(3), t=math.nan)
    with refuses(UsageError, "sample", 2, 1):
        uniformity(torch.eye(3), sample=1)
    for measure in (uniformity, mean_cosine, rogue_dimensions):
        with refuses(DataError, 2, 1):
            measure(torch.ones(1, 3))
        with refuses(DataError, "1 of 2", "NaN"):
            measure(torch.tensor([[1.0], [math.inf]]))
    with refuses(UsageError, 2, 3):
        principal_angles(torch.ones(2, 1), torch.ones(3, 1))


def cones(distance, rows=80, width=6, seed=0):
    """Two views that agree up to noise, the second moved along one axis."""
    a = normal(rows, width, seed)
    b = a + 0.2 * normal(rows, width, seed + 1)
    return a, b + distance * torch.eye(width, dtype=a.dtype)[0]


def test_view_gap_against_plain_numpy():
    a, b = cones(2.0)
    gap = view_gap(a, b)
    u, v = ((x / x.norm(dim=1, keepdim=True)).numpy() for x in (a, b))
    spread = np.sqrt((u.var(axis=0).sum() + v.var(axis=0).sum()) / 2)
    assert gap.distance == pytest.approx(np.linalg.norm(u.mean(0) - v.mean(0)) / spread)
    for found, (x, y) in ((gap.recall, (u, v)), (gap.centred_recall, (u - u.mean(0), v - v.mean(0)))):
        cosines = np.corrcoef(np.hstack([x, -x]), np.hstack([y, -y]))[: len(x), len(x) :]  # mean 0
        hits = [(cosines.argmax(axis) == np.arange(len(x))).mean() for axis in (0, 1)]
        assert found == pytest.approx(np.mean(hits))


def test_view_gap_grows_with_the_distance_and_is_near_zero_for_views_of_one_encoder():
    distances = [view_gap(*cones(distance)).distance for distance in (0, 1, 3, 10, 100)]
    assert distances[0] < 0.05 and distances == sorted(distances) and distances[-1] > 1.4
    assert view_gap(torch.ones(5, 3), torch.ones(5, 3)).distance == 0
    assert view_gap(torch.ones(5, 3), -torch.ones(5, 3)).distance == math.inf


def test_view_gap_depends_neither_on_order_nor_axes_nor_the_unit_of_a_side():
    a, b = cones(2.0)
    gap, turn = view_gap(a, b), torch.linalg.qr(normal(6, 6, 8)).Q
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(1))
    for other in (view_gap(a[order], b[order]), view_gap(a @ turn, 50 * b @ turn), view_gap(b, a)):
        assert other.distance == pytest.approx(gap.distance)
        assert (other.recall, other.centred_recall) == (gap.recall, gap.centred_recall)


def test_view_gap_of_rows_that_do_not_belong_together_finds_no_pair():
    a, b = cones(0.0)
    assert view_gap(a, b).recall > 0.9 and view_gap(a, b.roll(1, 0)).recall < 0.1
    assert view_gap(torch.ones(80, 6), torch.ones(80, 6)).recall == 0  # ties


def test_view_gap_draws_pairs_and_refuses_what_is_none():
    a, b = cones(1.0)
    assert [len(side) for side in view_gap(a, b, sample=30).rows] == [30, 30]
    assert view_gap(a, b, sample=30).recall >= view_gap(a, b).recall
    with refuses(UsageError, "(80, 6)", "(80, 5)"):
        view_gap(a, b[:, :5])
    with refuses(DataError, 2, 1):
        view_gap(a[:1], b[:1])
