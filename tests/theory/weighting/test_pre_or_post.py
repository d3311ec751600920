import numpy as np
import pytest

from fullrank.errors import UsageError
from fullrank.theory import theorem_named


@pytest.mark.parametrize(
    "settings",
    [{}, {"augmentation": "noise", "strengths": (3, 0.2, 1, 1, 0.5)}, {"seed": 3, "keep": (0.2,) * 5}],
)
def test_the_perceptron_never_errs_more_often_than_the_bound(settings):
    outcome = theorem_named("pre-or-post", trials=100, **settings).outcome()
    assert (outcome.simulated <= outcome.predicted + 1e-9).all()
    assert (outcome.simulated >= 1).all()


def test_a_disrupted_feature_is_learned_sooner_before_the_head_and_a_weak_one_after_it():
    outcome = theorem_named("pre-or-post").outcome()
    for numbers in (outcome.predicted, outcome.simulated):
        assert numbers[3, 1] < numbers[3, 2]  # kept with probability 0.3
        assert numbers[2, 1] > numbers[2, 2]  # weak and always kept
    assert "By S pre beats post for feature 1 and feature 4" in outcome.verdict


def test_the_order_it_finds_is_reported_feature_by_feature():
    outcome = theorem_named("pre-or-post").outcome()
    assert "agrees on 3 of 5 features" in outcome.verdict
    assert any("the other for feature 5" in remark for remark in outcome.remarks)


def test_streams_too_short_are_reported():
    outcome = theorem_named("pre-or-post", labels=10, trials=10).outcome()
    assert any("fall in the last tenth of the streams; give more labels" in r for r in outcome.remarks)


def test_full_takes_more_streams_and_a_seed_repeats_them():
    assert theorem_named("pre-or-post", full=True).trials == 2000
    first, again, other = (theorem_named("pre-or-post", trials=10, seed=seed).outcome() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.simulated, again.simulated)
    assert (first.simulated != other.simulated).any()


def test_about_dropping_it_says_that_nothing_is_predicted():
    with pytest.raises(UsageError, match=r"At full rank \(5\) .* predicts nothing about dropping"):
        theorem_named("pre-or-post", augmentation="drop").outcome()


def test_a_feature_that_the_net_loses_is_refused():
    with pytest.raises(UsageError, match="Feature 2 is lost in every layer, so no depth serves it"):
        theorem_named("pre-or-post", strengths=(1, 1), keep=(1, 0)).outcome()
