"""Spread, mean and spectrum of features, where a spectrum breaks off, and the limits of that."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import assert_names, refuses

from fullrank.diagnosis.shape import Cut, LowRankLimits, Whitening, low_rank_of, measure
from fullrank.errors import UsageError
from fullrank.spectrum import live_dimensions


def gaussian(n=500, d=32, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_mean_and_spread_by_hand():
    shape = measure(torch.tensor([[3.0, 0.0], [5.0, 0.0]]))
    assert shape.mean_share == pytest.approx(16 / 17) and shape.spread == pytest.approx(math.sqrt(1 / 17))
    assert shape.dead == 1 and shape.eigenvalues.tolist() == pytest.approx([1.0])


@settings(max_examples=15, deadline=None)
@given(n=st.integers(4, 60), d=st.integers(2, 40), seed=st.integers(0, 99))
def test_the_spectrum_against_an_svd(n, d, seed):
    x = gaussian(n, d, seed).double()
    expected = torch.linalg.svdvals(x - x.mean(0))[: min(n - 1, d)] ** 2 / n
    torch.testing.assert_close(measure(x).eigenvalues, expected, rtol=1e-8, atol=1e-12)


def test_a_spectrum_that_fades_out_has_no_break_and_one_direction_needs_a_larger_one():
    fading = gaussian(1000, 200) * torch.exp(-0.15 * torch.arange(200))
    assert low_rank_of(measure(fading).eigenvalues) is None
    first = gaussian()
    first[:, 0] *= 7
    assert low_rank_of(measure(first).eigenvalues) is None
    first[:, 0] *= 10
    assert low_rank_of(measure(first).eigenvalues).rank == 1


def test_each_limit_of_a_low_rank_decides():
    values = torch.tensor([4.0] * 8 + [1.0] * 2)
    assert low_rank_of(values) is None
    cut = low_rank_of(values, LowRankLimits(gap=4, behind=0.1))
    assert (cut.rank, cut.ratio, cut.possible) == (8, 4, 10)
    assert cut.lost_share == pytest.approx(0.2) and cut.behind == pytest.approx(2 / 34)
    assert low_rank_of(values, LowRankLimits(gap=4, lost_share=0.25, behind=0.1)) is None
    assert low_rank_of(values, LowRankLimits(gap=4, behind=0.05)) is None
    first = torch.tensor([50.0] + [0.05] * 9)
    assert low_rank_of(first, LowRankLimits(single_gap=1001)) is None and low_rank_of(first).rank == 1


def test_limits_that_cannot_be_met_are_refused():
    with refuses(UsageError, "gap", 1, 0.5):
        LowRankLimits(gap=0.5)
    with refuses(UsageError, "single_gap", 1, "nan"):
        LowRankLimits(single_gap=float("nan"))
    with refuses(UsageError, "lost_share", 0, 1, "got 1"):
        LowRankLimits(lost_share=1)
    with refuses(UsageError, "behind", 0, "got 0"):
        LowRankLimits(behind=0)


def test_the_sentence_of_a_cut_speaks_of_the_break_and_not_of_live_dimensions():
    sentence = Cut(4, 1e6, 8).sentence("z")
    assert_names(sentence, "z", "1e+06", 4, 8)
    assert "live" not in sentence


def test_whitened_features_have_the_identity_as_covariance():
    x = gaussian(400, 6) @ gaussian(6, 6, 1) + 5
    white = Whitening.of(x)(x)
    torch.testing.assert_close(white.T @ white / 400, torch.eye(6, dtype=torch.float64))
    assert Whitening.of(gaussian(40, 32)).components == 10


def test_only_live_components_are_whitened():
    x = gaussian(400, 6).double() * torch.tensor([1, 1, 1, 1e-3, 1e-8, 0])
    assert Whitening.of(x).components == live_dimensions(x) == 4


def test_channels_that_do_not_vary_leave_no_spectrum():
    shape = measure(torch.full((5, 3), 2.0))
    assert (shape.dead, len(shape.eigenvalues), shape.spread) == (3, 0, 0)
