import numpy as np
import pytest

from fullrank.errors import UsageError
from fullrank.theory import theorem_named

NAMES = ["feature-weighting", "weight-decay", "pre-or-post", "absent-features", "reweighting"]


def gap(outcome):
    return np.abs(outcome.simulated / outcome.predicted - 1).max()


@pytest.mark.parametrize("name", NAMES)
def test_every_outcome_is_whole_and_finite(name):
    outcome = theorem_named(name).outcome()
    shape = (len(outcome.rows), len(outcome.columns))
    assert outcome.predicted.shape == outcome.simulated.shape == shape
    assert np.isfinite(outcome.predicted).all() and np.isfinite(outcome.simulated).all()
    titles = {panel.title for panel in outcome.panels}
    for curve in outcome.curves:
        assert curve.panel in titles and curve.x.shape == curve.y.shape
        assert np.isfinite(curve.x).all() and np.isfinite(curve.y).all()
    assert titles == {curve.panel for curve in outcome.curves}
    assert outcome.verdict.endswith(".") and all(remark.endswith(".") for remark in outcome.remarks)


def test_the_command_of_the_issue_leaves_a_list_a_layer():
    outcome = theorem_named(
        "feature-weighting", strengths="2,1,0.5,1,0.7", keep="1,0.9,1,0.3,0.6", depth=2
    ).outcome()
    expected = [[1.41421, 0.94868, 0.70711, 0.54772, 0.64807], [1, 0.9, 1, 0.3, 0.6]]
    np.testing.assert_allclose(outcome.predicted, expected, atol=6e-6)
    assert gap(outcome) < 1e-4
    assert outcome.rows == ("layer 1 (pre)", "layer 2 (post)")


@pytest.mark.parametrize(
    "settings",
    [
        {"depth": 4},
        {"depth": 1, "scale": 0.05},
        {"strengths": (3, 1, 0.05), "keep": (1, 0.9, 0.5), "depth": 4},
        {"strengths": (1, 0.01), "keep": (0.05, 0.9)},
        {"scale": 0.05},
    ],
)
def test_settings_far_from_the_default_come_to_the_prediction_too(settings):
    outcome = theorem_named("feature-weighting", **settings).outcome()
    assert gap(outcome) < 1e-4
    assert not any("had not come" in remark for remark in outcome.remarks)


def test_a_feature_that_never_settles_is_named_with_the_gradient_that_remains():
    outcome = theorem_named("feature-weighting", strengths=(1, 1), keep=(1, 0)).outcome()
    assert any("Views never agree on feature 2" in remark for remark in outcome.remarks)
    assert any("Feature 2 had not come to the prediction" in remark for remark in outcome.remarks)


def test_weight_decay_shows_both_minima():
    outcome = theorem_named("weight-decay").outcome()
    local = [[1.40517, 0.93133, 0.68762, 0, 0.55983], [0.98726, 0.86738, 0.94565, 0, 0.44774]]
    np.testing.assert_allclose(outcome.predicted[:2], local, atol=6e-6)
    np.testing.assert_allclose(outcome.predicted[2:], np.array(local) * [1, 1, 1, 1, 0], atol=6e-6)
    np.testing.assert_allclose(outcome.simulated, outcome.predicted, rtol=1e-4, atol=1e-9)
    assert "only minimum for feature 4" in outcome.verdict and "two for feature 5" in outcome.verdict


@pytest.mark.parametrize("settings", [{"depth": 1}, {"depth": 3, "decay": 0.05}, {"decay": 5}])
def test_weight_decay_at_other_depths_and_decays(settings):
    outcome = theorem_named("weight-decay", **settings).outcome()
    np.testing.assert_allclose(outcome.simulated, outcome.predicted, rtol=1e-4, atol=1e-9)


def test_the_absent_feature_lives_below_the_head():
    outcome = theorem_named("absent-features").outcome()
    assert outcome.simulated[0, 2] == pytest.approx(0.4) and outcome.simulated[1, 2] == 0
    assert gap_where_present(outcome) < 1e-4
    assert "Feature 3 should be absent" in outcome.verdict


def gap_where_present(outcome):
    present = outcome.predicted > 0
    return np.abs(outcome.simulated[present] / outcome.predicted[present] - 1).max()


def test_reweighting_says_whether_the_order_of_channels_is_predicted():
    outcome = theorem_named("reweighting").outcome()
    assert gap(outcome) < 1e-3
    assert any("The order holds with margin 0.32" in remark for remark in outcome.remarks)
    taken = theorem_named("reweighting", kappa=5).outcome()
    assert any("not predicted here" in remark for remark in taken.remarks)
    np.testing.assert_allclose(taken.simulated[1], taken.predicted[1], rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_lists_of_different_length_are_refused(name):
    with pytest.raises(UsageError, match="2 strengths, 3 keep"):
        theorem_named(name, strengths=(1, 1), keep=(1, 1, 1)).outcome()
