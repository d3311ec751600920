import numpy as np
import pytest
from refusals import assert_names, refuses

from fullrank.errors import UsageError
from fullrank.theory import theorem_named

NAMES = ["feature-weighting", "weight-decay", "pre-or-post", "absent-features", "reweighting"]


def gap(outcome):
    return np.abs(outcome.simulated / outcome.predicted - 1).max()


def test_feature_weighting_gives_a_list_for_each_layer(outcome_of):
    outcome = outcome_of("feature-weighting")
    expected = [[1.41421, 0.94868, 0.70711, 0.54772, 0.64807], [1, 0.9, 1, 0.3, 0.6]]
    np.testing.assert_allclose(outcome.predicted, expected, atol=6e-6)
    assert gap(outcome) < 1e-4
    assert outcome.rows == ("layer 1 (pre)", "layer 2 (post)")


@pytest.mark.parametrize(
    "settings",
    [
        {"depth": 3},
        {"depth": 1, "scale": 0.05},
        {"strengths": (3, 1, 0.05), "keep": (1, 0.9, 0.5), "depth": 3},
        {"strengths": (1, 0.01), "keep": (0.05, 0.9)},
        {"scale": 0.05, "strengths": (2, 1, 0.5), "keep": (1, 0.9, 1)},
    ],
)
def test_settings_far_from_the_default_come_to_the_prediction_too(settings):
    outcome = theorem_named("feature-weighting", **settings).outcome()
    assert gap(outcome) < 1e-4
    assert len(outcome.remarks) == 2  # a third would name the features that are not at the prediction


def test_a_feature_that_never_settles_is_named_with_the_gradient_that_remains():
    outcome = theorem_named("feature-weighting", strengths=(1, 1), keep=(1, 0)).outcome()
    _, slowest, short = outcome.remarks
    assert_names(slowest, "never", "feature 2")
    assert_names(short, "feature 2", "gradient")


def test_weight_decay_shows_both_minima(outcome_of):
    outcome = outcome_of("weight-decay")
    local = [[1.40517, 0.93133, 0.68762, 0, 0.55983], [0.98726, 0.86738, 0.94565, 0, 0.44774]]
    np.testing.assert_allclose(outcome.predicted[:2], local, atol=6e-6)
    np.testing.assert_allclose(outcome.predicted[2:], np.array(local) * [1, 1, 1, 1, 0], atol=6e-6)
    np.testing.assert_allclose(outcome.simulated, outcome.predicted, rtol=1e-4, atol=1e-9)
    lost, between, _ = outcome.verdict.split(". ")
    assert_names(lost, "feature 4")
    assert_names(between, "Feature 5")
    kept = [(each.predicted, each.simulated) for each in outcome.measures]
    assert kept == [(4, 4), (3, 3)]


@pytest.mark.parametrize(
    "settings",
    [{"depth": 1}, {"depth": 3, "decay": 0.05, "strengths": "2,1,1", "keep": "1,0.9,0.3"}, {"decay": 5}],
)
def test_weight_decay_at_other_depths_and_decays(settings):
    outcome = theorem_named("weight-decay", **settings).outcome()
    np.testing.assert_allclose(outcome.simulated, outcome.predicted, rtol=1e-4, atol=1e-9)


def test_the_absent_feature_lives_below_the_head(outcome_of):
    outcome = outcome_of("absent-features")
    assert outcome.simulated[0, 2] == pytest.approx(0.4) and outcome.simulated[1, 2] == 0
    assert gap_where_present(outcome) < 1e-4
    assert_names(outcome.verdict, "feature 3", 0.4)
    assert [(each.predicted, each.simulated) for each in outcome.measures] == [(1, 1), (0, 0)]
    none = theorem_named("absent-features", threshold=0.1).outcome()
    assert_names(none.verdict, 0.1, 0.4)  # the weakest feature is absent from a threshold of 0.8 * 0.5 on


def gap_where_present(outcome):
    present = outcome.predicted > 0
    return np.abs(outcome.simulated[present] / outcome.predicted[present] - 1).max()


def test_reweighting_says_whether_the_order_of_channels_is_predicted(outcome_of):
    outcome = outcome_of("reweighting")
    assert gap(outcome) < 1e-3
    assert_names(outcome.remarks[1], "margin 0.323")
    taken = theorem_named("reweighting", kappa=5, strengths="2,1,0.5", keep="1,0.9,1", start=1e-4).outcome()
    assert_names(taken.remarks[1], "not", "margin -4")
    np.testing.assert_allclose(taken.simulated[1], taken.predicted[1], rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_lists_of_different_length_are_refused(name):
    with refuses(UsageError, "2 strengths", "3 keep"):
        theorem_named(name, strengths=(1, 1), keep=(1, 1, 1)).outcome()
