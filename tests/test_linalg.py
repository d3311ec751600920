import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses

from fullrank import linalg
from fullrank.errors import DataError, UsageError
from fullrank.linalg import Gram, Moments, inner_products, row_blocks, row_coordinates, second_moments


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 60), offset=st.floats(-1e6, 1e6))
def test_merging_two_parts_equals_the_whole(cut, offset):
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(cut), dtype=torch.float64) + offset
    merged = Moments.of(x[:cut]).merge(Moments.of(x[cut:]))
    assert merged.count == 60
    torch.testing.assert_close(merged.mean, x.mean(0))
    torch.testing.assert_close(
        merged.covariance, torch.cov(x.T, correction=0), rtol=1e-6, atol=1e-9 * (1 + abs(offset))
    )


def test_small_variance_on_a_large_mean_is_not_lost():
    x = torch.randn(1000, 3, dtype=torch.float64) * 1e-3 + 1e4
    covariance = Moments.of(x[:500]).merge(Moments.of(x[500:])).covariance
    torch.testing.assert_close(covariance.diagonal(), x.var(0, correction=0), rtol=1e-6, atol=0)


def test_blocks_of_one_matrix_add_up_and_change_nothing(monkeypatch):
    monkeypatch.setattr(linalg, "_BLOCK", 64)
    x = torch.randn(100, 8, dtype=torch.float64) + 1e3
    before = x.clone()
    moments = Moments.of(x)
    assert [len(block) for block in row_blocks(x)] == [8] * 12 + [4]
    assert torch.equal(x, before)
    torch.testing.assert_close(moments.covariance, torch.cov(x.T, correction=0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.uint8])
def test_any_real_type_is_taken_at_its_exact_value(dtype):
    x = (torch.rand(50, 3) * 200).to(dtype)
    expected = np.cov(x.double().numpy().T, bias=True)
    np.testing.assert_allclose(Moments.of(x).covariance, expected, rtol=1e-10)


def test_two_empty_sets_are_empty():
    empty = Moments.empty(3).merge(Moments.of(torch.zeros(0, 3)))
    assert empty.count == 0 and not empty.mean.any() and not empty.scatter.any()
    for spectrum in (empty.singular_values, empty.matrix_singular_values):
        with refuses(DataError, 1):
            spectrum()


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 20), d=st.integers(1, 12), mean=st.sampled_from([0.0, 3.0, 1000.0]))
def test_singular_values_of_the_matrix_against_numpys_svd(n, d, mean):
    x = np.random.default_rng(n * 100 + d).normal(size=(n, d)) + mean
    expected = np.linalg.svd(x, compute_uv=False)
    values = Moments.of(torch.from_numpy(x)).matrix_singular_values()
    assert len(values) == min(n, d)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6 * expected[0])


def test_rows_that_are_not_finite_are_counted_and_located(monkeypatch):
    monkeypatch.setattr(linalg, "_BLOCK", 8)
    x = torch.zeros(20, 4, dtype=torch.float16)
    x[7, 0], x[7, 1], x[12, 3], x[19, 2] = math.inf, -math.inf, math.nan, math.inf
    with refuses(DataError, "3 of 20", "NaN", "row 7", "(from 0)"):
        Moments.of(x)


def test_finite_numbers_whose_sum_overflows_are_no_error():
    assert sum(map(len, row_blocks(torch.full((4, 2), 1e308, dtype=torch.float64)))) == 4


@pytest.mark.parametrize(
    "features",
    [torch.zeros(3), torch.zeros(2, 3, 4), torch.zeros(3, 0), torch.zeros(2, 2, dtype=torch.cfloat)],
)
def test_what_is_no_matrix_of_features_raises(features):
    with refuses(UsageError, "(N, D)", tuple(features.shape), features.dtype, "pool", "flatten"):
        Moments.of(features)


def test_widths_that_differ_do_not_merge():
    with refuses(UsageError, 3, 4):
        Moments.empty(3).merge(Moments.empty(4))


@pytest.mark.parametrize(("rows", "width"), [(1, 3), (5, 6), (7, 900)])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_inner_products_have_the_spectra_of_the_covariance(rows, width, offset, monkeypatch):
    monkeypatch.setattr(linalg, "_BLOCK", 64)  # several blocks of channels
    x = torch.from_numpy(np.random.default_rng(width).normal(size=(rows, width)) + offset)
    gram, variances = Gram.of(x), x.var(0, correction=0)
    values = np.linalg.svd((x - x.mean(0)).numpy() / rows**0.5, compute_uv=False) ** 2
    own = gram.singular_values().numpy()
    assert own.shape == (width,) and not own[rows:].any()
    np.testing.assert_allclose(own[: rows - 1], values[: rows - 1], rtol=1e-7)
    expected = np.linalg.svd(x.numpy(), compute_uv=False)
    np.testing.assert_allclose(gram.matrix_singular_values(), expected, atol=1e-7 * expected[0])
    np.testing.assert_allclose(gram.variances, variances, rtol=1e-9, atol=1e-12)


def test_the_smaller_matrix_is_taken_and_bad_rows_are_named():
    assert isinstance(second_moments(torch.randn(4, 9)), Gram)
    assert isinstance(second_moments(torch.randn(9, 9)), Moments)
    with refuses(DataError, "1 of 3", "row 2"):
        second_moments(torch.tensor([[1.0] * 5, [2.0] * 5, [math.nan] * 5]))


def test_rows_in_a_basis_of_their_span_keep_angles_and_distances(monkeypatch):
    monkeypatch.setattr(linalg, "_BLOCK", 64)
    x = torch.randn(6, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    x[5] = x[4] * (1 + 1e-9)  # nearly the same direction, which a Gram would lose
    compact = row_coordinates(x)
    assert compact.shape == (6, 6)
    torch.testing.assert_close(torch.cdist(compact, compact), torch.cdist(x, x))
    torch.testing.assert_close(compact @ compact.T, x @ x.T)
    apart, expected = (compact[5] - compact[4]).norm(), (x[5] - x[4]).norm()
    assert abs(float(apart / expected) - 1) < 1e-5
    narrow = torch.randn(9, 4)
    assert row_coordinates(narrow) is narrow


@pytest.mark.parametrize("width", [1, 128, 129, 300])
def test_inner_products_are_those_of_numpy(width):
    x = torch.randn(40, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    products = inner_products(x)
    np.testing.assert_allclose(products, np.einsum("ni,nj->ij", x, x), atol=1e-12)
