import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses

from fullrank import linalg
from fullrank.errors import DataError, UsageError
from fullrank.linalg import Moments, row_blocks


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
