import re

import numpy as np
import pytest

from fullrank.errors import DivergedError, UsageError
from fullrank.theory.collapse.theorems import Depth, ImplicitRegularization, StrongAugmentation


@pytest.mark.parametrize(
    "settings",
    [
        StrongAugmentation(steps=20, width=6, augmented=2, time=0.5),
        ImplicitRegularization(steps=20, width=6),
        Depth(steps=20, width=6, depth=3),
    ],
    ids=lambda settings: type(settings).__name__,
)
def test_every_outcome_is_a_finite_table_with_pictures(settings):
    outcome = settings.outcome()
    shape = (len(outcome.rows), len(outcome.columns))
    assert outcome.predicted.shape == outcome.simulated.shape == shape
    assert np.isfinite(outcome.predicted).all() and np.isfinite(outcome.simulated).all()
    titles = {panel.title for panel in outcome.panels}
    assert {curve.panel for curve in outcome.curves} == titles
    assert all(curve.x.shape == curve.y.shape and np.isfinite(curve.y).all() for curve in outcome.curves)
    assert outcome.verdict.endswith(".") and all(remark.endswith(".") for remark in outcome.remarks)
    assert set(type(settings).FULL) <= set(type(settings).model_fields)


@pytest.mark.parametrize(("noise", "lost"), [(2.5, 2), (0.5, 0)])
def test_strong_augmentation_predicts_which_directions_go(noise, lost):
    outcome = StrongAugmentation(noise=noise, width=5, augmented=2, steps=1500).outcome()
    assert (
        f"X has {lost} negative eigenvalues of 5, and under the moving X {lost} singular" in outcome.verdict
    )
    np.testing.assert_allclose(outcome.simulated[0], outcome.predicted[0], rtol=1e-4)
    # The toy's own directions shrink and stay; the limit of endless negatives is some 25 per cent off.
    np.testing.assert_allclose(outcome.simulated[1][:-1], outcome.predicted[1][:-1], rtol=0.3)


def test_clean_data_have_no_augmented_values_to_compare():
    verdict = StrongAugmentation(width=4, augmented=0, steps=50).outcome().verdict
    assert "X has 0 negative eigenvalues of 4" in verdict and "the values end between" in verdict


def test_implicit_regularization_agrees_with_the_flow_and_nearly_with_the_toy():
    outcome = ImplicitRegularization(steps=1000).outcome()
    np.testing.assert_allclose(outcome.simulated[:2], outcome.predicted[:2], rtol=1e-4)
    counts = [(table[2] * table[3] < 1e-3**0.5).sum() for table in (outcome.predicted, outcome.simulated)]
    assert abs(counts[0] - counts[1]) <= 2 and counts[0] > 2
    times = re.search(r"at t = (\S+) predicted, (\S+) in the flow", outcome.remarks[0])
    predicted, simulated = map(float, times.groups())
    assert simulated == pytest.approx(predicted, rel=1e-4)


def test_depth_collapses_more_and_one_layer_nothing():
    outcome = Depth(steps=300, depth=3).outcome()
    for table in (outcome.predicted, outcome.simulated):
        assert table[0, 0] == 0
        assert (np.diff(table[0]) > 0).all()
    assert np.abs(outcome.predicted[0] - outcome.simulated[0]).max() <= 2


def test_settings_that_do_not_fit_and_divergence_are_reported():
    with pytest.raises(UsageError, match="20 augmented coordinates do not fit the width 16"):
        StrongAugmentation(augmented=20).outcome()
    with pytest.raises(DivergedError, match="take a smaller one"):
        ImplicitRegularization(learning_rate=1e3, steps=50).outcome()
