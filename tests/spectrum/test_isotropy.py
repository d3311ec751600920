"""Distances from a Gaussian: at their floors, at closed forms, and what changes nothing."""

import math

import pytest
import torch
from refusals import refuses

from fullrank import SIGRegLoss
from fullrank.errors import DataError, UsageError
from fullrank.spectrum import gaussian_distance, isotropy_distance


def normal(n, d, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_statistic_of_the_objective_on_the_same_rows():
    x = 1.4 * normal(60, 5) + 0.3
    penalty = SIGRegLoss(1.0, slices=256)(torch.stack([x, x]), generator=torch.Generator().manual_seed(3))
    assert gaussian_distance(x, seed=3).statistic == pytest.approx(float(penalty), rel=1e-12)


def test_gaussian_rows_are_at_the_floor_of_each_measure():
    for measure in (gaussian_distance, isotropy_distance):
        found = [measure(normal(150, 40, seed), seed=seed) for seed in range(30)]
        statistics = torch.tensor([each.statistic for each in found])
        error = float(statistics.std()) / len(found) ** 0.5
        assert float(statistics.mean()) == pytest.approx(found[0].floor, abs=4 * error + 0.01)
        assert abs(sum(each.excess for each in found) / len(found)) < 1e-3


@pytest.mark.parametrize("scale", [0.5, 0.9, 1.5])
def test_the_excess_of_a_wider_or_narrower_gaussian_is_an_integral(scale):
    t = torch.linspace(-3, 3, 4001, dtype=torch.float64)
    narrow, phi = torch.exp(-((scale * t) ** 2) / 2), torch.exp(-(t**2) / 2)
    expected = float(torch.trapezoid((narrow - phi) ** 2 * phi, t))
    assert gaussian_distance(scale * normal(8000, 6), sample=8000).excess == pytest.approx(
        expected, rel=0.1, abs=4e-4
    )
    assert abs(isotropy_distance(scale * normal(8000, 6), sample=8000).excess) < 4e-4


@pytest.mark.parametrize("rank", [2, 4, 8])
def test_a_missing_rank_is_seen_as_little_as_the_page_says(rank):
    d, n = 64, 2000
    x = math.sqrt(d / rank) * normal(n, rank) @ torch.linalg.qr(normal(d, rank, 1))[0].T
    expected = 0.241 * (1 - rank / d) / rank
    found = [isotropy_distance(x, 512, sample=n).excess, gaussian_distance(x, 512, sample=n).excess]
    # The formula is the first term of a series in the spread of the slices' variances.
    assert found == pytest.approx([expected] * 2, rel={2: 0.2, 4: 0.1, 8: 0.1}[rank])


def test_shift_scale_and_rotation_change_nothing_but_the_slices():
    x = normal(500, 6).sign() * normal(500, 6, 1) ** 2
    turn = torch.linalg.qr(normal(6, 6, 2))[0]
    assert isotropy_distance(7 * x + 3).excess == pytest.approx(isotropy_distance(x).excess, rel=1e-9)
    turned = isotropy_distance(x @ turn, 4096).excess
    assert turned == pytest.approx(isotropy_distance(x, 4096).excess, rel=0.05)
    assert gaussian_distance(x + 3).excess > 10 * gaussian_distance(x).excess


def test_clusters_and_unequal_variances_raise_it():
    x = normal(1000, 8)
    healthy = isotropy_distance(x).excess
    assert isotropy_distance(x + 4 * normal(3, 8)[torch.arange(1000) % 3]).excess > healthy + 0.02
    assert isotropy_distance(x * torch.tensor([10.0, *[1.0] * 7])).excess > healthy + 0.02


def test_equal_seeds_give_equal_values_and_large_inputs_are_sampled():
    x = normal(500, 6)
    assert isotropy_distance(x, sample=100) == isotropy_distance(x, sample=100)
    assert isotropy_distance(x, sample=100) != isotropy_distance(x, sample=100, seed=1)
    assert isotropy_distance(x, sample=100).rows == 100


def test_rows_that_do_not_vary_and_invalid_settings_raise():
    with refuses(DataError, 5):
        isotropy_distance(torch.ones(5, 3))
    for measure in (gaussian_distance, isotropy_distance):
        with refuses(UsageError, "slices", 1, 0):
            measure(normal(5, 3), 0)
        with refuses(DataError, 2, 1):
            measure(normal(1, 3))
        with refuses(DataError):
            measure(torch.full((5, 3), math.nan))
