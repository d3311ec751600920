"""The catalogue of criteria: complete, finite, blind to what it should not see."""

import math
from dataclasses import replace

import pytest
import torch
from choice_pools import candidate, pool_of, three_runs

from fullrank.choosing.criteria import CRITERIA, goodness
from fullrank.errors import UsageError
from fullrank.objectives import OBJECTIVES, objective
from fullrank.objectives.contract import trained_by
from fullrank.record.criteria import CRITERIA_TEXTS
from fullrank.spectrum import dime, infonce_at_place, mst_dimension


def test_the_catalogue_and_its_words_have_the_same_criteria():
    assert CRITERIA.keys() == CRITERIA_TEXTS.keys()


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_is_finite_and_does_not_see_a_rotation(name):
    pool = three_runs()
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(3)))[0]
    turned = [replace(each, clean=each.clean @ turn, views=each.views @ turn) for each in pool.candidates]
    before = CRITERIA[name].measure(pool)
    assert all(math.isfinite(value) for value in before)
    # k-means may end elsewhere after a rotation.
    close = {"rel": 1e-3} if "cluster_" not in name else {"abs": 0.1}
    assert CRITERIA[name].measure(replace(pool, candidates=turned)) == pytest.approx(before, **close)


def test_goodness_is_larger_for_better_and_least_for_what_is_not_known():
    assert goodness("infonce", [1.0, math.nan, 3.0]).tolist() == [-1.0, -3.0, -3.0]
    assert goodness("rankme", [1.0, 2.0]).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", [entry.name for entry in OBJECTIVES])
def test_an_objective_names_only_criteria_that_there_are(name):
    assert trained_by(objective(name, in_dim=8, num_classes=3)) <= CRITERIA.keys()


def test_infonce_of_orthogonal_images_has_its_closed_form():
    x = torch.eye(5, dtype=torch.float64)
    # Centred, the rows are a simplex: their cosines are -1/4.
    expected = math.log(1 + 4 * math.exp((-0.25 - 1) / 0.2))
    assert infonce_at_place(x, x, 0.2) == pytest.approx(expected)


def test_dime_of_unrelated_views_is_near_nothing_beside_that_of_equal_ones():
    x, y = torch.randn(2, 100, 6, generator=torch.Generator().manual_seed(0))
    assert abs(dime(x, y)) < 0.1 * dime(x, x)


def test_dime_samples_rows_that_are_sorted_by_class():
    generator = torch.Generator().manual_seed(0)
    # The views of the first 300 images have nothing in common, those of the others are equal.
    x, y = torch.randn(2, 1200, 6, generator=generator)
    y[300:] = x[300:]
    mixed = torch.randperm(1200, generator=generator)
    assert dime(x, y) == pytest.approx(dime(x[mixed], y[mixed]), rel=0.15)
    assert dime(x, y) > 3 * dime(x[:300], y[:300])


@pytest.mark.parametrize("width", [2, 3])
def test_spanning_trees_find_the_dimension_of_a_cube(width):
    x = torch.rand(1500, width, generator=torch.Generator().manual_seed(0)) @ torch.randn(width, 7)
    assert mst_dimension(x, sample=1000) == pytest.approx(width, rel=0.25)


def test_spanning_trees_need_a_draw():
    with pytest.raises(UsageError):
        mst_dimension(torch.rand(200, 3), draws=0)


@pytest.mark.parametrize("name", ["rankme", "effective_rank", "participation_ratio", "isotropy", "two_nn"])
def test_ranks_and_dimensions_prefer_noise_to_groups(name):
    _, groups, noise = goodness(name, CRITERIA[name].measure(three_runs()))
    assert noise > groups


@pytest.mark.parametrize("name", ["alignment", "cluster_learnability"])
def test_alignment_and_learnability_prefer_two_points_to_groups(name):
    groups = three_runs().candidates[0]
    points = torch.eye(12)[torch.arange(400) % 2]
    collapsed = candidate("points", points + 0.01 * groups.clean, jitter=1e-4)
    useful, empty = goodness(name, CRITERIA[name].measure(pool_of(groups, collapsed)))
    assert empty > useful
