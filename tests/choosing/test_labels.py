"""What labels would choose, against a ridge solved as one system, and against Bayes' error."""

import math

import numpy as np
import pytest
import torch
from oracles.choosing import ridge_predictions
from scipy.special import ndtr

from fullrank.choosing.candidates import Candidate, Pool
from fullrank.choosing.frozen import settings
from fullrank.choosing.labels import FOLDS, PENALTY, choose_with_labels, cross_validated
from fullrank.errors import DataError, UsageError
from fullrank.heads import HEADS

ORDER = settings().heads


def features(rows: int, gap: float, seed: int, width: int = 8) -> tuple[torch.Tensor, np.ndarray]:
    """Two Gaussian classes whose means differ by `gap` standard deviations in the first channel."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=rows)
    table = generator.normal(size=(rows, width))
    table[:, 0] += gap * labels
    return torch.from_numpy(table.astype(np.float32)), labels


def pool_of(gaps: list[float], rows: int = 400, unlabelled: int = 0) -> Pool:
    labels = features(rows, 1.0, 0)[1]
    labels[:unlabelled] = -1
    candidates = []
    for number, gap in enumerate(gaps):
        table = np.random.default_rng(number + 1).normal(size=(rows, 8)).astype(np.float32)
        table[:, 0] += gap * labels
        candidates.append(Candidate(f"run{number}", "h", torch.from_numpy(table)))
    return Pool(candidates, np.arange(rows), labels=labels)


def test_cross_validation_equals_ridges_solved_with_a_column_of_ones():
    x, labels = features(100, 1.5, 5)
    labels = labels + (np.arange(100) % 7 == 0)  # three classes
    fold = np.random.default_rng(3).permutation(100) % FOLDS
    table, right = x.double().numpy(), 0
    for number in range(FOLDS):
        fit = np.flatnonzero(fold != number)
        weight = PENALTY * table[fit].var(0).mean() * len(fit)
        predicted = ridge_predictions(table, labels, fit, weight)
        right += int((predicted == labels)[fold == number].sum())
    assert cross_validated(x, labels, seed=3) == right / 100


def test_cross_validated_accuracy_is_near_that_of_the_best_rule_and_never_sees_its_own_rows():
    """Bayes' rule is right on the share Phi(gap / 2); noise of many channels is not learnt by heart."""
    x, labels = features(2000, 2.0, 7)
    assert cross_validated(x, labels) == pytest.approx(ndtr(1.0), abs=0.03)
    noise, labels = features(200, 0.0, 8, width=300)
    assert cross_validated(noise, labels) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(200))


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_and_the_origin_of_features_do_not_matter(scale):
    x, labels = features(120, 1.0, 9)
    assert cross_validated(x.double() * scale + 5, labels) == cross_validated(x.double(), labels)


def test_the_choice_is_the_clearest_candidate_and_near_ones_are_tied():
    chosen = choose_with_labels(pool_of([0.0, 3.0, 1.0, 3.0]), 200, ORDER)
    assert chosen.run in ("run1", "run3")
    assert chosen.labels == 200
    best = max(chosen.accuracies)
    assert chosen.standard_error == pytest.approx(math.sqrt(best * (1 - best) / 200))
    assert not {"run0 h", "run2 h"} & set(chosen.tied)


def test_of_equal_candidates_h_comes_first():
    x, labels = features(100, 2.0, 1)
    places = [Candidate("run", place, x, depth=depth) for depth, place in enumerate(["block.3", "h", "z"])]
    chosen = choose_with_labels(Pool(places, np.arange(100), labels=labels), 60, ORDER)
    assert chosen.place == "h"
    assert chosen.tied == ["run block.3", "run z"]


def test_equal_candidates_of_unlike_heads_come_in_the_order_of_the_rule():
    """The default of labels and that of the shortlist are one order, whatever the order of the runs."""
    x, labels = features(100, 2.0, 2)
    runs = [Candidate(head, "h", x, head=HEADS.parse(head)) for head in ("none", "subvector:4", "mlp:4")]
    for some in (runs, runs[::-1]):
        chosen = choose_with_labels(Pool(some, np.arange(100), labels=labels), 60, ORDER)
        assert chosen.run == "mlp:4"


def test_unlabelled_images_are_not_drawn_and_too_few_labels_are_refused():
    pool = pool_of([2.0, 2.0], rows=120, unlabelled=60)
    assert choose_with_labels(pool, 60, ORDER).labels == 60
    with pytest.raises(DataError, match="60"):
        choose_with_labels(pool, 61, ORDER)
    with pytest.raises(UsageError, match="19"):
        choose_with_labels(pool, 19, ORDER)
    single = Pool(pool.candidates, pool.ids, labels=np.zeros(120, int))
    with pytest.raises(DataError, match="30"):
        choose_with_labels(single, 30, ORDER)
