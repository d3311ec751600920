"""Differences of scores: closed forms, coverage, the error of all together, and symmetry."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from fullrank.diagnosis.beside.scores import (
    SCORES,
    RowScores,
    paired_scores,
    row_scores,
    unpaired_scores,
)
from fullrank.diagnosis.layers import layer_rows
from fullrank.errors import UsageError
from fullrank.record import PairedScore
from fullrank.statistics import NORMAL_95, paired_error
from tests.support.refusals import refuses


def outcomes(both: int, now: int, before: int, neither: int) -> tuple[RowScores, RowScores]:
    """Test rows that both get right, only one, or neither, the same for each score."""
    right = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [both, now, before, neither], axis=0).astype(float)
    return RowScores(np.tile(right[:, :1], 4)), RowScores(np.tile(right[:, 1:], 4))


def scores_of(now: RowScores, before: RowScores, **settings: int) -> list[PairedScore]:
    return paired_scores({("h", "h"): (now, before)}, **settings)


def random_outcomes(
    generator: np.random.Generator, rows: int, gain: float = 0.0
) -> tuple[RowScores, RowScores]:
    """Correlated right and wrong rows of four scores; `gain` is the true difference of each."""
    shared = generator.random((rows, 1))
    drawn = [
        np.where(generator.random((rows, 4)) < 0.6, shared, generator.random((rows, 4))) for _ in range(2)
    ]
    return RowScores((drawn[0] < 0.5 + gain).astype(float)), RowScores((drawn[1] < 0.5).astype(float))


def test_paired_interval_is_that_of_mcnemar_for_many_rows() -> None:
    score = scores_of(*outcomes(1500, 200, 140, 160))[0]
    half = NORMAL_95 * paired_error(score.now, score.before, 2000, discordant=0.17)
    assert (score.now, score.before, score.tested) == (0.85, 0.82, 2000)
    assert score.difference == pytest.approx(0.03)
    assert [score.low, score.high] == pytest.approx([0.03 - half, 0.03 + half], abs=0.1 * half)


@pytest.mark.parametrize(("now", "before"), [(30, 5), (18, 2), (12, 9), (4, 1)])
def test_apart_agrees_with_an_exact_test_of_the_rows_that_one_gets_right(now: int, before: int) -> None:
    exact = binomtest(now, now + before).pvalue
    assert scores_of(*outcomes(200, now, before, 100))[0].apart == (exact < 0.05)


def test_paired_interval_covers_the_true_difference_and_all_together_err_in_five_of_100() -> None:
    generator, draws = np.random.default_rng(0), 200
    scores = [scores_of(*random_outcomes(generator, 120), draws=300, seed=k) for k in range(draws)]
    covered = np.mean([one.low <= 0 <= one.high for each in scores for one in each])
    erred = np.mean([any(one.apart for one in each) for each in scores])
    error = 3 * np.sqrt(0.05 * 0.95 / draws)
    assert covered == pytest.approx(0.95, abs=error)
    assert erred < 0.05 + error


def test_swapped_targets_have_the_negative_difference() -> None:
    now, before = random_outcomes(np.random.default_rng(1), 400, gain=0.1)
    there, back = scores_of(now, before), scores_of(before, now)
    for one, other in zip(there, back, strict=True):
        assert (one.now, one.before, one.difference) == (other.before, other.now, -other.difference)
        assert [one.low, one.high] == pytest.approx([-other.high, -other.low])
        assert one.apart == other.apart
    assert any(one.apart for one in there)


def test_order_of_rows_changes_no_interval() -> None:
    now, before = random_outcomes(np.random.default_rng(2), 150)
    order = np.random.default_rng(3).permutation(150)
    shuffled = scores_of(RowScores(now.values[order]), RowScores(before.values[order]))
    assert shuffled == scores_of(now, before)


def test_rows_without_anything_to_find_are_in_no_mean() -> None:
    now, before = random_outcomes(np.random.default_rng(4), 60)
    now.values[:30, 2], before.values[:30, 2] = np.nan, np.nan
    now.values[:, 3], before.values[:, 3] = np.nan, np.nan
    scores = scores_of(now, before)
    assert [one.name for one in scores] == list(SCORES[:3])
    assert scores[2].tested == 30
    assert scores[2].now == pytest.approx(now.values[30:, 2].mean())


def test_scores_of_several_places_are_apart_together() -> None:
    sides = random_outcomes(np.random.default_rng(5), 200)
    scores = paired_scores({("h", "h"): sides, ("z", "head"): sides})
    assert [(one.place, one.against) for one in scores] == [("h", "h")] * 4 + [("z", "head")] * 4
    assert [one.apart for one in scores[:4]] == [one.apart for one in scores[4:]]


def test_scores_of_unlike_rows_are_refused() -> None:
    ones = [RowScores(np.ones((rows, 4))) for rows in (30, 31)]
    with refuses(UsageError, "30", "31"):
        scores_of(*ones)


def test_row_scores_have_the_means_of_the_layers() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    x = torch.randn(120, 6, generator=generator) + torch.eye(6)[labels] * 1.5
    labels[60:64] = -1
    scored = (x[:60], x[60:]), (labels[:60], labels[60:])
    (row,) = layer_rows({"h": scored[0][0]}, {"h": scored[0][1]}, scored[1])
    means = row_scores(*scored[0], scored[1]).means
    assert means[:3].tolist() == pytest.approx([row.linear, row.nearest, row.recall_at_1])
    assert means[0] < 1


@pytest.fixture(scope="module")
def classed() -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(1200) % 4
    noise = torch.randn(1200, 8, generator=torch.Generator().manual_seed(0))
    return torch.eye(8)[labels] * 1.6 + noise, labels


def test_unpaired_scores_find_noise_but_not_a_half(classed: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = classed
    half, other = (x[:600], y[:600]), (x[600:], y[600:])
    scores = unpaired_scores(half, other)
    assert not any(one.apart or one.paired for one in scores)
    assert all(one.low < one.difference < one.high for one in scores)
    noisy = other[0] + 3 * torch.randn(600, 8, generator=torch.Generator().manual_seed(1))
    assert all(one.apart and one.difference > 0.1 for one in unpaired_scores(half, (noisy, other[1])))
