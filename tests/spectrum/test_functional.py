import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses

from fullrank import spectrum
from fullrank.errors import DataError, UsageError
from fullrank.linalg import Moments
from fullrank.spectrum import (
    Gap,
    PowerLaw,
    alpha_req_of,
    effective_rank,
    effective_rank_of,
    largest_gap,
    largest_gap_of,
    live_dimensions,
    live_dimensions_of,
    matrix_singular_values,
    nesum_of,
    normalised_singular_values,
    participation_ratio_of,
    rankme,
    rankme_of,
    singular_values,
    stable_rank,
)

OF_SPECTRUM = (effective_rank_of, participation_ratio_of, nesum_of)
WINDOW = {"first": 1, "last": 4}
# Each measure: its settings in these tests, and what its twin takes beside the spectrum.
OF_COVARIANCE = {
    "effective_rank": ({}, ()),
    "participation_ratio": ({}, ()),
    "nesum": ({}, ()),
    "alpha_req": (WINDOW, ("rows",)),
    "live_dimensions": ({}, ("rows",)),
    "largest_gap": ({}, ("rows",)),
}
OF_MATRIX = {"rankme": ({}, ()), "stable_rank": ({}, ())}
MEASURES = OF_COVARIANCE | OF_MATRIX
SHAPES = pytest.mark.parametrize(("n", "d"), [(40, 6), (6, 6), (5, 12)])


def normal(n, d, seed=0):
    """Features (n, d) whose columns have deviations 1 to d."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1))


def from_numpys_svd(x):
    """Each measure of features (n, d) of full rank."""
    n, matrix = len(x), np.linalg.svd(x, compute_uv=False)
    roots = np.linalg.svd(x - x.mean(0), compute_uv=False)[: n - 1]
    values, ranks = roots**2, np.arange(1, 5)
    steps = -np.diff(np.log(values))
    slope = np.polyfit(np.log(ranks), np.log(values[:4]), 1, w=np.sqrt(1 / ranks))[0]
    p, q = roots / roots.sum(), matrix / matrix.sum() + 1e-7
    return {
        "effective_rank": math.exp(-(p * np.log(p)).sum()),
        "participation_ratio": values.sum() ** 2 / (values**2).sum(),
        "nesum": values.sum() / values[0],
        "alpha_req": (-slope, 1, 4),
        "live_dimensions": np.linalg.matrix_rank(np.diff(x, axis=0)),
        "largest_gap": (steps.argmax() + 1, math.exp(steps.max())),
        "rankme": math.exp(-(q * np.log(q)).sum()),
        "stable_rank": (matrix**2).sum() / matrix[0] ** 2,
    }


def plain(measured):
    """Numbers that pytest can compare."""
    if isinstance(measured, PowerLaw):
        return measured.alpha, measured.first, measured.last
    return (measured.index, measured.ratio) if isinstance(measured, Gap) else measured


@SHAPES
@pytest.mark.parametrize("mean", [0.0, 1e4])
@pytest.mark.parametrize("name", MEASURES)
def test_each_measure_of_features_against_numpys_svd(name, mean, n, d):
    x = (normal(n, d) + mean).float()  # at 1e4 float32 has steps of 1e-3
    measured = getattr(spectrum, name)(x, **MEASURES[name][0])
    assert plain(measured) == pytest.approx(from_numpys_svd(x.double().numpy())[name], rel=1e-5)


@SHAPES
@pytest.mark.parametrize("name", MEASURES)
def test_each_twin_has_of_the_spectrum_what_its_measure_has_of_the_features(name, n, d):
    x, (keywords, extra) = normal(n, d) + 3, MEASURES[name]
    values = singular_values(x) if name in OF_COVARIANCE else matrix_singular_values(x)
    twin = getattr(spectrum, f"{name}_of")(values, **keywords, **dict.fromkeys(extra, n))
    assert plain(twin) == pytest.approx(plain(getattr(spectrum, name)(x, **keywords)), rel=1e-12)


@pytest.mark.parametrize("name", OF_COVARIANCE)
def test_a_spectrum_in_place_of_features_warns_and_is_still_measured(name):
    values, keywords = singular_values(normal(40, 6)), OF_COVARIANCE[name][0]
    with pytest.warns(DeprecationWarning, match=rf"\b{name}_of\b") as caught:
        measured = getattr(spectrum, name)(values, **keywords)
    assert caught[0].filename == __file__
    assert measured == getattr(spectrum, f"{name}_of")(values, **keywords)


@SHAPES
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_n_rows_have_no_dimension_and_no_gap_beyond_n_minus_1(mean, n, d):
    x = (torch.randn(n, d, generator=torch.Generator().manual_seed(1)) + mean).float()
    most = min(n - 1, d)
    assert live_dimensions(x) == most == live_dimensions(x, tolerance=0.0)
    gap = largest_gap(x)
    assert gap.index < most and gap.ratio < 100
    if n <= d:  # without the number of rows the fall to rounding is a gap
        assert largest_gap_of(singular_values(x)).index == most


def test_two_rows_have_one_dimension_and_no_gap():
    assert largest_gap(torch.randn(2, 5)) == Gap(1, 1.0) and live_dimensions(torch.randn(2, 5)) == 1


@settings(max_examples=15, deadline=None)
@given(n=st.integers(2, 40), d=st.integers(1, 12), seed=st.integers(0, 99))
def test_singular_values_against_numpys_svd_of_the_centred_features(n, d, seed):
    x = normal(n, d, seed).numpy() + 100
    values = singular_values(torch.from_numpy(x)).numpy()
    expected = np.zeros(d)
    svd = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2 / n
    expected[: len(svd)] = svd
    np.testing.assert_allclose(values, expected, rtol=1e-8, atol=1e-9 * expected[0])


def test_normalised_singular_values_against_numpys_svd():
    x = normal(30, 5) + 2
    unit = (x / x.norm(dim=1, keepdim=True)).numpy()
    expected = np.linalg.svd(unit - unit.mean(0), compute_uv=False) ** 2 / 30
    values = normalised_singular_values(x)
    np.testing.assert_allclose(values, expected, rtol=1e-10)
    assert float(values.sum()) == pytest.approx(1 - np.linalg.norm(unit.mean(0)) ** 2)


@pytest.mark.parametrize("features", [torch.ones(10, 4), torch.randn(1, 4), torch.zeros(3, 4)])
def test_features_that_do_not_vary_have_a_spectrum_of_zeros(features):
    values = singular_values(features)
    assert values.tolist() == [0.0] * 4
    assert [measure(values) for measure in OF_SPECTRUM] == [0.0] * 3
    assert live_dimensions_of(values) == 0 and largest_gap_of(values) == Gap(0, 1.0)


@pytest.mark.parametrize(("values", "rank"), [([1.0], 1), ([4.0, 4.0, 0.0], 2), ([1.0] * 7, 7)])
def test_ranks_of_equal_values_count_them(values, rank):
    values = torch.tensor(values)
    assert [measure(values) for measure in OF_SPECTRUM] == pytest.approx([rank] * 3)
    assert live_dimensions_of(values) == rank


def test_effective_rank_by_hand():
    p = np.array([3.0, 1.0]) / 4
    assert effective_rank_of(torch.tensor([9.0, 1.0])) == pytest.approx(math.exp(-(p * np.log(p)).sum()))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20), st.floats(1e-9, 1e9))
def test_ranks_of_a_spectrum_lie_between_1_and_its_width_whatever_the_unit(values, unit):
    values = torch.tensor(values, dtype=torch.float64)
    for measure in (*OF_SPECTRUM, live_dimensions_of):
        assert 1 - 1e-9 <= measure(values) <= len(values) + 1e-9
        assert measure(values * unit) == pytest.approx(measure(values), rel=1e-9)
        assert measure(values.flip(0)) == pytest.approx(measure(values), rel=1e-9)
    assert participation_ratio_of(values) <= effective_rank_of(values) * (1 + 1e-9)


def test_a_power_law_of_exponent_two_has_known_limits():
    values = torch.arange(1, 200_001, dtype=torch.float64) ** -2
    assert nesum_of(values) == pytest.approx(math.pi**2 / 6, rel=1e-5)  # zeta(2)
    assert participation_ratio_of(values) == pytest.approx(
        (math.pi**2 / 6) ** 2 / (math.pi**4 / 90), rel=1e-5
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3))
def test_ranks_of_features_know_neither_axes_nor_unit_nor_order(seed, scale):
    x = normal(30, 6, seed) + 1
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator)).Q
    changed = (x @ rotation * scale)[torch.randperm(30, generator=generator)]
    for measure in (rankme, stable_rank, effective_rank):
        assert measure(changed) == pytest.approx(measure(x), rel=1e-9)
    torch.testing.assert_close(normalised_singular_values(changed), normalised_singular_values(x))


def test_epsilon_lifts_the_rankme_of_rank_one_as_measured():
    one = torch.outer(torch.arange(1.0, 5.0), torch.ones(2048)).T  # 2048 rows, so that 4 values stand
    assert rankme(one) == pytest.approx(1.0, abs=1e-5)
    values = torch.zeros(2048)
    values[0] = 5.0
    assert rankme_of(values) == pytest.approx(1.0033, abs=1e-4)  # 2047 eps ln(1 / eps), and -eps
    assert rankme_of(values, eps=0.0) == 1.0
    assert rankme_of(torch.zeros(3)) == 0.0


def test_a_strong_mean_lowers_the_uncentred_ranks_alone():
    x = normal(200, 5)
    x = x / x.std(0)
    for measure in (rankme, stable_rank):
        assert measure(x) > 4 and measure(x + 100) < 1.5
    assert effective_rank_of(singular_values(x + 100)) == pytest.approx(effective_rank_of(singular_values(x)))


@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize(("rank", "relative"), [(64, 1e-6), (6, 1e-4)])
def test_ranks_by_moments_agree_with_an_independent_svd(mean, rank, relative):
    rng = np.random.default_rng(rank)
    x = rng.normal(size=(3000, rank)) @ rng.normal(size=(rank, 64)) / math.sqrt(rank) + mean
    kinds = [x] if rank < 64 else [x, x.astype(np.float32)]
    for kind in kinds:
        exact = kind.astype(np.float64)
        centred = np.linalg.svd(exact - exact.mean(0), compute_uv=False)
        p = centred / centred.sum()
        entropy = -np.sum(p[p > 0] * np.log(p[p > 0]))
        moments = Moments.of(torch.from_numpy(kind))
        assert effective_rank_of(moments.singular_values()) == pytest.approx(np.exp(entropy), rel=relative)
        p = np.linalg.svd(exact, compute_uv=False)
        p = p / p.sum() + 1e-7
        expected = np.exp(-np.sum(p * np.log(p)))
        assert rankme_of(moments.matrix_singular_values()) == pytest.approx(expected, rel=relative)
        assert rankme(torch.from_numpy(kind)) == pytest.approx(expected, rel=1e-9)
        squares = centred**2
        values = moments.singular_values()
        assert participation_ratio_of(values) == pytest.approx(
            squares.sum() ** 2 / (squares**2).sum(), rel=relative
        )
        assert live_dimensions_of(values) == rank


def test_fewer_rows_than_dimensions_bound_every_rank():
    x = normal(8, 40)
    assert effective_rank(x) < 7.001
    assert len(matrix_singular_values(x)) == 8 and rankme(x) < 8.001


def test_half_precision_and_whole_numbers_are_taken_at_their_exact_value():
    x = normal(40, 5)
    for kind in (x.half(), x.bfloat16(), (x * 10).int()):
        assert rankme(kind) == rankme(kind.double()) and stable_rank(kind) == stable_rank(kind.double())


@settings(max_examples=15, deadline=None)
@given(alpha=st.floats(0, 4), first=st.integers(1, 10), scale=st.floats(1e-6, 1e6))
def test_alpha_of_an_exact_power_law_is_its_exponent(alpha, first, scale):
    fit = alpha_req_of(scale * torch.arange(1, 101, dtype=torch.float64) ** -alpha, first=first, last=60)
    assert fit.alpha == pytest.approx(alpha, abs=1e-9)
    assert (fit.first, fit.last) == (first, 60)


def test_alpha_against_numpys_weighted_fit():
    values = np.sort(np.random.default_rng(0).gamma(0.5, size=80))[::-1].copy()
    ranks = np.arange(4, 51)
    slope = np.polyfit(np.log(ranks), np.log(values[3:50]), 1, w=np.sqrt(1 / ranks))[0]
    assert alpha_req_of(torch.from_numpy(values)).alpha == pytest.approx(-slope, rel=1e-10)


def test_the_window_of_alpha_ends_where_the_values_are_zero():
    values = torch.zeros(64, dtype=torch.float64)
    values[:20] = torch.arange(1, 21, dtype=torch.float64) ** -1
    values[20:] = 1e-17
    fit = alpha_req_of(values)
    assert fit.last == 20 and fit.alpha == pytest.approx(1.0)
    with refuses(DataError, 3, "rank 4", 64, 2):
        alpha_req_of(torch.where(torch.arange(64) < 5, values, 0.0))
    with refuses(UsageError, 3, "4 to 5", "4 to 50"):
        alpha_req_of(values, last=5)


@settings(max_examples=15, deadline=None)
@given(live=st.integers(1, 11), low=st.floats(1e-12, 1e-3), seed=st.integers(0, 9))
def test_the_largest_gap_stands_where_it_was_put(live, low, seed):
    values = torch.from_numpy(np.random.default_rng(seed).uniform(0.5, 1, size=12))
    values[live:] *= low
    shuffled = values[torch.randperm(12, generator=torch.Generator().manual_seed(seed))]
    gap = largest_gap_of(shuffled)
    assert gap.index == live
    assert gap.ratio == pytest.approx(float(values[:live].min() / values[live:].max()))


def test_gaps_among_rounding_do_not_count():
    assert largest_gap_of(torch.tensor([1.0, 0.5, 1e-17, 1e-40, 0.0])).index == 2
    assert largest_gap_of(torch.ones(5)) == Gap(5, 1.0)
    assert largest_gap_of(torch.ones(1)) == Gap(1, 1.0)


def test_live_dimensions_of_float32_features_do_not_count_their_rounding():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=generator) @ torch.randn(6, 64, generator=generator)
    values = singular_values(x)
    assert live_dimensions_of(values) == 6 and live_dimensions_of(values, tolerance=0.0) > 6
    with refuses(UsageError, "tolerance", 0, 1, 1.5):
        live_dimensions_of(values, tolerance=1.5)


@pytest.mark.parametrize("values", [[[1.0]], [], [-1.0, 1.0], [math.nan], [math.inf]])
@pytest.mark.parametrize(
    "measure", [*OF_SPECTRUM, alpha_req_of, largest_gap_of, live_dimensions_of, rankme_of]
)
def test_what_is_no_spectrum_raises(measure, values):
    values = torch.tensor(values)
    with refuses(UsageError, "(D,)", tuple(values.shape), "singular_values"):
        measure(values)


def test_a_negative_epsilon_raises():
    with refuses(UsageError, "eps", 0, 1, "-1.0"):
        rankme_of(torch.ones(2), eps=-1.0)


@pytest.mark.parametrize(
    "measure",
    [singular_values, normalised_singular_values, matrix_singular_values]
    + [getattr(spectrum, name) for name in MEASURES],
)
def test_features_that_cannot_have_a_spectrum_raise(measure):
    with refuses(DataError, "1 of 2", "NaN", "row 1"):
        measure(torch.tensor([[1.0, 2.0], [1.0, math.nan]]))
    with refuses(DataError, 1):
        measure(torch.zeros(0, 2))
    with refuses(UsageError, "(N, D)", "(3, 1, 1)"):
        measure(torch.zeros(3, 1, 1))
