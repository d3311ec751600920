import re

import numpy as np
import pytest
from refusals import assert_names, refuses

from fullrank.errors import DivergedError, UsageError
from fullrank.theory.collapse.theorems import Depth, ImplicitRegularization, StrongAugmentation


@pytest.mark.parametrize(("noise", "lost"), [(2.5, 2), (0.5, 0)])
def test_strong_augmentation_predicts_which_directions_go(noise, lost):
    outcome = StrongAugmentation(noise=noise, width=5, augmented=2, steps=400, learning_rate=4e-3).outcome()
    fixed, moving = outcome.verdict.split("moving X")
    assert_names(fixed, lost, 5)
    assert_names(moving.split(";")[0], lost)
    np.testing.assert_allclose(outcome.simulated[0], outcome.predicted[0], rtol=1e-4)
    # The toy's own directions shrink and stay; the limit of endless negatives is some 25 per cent off.
    np.testing.assert_allclose(outcome.simulated[1][:-1], outcome.predicted[1][:-1], rtol=0.3)


def test_clean_data_have_no_augmented_values_to_compare():
    verdict = StrongAugmentation(width=4, augmented=0, steps=5, time=0.5).outcome().verdict
    assert_names(verdict, 0, 4, "between")
    assert "augmented" not in verdict


def test_implicit_regularization_agrees_with_the_flow_and_nearly_with_the_toy():
    outcome = ImplicitRegularization(steps=250, learning_rate=4e-2).outcome()
    np.testing.assert_allclose(outcome.simulated[:2], outcome.predicted[:2], rtol=1e-4)
    counts = [(table[2] * table[3] < 1e-3**0.5).sum() for table in (outcome.predicted, outcome.simulated)]
    assert abs(counts[0] - counts[1]) <= 2 and counts[0] > 2
    predicted, simulated, _ = map(float, re.findall(r"\d+\.\d+(?=[ .])", outcome.remarks[0]))
    assert simulated == pytest.approx(predicted, rel=1e-4)


def test_depth_collapses_more_and_one_layer_nothing():
    outcome = Depth(steps=150, learning_rate=2e-2, depth=3).outcome()
    for table in (outcome.predicted, outcome.simulated):
        assert table[0, 0] == 0
        assert (np.diff(table[0]) > 0).all()
    assert np.abs(outcome.predicted[0] - outcome.simulated[0]).max() <= 2


def test_settings_that_do_not_fit_and_divergence_are_reported():
    with refuses(UsageError, "20 augmented", 16):
        StrongAugmentation(augmented=20).outcome()
    with refuses(DivergedError, 1000, "smaller"):
        ImplicitRegularization(learning_rate=1e3, steps=50).outcome()
