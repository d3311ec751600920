"""The parts of the score: known orders, invariances, and influences against resampled images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from choice_pools import candidate, mixture, pool_of, three_runs

from fullrank.choosing.candidates import Pool
from fullrank.choosing.parts import expression, invariance, structure
from fullrank.probes import cluster_ids, predicted_clusters
from fullrank.spectrum import effective_rank, lidar, lidar_influence, recalled_views
from fullrank.spectrum.sampling import effective_rank_influence

SETTINGS = {"clusters": 10, "few": 0.2, "penalty": 0.1}


def test_structure_prefers_what_others_share():
    values = structure(three_runs(), **SETTINGS).values
    assert values[2] < 0.2 < 0.5 < min(values[:2])


def test_a_candidate_gains_nothing_from_copies_of_itself_in_its_own_run():
    pool = three_runs()
    noise = pool.candidates[2]
    copies = [replace(noise, place=f"copy {number}") for number in range(4)]
    more = replace(pool, candidates=[*pool.candidates, *copies])
    alone, among = structure(pool, **SETTINGS), structure(more, **SETTINGS)
    assert among.values[2] == pytest.approx(alone.values[2])


def test_structure_does_not_see_scale_and_rotation():
    pool = three_runs()
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))[0]
    first = pool.candidates[0]
    moved = replace(first, clean=7 * first.clean @ turn)
    other = replace(pool, candidates=[moved, *pool.candidates[1:]])
    before, after = structure(pool, **SETTINGS).values, structure(other, **SETTINGS).values
    assert after[0] == pytest.approx(before[0], abs=1e-9)


def test_predicted_clusters_equal_scikit_learns_ridge():
    from sklearn.linear_model import Ridge

    x = mixture().double()
    ids, fit = cluster_ids(mixture(seed=3), 8), np.arange(0, 400, 4)
    rest = np.setdiff1d(np.arange(400), fit)
    learnt = x[fit].numpy()
    penalty = 0.1 * learnt.var(0).mean() * len(fit)
    outputs = Ridge(alpha=penalty).fit(learnt, np.eye(8)[ids[fit]]).predict(x[rest].numpy())
    expected = outputs.argmax(1) == ids[rest]
    assert (predicted_clusters(x, [ids], fit, 0.1)[0] == expected).all()


def test_invariance_alone_is_won_by_what_the_views_do_not_move():
    still = candidate("still", torch.randn(300, 8), jitter=0.001)
    moved = candidate("moved", torch.randn(300, 8), jitter=2.0)
    values = invariance(pool_of(still, moved)).values
    assert values[0] == 1
    assert values[1] < 0.5


def test_recall_equals_the_loop_over_images():
    a, b = torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(0)).double()
    joint = torch.cat([a, b]).mean(0)
    x, y = (torch.nn.functional.normalize(each - joint) for each in (a, b))
    expected = [
        (all(x[i] @ y[i] > x[i] @ y[j] for j in range(30) if j != i)
         + all(x[i] @ y[i] > x[j] @ y[i] for j in range(30) if j != i)) / 2
        for i in range(30)
    ]  # fmt: skip
    assert recalled_views(a, b).tolist() == expected


@pytest.mark.parametrize("width", [5, 60])
def test_the_influence_on_the_effective_rank_is_its_slope(width):
    x = torch.randn(40, width, generator=torch.Generator().manual_seed(1)).double() * torch.rand(width) * 3
    slope = effective_rank_influence(x)
    step = 40
    for row in (0, 17):
        more = torch.cat([x.repeat(step, 1), x[row : row + 1]])
        moved = (effective_rank(more) - effective_rank(x)) * (40 * step + 1)
        assert float(slope[row]) == pytest.approx(moved, rel=0.02, abs=0.02)


def test_the_influence_on_lidar_is_its_slope():
    groups = torch.randn(60, 1, 5, generator=torch.Generator().manual_seed(1)).double()
    groups = groups * torch.tensor([3.0, 2.0, 1.0, 1.0, 0.5]) + 0.5 * torch.randn(60, 3, 5).double()
    slope = lidar_influence(groups)
    step = 200
    base = lidar(groups.repeat(step, 1, 1))
    for row in (0, 31):
        more = torch.cat([groups.repeat(step, 1, 1), groups[row : row + 1]])
        moved = (lidar(more) - base) * (60 * step + 1)
        assert float(slope[row]) == pytest.approx(moved, rel=0.05, abs=0.05)


def test_a_part_moves_with_its_images_as_if_it_were_measured_on_them():
    pool = three_runs()
    part = invariance(pool)
    half = np.zeros((1, 400))
    half[0, :200] = 2
    # Of hits that stay what they are, the mean over the drawn images is exact.
    by_image = recalled_views(*pool.candidates[2].views[:2]).numpy()
    assert part.resampled(half)[0, 2] == pytest.approx(by_image[:200].mean())


def test_files_have_an_effective_rank_as_expression():
    pool = three_runs()
    files = Pool([replace(each, views=None) for each in pool.candidates], pool.ids)
    assert expression(files).values[0] == pytest.approx(effective_rank(pool.candidates[0].clean))
