import re

import numpy as np
import pytest
from refusals import assert_names, refuses

from fullrank.errors import DivergedError, UsageError
from fullrank.theory.collapse.stacked_theorems import Depth, ImplicitRegularization
from fullrank.theory.collapse.theorems import StrongAugmentation
from fullrank.theory.common.theorem import START_AND_END


def measured(outcome):
    """The measures of an outcome as {name: (predicted, simulated)}."""
    return {each.name: (each.predicted, each.simulated) for each in outcome.measures}


@pytest.mark.parametrize(("noise", "lost"), [(2.5, 2), (0.5, 0)])
def test_strong_augmentation_predicts_which_directions_go(noise, lost):
    outcome = StrongAugmentation(noise=noise, width=5, augmented=2, steps=400, learning_rate=4e-3).outcome()
    assert measured(outcome)["collapsed directions"] == (lost, lost)
    assert_names(outcome.verdict, noise, 5)
    np.testing.assert_allclose(outcome.simulated[0], outcome.predicted[0], rtol=1e-4)
    # The toy's own directions shrink and stay; the limit of endless negatives is some 25 per cent off.
    np.testing.assert_allclose(outcome.simulated[1][:-1], outcome.predicted[1][:-1], rtol=0.3)
    # The augmented directions fall exactly where they are lost, and the clean ones never do.
    for name, falls in (("clean", False), ("augmented", lost > 0)):
        start, end = (
            curve.y for curve in outcome.curves if (curve.panel, curve.name) == (START_AND_END, name)
        )
        assert (end < start / 2).all() == falls and (end < start / 2).any() == falls


def test_an_eigenvector_of_the_fixed_x_follows_the_exponential_of_its_eigenvalue():
    outcome = StrongAugmentation(width=4, augmented=2, steps=5, time=1).outcome()
    lines = [np.log(curve.y) for curve in outcome.curves if "Theorem 1" in curve.panel and curve.dashed]
    assert len(lines) == 4
    for line in lines:
        np.testing.assert_allclose(np.diff(line), line[1] - line[0], rtol=1e-6)


def test_clean_data_have_no_augmented_values_to_compare():
    outcome = StrongAugmentation(width=4, augmented=0, steps=5, time=0.5).outcome()
    assert list(measured(outcome)) == ["collapsed directions"]
    assert {curve.name for curve in outcome.curves} == {"clean"}


def test_implicit_regularization_agrees_with_the_flow_and_nearly_with_the_toy():
    outcome = ImplicitRegularization(steps=250, learning_rate=4e-2, decay=0.35, scale=1).outcome()
    np.testing.assert_allclose(outcome.simulated[:2], outcome.predicted[:2], rtol=1e-4)
    counts = [(table[2] * table[3] < 1e-3**0.5).sum() for table in (outcome.predicted, outcome.simulated)]
    assert abs(counts[0] - counts[1]) <= 2 and counts[0] > 2
    predicted, simulated, _ = map(float, re.findall(r"\d+\.\d+(?=[ ,.])", outcome.remarks[0]))
    assert simulated == pytest.approx(predicted, rel=1e-4)


def test_by_default_dimensions_collapse_during_training_though_all_are_alive_at_the_start():
    outcome = ImplicitRegularization(steps=200, learning_rate=2e-2).outcome()
    predicted, simulated = (
        curve.y for curve in outcome.curves if curve.panel == "Collapsed dimensions during training"
    )
    for counts in (predicted, simulated):
        assert counts[0] == 0 and counts.max() > 8
    assert measured(outcome)["collapsed dimensions, Theorem 3"] == (8, 8)


def test_depth_collapses_more_and_one_layer_nothing():
    outcome = Depth(steps=150, learning_rate=2e-2, depth=3, decay=0.35, scale=1).outcome()
    for table in (outcome.predicted, outcome.simulated):
        assert table[0, 0] == 0
        assert (np.diff(table[0]) > 0).all()
    assert np.abs(outcome.predicted[0] - outcome.simulated[0]).max() <= 2
    pairs = zip(outcome.predicted[0], outcome.simulated[0], strict=True)
    assert list(measured(outcome).values()) == list(pairs)


def test_settings_that_do_not_fit_and_divergence_are_reported():
    with refuses(UsageError, "20 augmented", 16):
        StrongAugmentation(augmented=20).outcome()
    with refuses(DivergedError, 1000, "smaller"):
        ImplicitRegularization(learning_rate=1e3, steps=50).outcome()
