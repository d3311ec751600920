import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from fullrank.errors import DataError
from fullrank.spectrum import effective_rank, singular_values


@given(n=st.integers(2, 40), d=st.integers(1, 12), seed=st.integers(0, 99))
def test_singular_values_against_numpys_svd_of_the_centred_features(n, d, seed):
    x = np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1) + 100
    values = singular_values(torch.from_numpy(x)).numpy()
    expected = np.zeros(d)
    svd = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2 / n
    expected[: len(svd)] = svd
    np.testing.assert_allclose(values, expected, rtol=1e-8, atol=1e-9 * expected[0])


def test_collapsed_features_have_a_spectrum_of_zeros():
    values = singular_values(torch.ones(10, 4))
    assert values.tolist() == [0.0] * 4 and effective_rank(values) == 0.0


@pytest.mark.parametrize(("values", "rank"), [([1.0], 1), ([4.0, 4.0, 0.0], 2), ([1.0] * 7, 7)])
def test_effective_rank_of_equal_values_counts_them(values, rank):
    assert effective_rank(torch.tensor(values)) == pytest.approx(rank)


def test_effective_rank_by_hand():
    p = np.array([3.0, 1.0]) / 4
    assert effective_rank(torch.tensor([9.0, 1.0])) == pytest.approx(math.exp(-(p * np.log(p)).sum()))


def test_features_that_are_not_finite_raise():
    with pytest.raises(DataError, match="NaN or infinity"):
        singular_values(torch.tensor([[1.0, math.nan]]))
