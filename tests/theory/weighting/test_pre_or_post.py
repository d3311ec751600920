import numpy as np
import pytest
from refusals import assert_names, refuses

from fullrank.errors import UsageError
from fullrank.theory import theorem_named


@pytest.mark.parametrize(
    "settings",
    [{}, {"augmentation": "noise", "strengths": (3, 0.2, 1, 1, 0.5)}, {"seed": 3, "keep": (0.2,) * 5}],
)
def test_the_perceptron_never_errs_more_often_than_the_bound(settings):
    outcome = theorem_named("pre-or-post", trials=30, labels=400, **settings).outcome()
    assert (outcome.simulated <= outcome.predicted + 1e-9).all()
    assert (outcome.simulated >= 1).all()


def test_a_disrupted_feature_is_learned_sooner_before_the_head_and_a_weak_one_after_it(outcome_of):
    outcome = outcome_of("pre-or-post")
    for numbers in (outcome.predicted, outcome.simulated):
        assert numbers[3, 1] < numbers[3, 2]  # kept with probability 0.3
        assert numbers[2, 1] > numbers[2, 2]  # weak and always kept
    assert_names(outcome.verdict, "feature 1 and feature 4")


def test_the_order_it_finds_is_reported_feature_by_feature(outcome_of):
    outcome = outcome_of("pre-or-post")
    assert_names(outcome.verdict, "3 of 5")
    same, other, unclear = outcome.explanation[0].split(" for ")[1:]
    assert_names(same, "feature 2, feature 3 and feature 4")
    assert_names(other, "feature 5")
    assert_names(unclear, "feature 1")


def test_streams_too_short_are_reported():
    outcome = theorem_named("pre-or-post", labels=10, trials=10).outcome()
    assert_names(outcome.remarks[-1], "mistakes", "labels")
    assert int(outcome.remarks[-1].split()[0]) > 0


def test_full_takes_more_streams_and_a_seed_repeats_them():
    assert theorem_named("pre-or-post", full=True).trials == 2000
    first, again, other = (
        theorem_named("pre-or-post", trials=10, labels=50, seed=seed).outcome() for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.simulated, again.simulated)
    assert (first.simulated != other.simulated).any()


def test_about_dropping_it_says_that_nothing_is_predicted():
    with refuses(UsageError, "drop", "rank (5)", "keep", "noise"):
        theorem_named("pre-or-post", augmentation="drop").outcome()


def test_a_feature_that_the_net_loses_is_refused():
    with refuses(UsageError, "Feature 2", "lost", "keep"):
        theorem_named("pre-or-post", strengths=(1, 1), keep=(1, 0)).outcome()
