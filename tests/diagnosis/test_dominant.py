"""Which channels or direction hold most variance, two groups along it, and what is left."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from fullrank.diagnosis import PlaceEvidence
from fullrank.diagnosis.dominant import along_first, largest_channels, smaller_group
from fullrank.linalg import second_moments


def gaussian(n=400, d=32, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def rotation(d=32):
    return torch.linalg.qr(gaussian(d, d, 9)).Q


def test_channels_before_the_largest_drop_are_the_few():
    variances = torch.tensor([1.0, 400, 1, 500, *[1.0] * 16])
    channels, share = largest_channels(variances, rows=1000)
    assert channels == (3, 1) and share == pytest.approx(900 / 918)
    assert largest_channels(torch.arange(1, 65) ** -2.0, rows=1000) == ((), 0)
    assert largest_channels(torch.tensor([30.0, 1.0]), rows=3) == ((), 0)  # three rows: by chance
    assert largest_channels(torch.zeros(4), rows=9) == ((), 0)


@pytest.mark.parametrize("n", [400, 20])
def test_positions_along_the_first_direction_against_an_svd(n):
    x = gaussian(n).double() * torch.tensor([9.0, *[1.0] * 31]) @ rotation().double() + 3
    expected = torch.linalg.svd(x - x.mean(0)).U[:, 0]
    along = along_first(x, second_moments(x))
    correlation = torch.corrcoef(torch.stack([expected, along]))[0, 1]
    assert abs(correlation) == pytest.approx(1, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 40), m=st.integers(2, 40), seed=st.integers(0, 99), far=st.floats(12, 1e6))
def test_two_groups_are_found_in_any_order_and_unit(n, m, seed, far):
    generator = torch.Generator().manual_seed(seed)
    values = torch.cat([torch.rand(n, generator=generator), far + torch.rand(m, generator=generator)])
    order = torch.randperm(n + m, generator=generator)
    small = set(range(n)) if n < m else set(range(n, n + m))
    got = set(order[smaller_group(7 - 0.3 * values[order].double())].tolist())
    assert got == small or (n == m and len(got) == n)


def test_one_group_is_none():
    assert not len(smaller_group(gaussian(5000, 1)[:, 0])) and not len(smaller_group(torch.rand(5000)))
    assert not len(smaller_group(torch.ones(5)))


def test_the_rest_of_a_channel_keeps_its_digits_and_a_direction_is_projected_out():
    x = gaussian()
    large = x * torch.tensor([1e7, *[1.0] * 31])
    dominant = PlaceEvidence("h", large).dominant
    assert dominant.channels == (0,) and dominant.possible == 31 and dominant.rest > 28
    turned = PlaceEvidence("h", x * torch.tensor([100.0, *[1.0] * 31]) @ rotation()).dominant
    assert turned.channels == () and turned.rest > 28
    line = gaussian(400, 1) @ gaussian(1, 32)
    assert PlaceEvidence("h", line).dominant.rest == 0


def test_few_rows_do_not_limit_the_rest():
    x = gaussian(12, 64) * torch.tensor([100.0, *[1.0] * 63])
    assert 20 < PlaceEvidence("h", x).dominant.rest < math.inf
