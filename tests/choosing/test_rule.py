"""The arithmetic of the rule: ranks, ties, defaults, the shortlist."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from fullrank.choosing.candidates import Candidate
from fullrank.choosing.parts import DIMENSION, STRUCTURE, Part
from fullrank.choosing.rule import (
    WITHIN_RUN,
    Ranking,
    default_order,
    image_weights,
    in_order,
    rank,
    relative_ranks,
    shortlist,
    weighted_scores,
)
from fullrank.heads import HEADS

NONE = torch.zeros(2, 1)


def spot(run: str, place: str, depth: int = 0, head: str | None = None, recipe: str = "") -> Candidate:
    spec = None if head is None else HEADS.parse(head)
    return Candidate(run, place, NONE, depth=depth, head=spec, recipe=recipe or run)


def part(name: str, values: list[float], noise: float = 0.0) -> Part:
    count = 50
    influence = noise * np.random.default_rng(len(name)).normal(size=(len(values), count))
    influence -= influence.mean(1, keepdims=True)
    return Part(name, name, np.array(values), np.arange(count), influence)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12))
def test_ranks_end_at_0_and_1_and_sum_to_half_the_candidates(values):
    ranks = relative_ranks(np.array(values))
    assert ranks.sum() == pytest.approx(len(values) / 2)
    assert (np.argsort(values, kind="stable") == np.lexsort((np.arange(len(values)), ranks))).all()


def test_the_dimension_is_ranked_among_all_and_within_its_run():
    candidates = [spot("a", "h"), spot("a", "z"), spot("b", "h"), spot("b", "z")]
    parts = [part(STRUCTURE, [11, 12, 13, 14]), part(DIMENSION, [10, 5, 2, 1])]
    ranking = rank(parts, {STRUCTURE: 1, DIMENSION: 1, WITHIN_RUN: 2}, candidates, 50, samples=5)
    assert ranking.parts[DIMENSION].tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert ranking.parts[WITHIN_RUN].tolist() == [1, 0, 1, 0]
    assert ranking.scores.tolist() == pytest.approx([3 / 4, 1 / 4, 3 / 4, 1 / 4])


def test_weights_of_missing_parts_do_not_count():
    ranks = {STRUCTURE: np.array([0.0, 1.0])}
    assert weighted_scores(ranks, {STRUCTURE: 3, DIMENSION: 100}).tolist() == [0, 1]


def test_what_noise_explains_is_tied_and_what_it_does_not_is_not():
    candidates = [spot(run, "h") for run in "abc"]
    noisy = rank([part(STRUCTURE, [1.0, 1.01, -5.0], noise=0.5)], {STRUCTURE: 1}, candidates, 50, samples=200)
    assert noisy.tied.tolist() == [True, True, False]
    sure = rank([part(STRUCTURE, [1.0, 1.01, -5.0])], {STRUCTURE: 1}, candidates, 50, samples=200)
    assert sure.tied.tolist() == [False, True, False]


def test_each_sample_has_as_many_images_as_there_are():
    assert (image_weights(30, 7, seed=0).sum(1) == 30).all()


def test_the_default_order_breaks_ties_only():
    scores = np.array([0.5, 0.9, 0.88])
    ranking = Ranking({}, scores, scores[None], np.array([False, True, True]))
    defaults = np.array([0, 2, 1])
    assert in_order(ranking, defaults).tolist() == [2, 1, 0]
    assert in_order(ranking, defaults, ties=False).tolist() == [1, 2, 0]


def test_h_comes_first_then_its_neighbours_then_better_heads():
    candidates = [
        spot("a", "stem", 0, "none"),
        spot("a", "last", 1, "none"),
        spot("a", "h", 2, "none"),
        spot("a", "z", 3, "none"),
        spot("b", "h", 2, "mlp:8,norm=batch"),
    ]
    order = np.argsort(default_order(candidates, ["mlp,norm=batch", "none"])).tolist()
    assert order == [4, 2, 1, 3, 0]


def test_the_shortlist_has_unlike_places_and_recipes_where_it_can():
    candidates = [
        spot("a0", "h", recipe="a"),
        spot("a1", "h", recipe="a"),
        spot("a0", "z", recipe="a"),
        spot("b0", "h", recipe="b"),
        spot("b0", "z", recipe="b"),
        spot("c0", "last", recipe="c"),
    ]
    assert shortlist(range(6), candidates) == [0, 4, 5]


def test_the_shortlist_is_filled_up_where_all_are_alike():
    same = [spot(f"a{seed}", "h", recipe="a") for seed in range(4)]
    assert shortlist(range(4), same) == [0, 1, 2]
    assert shortlist([1, 0], same[:2]) == [1, 0]


def test_the_dimension_of_what_shares_no_structure_counts_as_the_least():
    candidates = [spot(run, "h") for run in "abc"]
    parts = [part(STRUCTURE, [0.5, 0.6, 0.01]), part(DIMENSION, [4, 5, 99])]
    ranking = rank(parts, {STRUCTURE: 1, DIMENSION: 1, WITHIN_RUN: 1}, candidates, 50, samples=5)
    assert ranking.parts[DIMENSION].tolist() == [0.5, 1, 0]
    assert ranking.scores.argmin() == 2
