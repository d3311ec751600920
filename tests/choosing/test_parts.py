"""The parts of the score: known orders, invariances, and influences against resampled images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from choice_pools import candidate, mixture, pool_of, three_runs

from fullrank.choosing.parts import dimension, reliability, structure, views_of
from fullrank.probes import cluster_ids, predicted_clusters
from fullrank.spectrum import recalled_views, two_nn_influence

SETTINGS = {"clusters": 10, "few": 0.2, "penalty": 0.1}


def test_structure_prefers_what_others_share():
    values = structure(three_runs(), **SETTINGS).values
    assert values[2] < 0.1 < 0.4 < min(values[:2])


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


def test_recall_alone_is_won_by_what_the_views_do_not_move():
    still = candidate("still", torch.randn(300, 8), jitter=0.001)
    moved = candidate("moved", torch.randn(300, 8), jitter=2.0)
    found = [float(recalled_views(*views_of(each)[:2]).mean()) for each in (still, moved)]
    assert found[0] == 1
    assert found[1] < 0.5


def test_the_dimension_is_that_of_the_same_images_at_every_candidate():
    narrow = torch.randn(400, 2) @ torch.randn(2, 12)
    part = dimension(pool_of(candidate("narrow", narrow), candidate("wide", mixture())), rows=300)
    assert part.values[0] == pytest.approx(2, abs=0.5)
    assert part.values[1] > 4


def test_the_influence_on_two_nn_is_its_slope():
    """Scaling the logarithm of one row's ratio is what a weight of that row does to the likelihood."""
    x = mixture(200)
    found = two_nn_influence(x)
    assert (found.rows == np.arange(200)).all()
    distances = torch.cdist(x.double(), x.double()).sort(1).values
    logs = (distances[:, 2] / distances[:, 1]).log().numpy()
    weights = np.ones(200)
    weights[7] += 1e-5
    before, after = 200 / logs.sum(), weights.sum() / (weights @ logs)
    assert found.added[7] == pytest.approx((after - before) / 1e-5 * 200, rel=1e-3)


def test_a_part_moves_with_its_images_as_if_it_were_measured_on_them():
    part = structure(three_runs(), **SETTINGS)
    weights = np.zeros((1, 400))
    weights[0, part.images[:100]] = 1
    # Of hits that stay what they are, the mean over the drawn images is exact.
    expected = part.values + part.influence[:, :100].mean(1)
    assert part.resampled(weights)[0] == pytest.approx(expected)


def test_teachers_whose_clusters_change_with_the_view_count_less():
    sure, unsure = candidate("sure", mixture()), candidate("unsure", mixture(), jitter=5.0)
    assert reliability(sure, 8) > 0.8 > 0.4 > reliability(unsure, 8)
