import torch
from hypothesis import given, strategies as st

from fullrank.linalg import Moments


@given(cut=st.integers(1, 59), offset=st.floats(-1e6, 1e6))
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
