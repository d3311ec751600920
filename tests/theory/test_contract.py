"""Every registered theorem: what is promised of its outcome and of its settings."""

import dataclasses

import numpy as np
import pytest

from fullrank.errors import UsageError
from fullrank.theory import THEOREMS, theorem_named

NAMES = [entry.name for entry in THEOREMS]
# Toys that take seconds take fewer steps here.
QUICK = {
    "strong-augmentation": {"steps": 60},
    "implicit-regularization": {"steps": 60},
    "depth": {"steps": 60},
}


@pytest.fixture(scope="module", params=NAMES)
def found(request):
    chosen = theorem_named(request.param, **QUICK.get(request.param, {}))
    return request.param, chosen, chosen.outcome()


def test_predicted_stands_beside_simulated(found):
    _, _, outcome = found
    shape = (len(outcome.rows), len(outcome.columns))
    assert np.shape(outcome.predicted) == np.shape(outcome.simulated) == shape
    assert np.isfinite(outcome.predicted).any() and np.isfinite(outcome.simulated).all()
    assert outcome.verdict.endswith(".") and all(remark.endswith(".") for remark in outcome.remarks)


def test_every_curve_has_a_panel_and_every_panel_a_curve(found):
    _, _, outcome = found
    titles = [panel.title for panel in outcome.panels]
    assert titles and len(set(titles)) == len(titles)
    assert {curve.panel for curve in outcome.curves} == set(titles)
    for curve in outcome.curves:
        assert np.shape(curve.x) == np.shape(curve.y) and np.ndim(curve.x) == 1
        assert np.isfinite(curve.x).all()
    for title in titles:
        # A page's key has a line for each name; bundles share one.
        assert len({curve.name for curve in outcome.curves if curve.panel == title}) <= 12


def test_the_same_settings_give_the_same_numbers(found):
    name, chosen, outcome = found
    again = theorem_named(name, **chosen.model_dump(mode="json")).outcome()
    np.testing.assert_array_equal(outcome.predicted, again.predicted)
    np.testing.assert_array_equal(outcome.simulated, again.simulated)
    assert dataclasses.asdict(outcome)["verdict"] == again.verdict


@pytest.mark.parametrize("name", NAMES)
def test_a_statement_is_one_sentence_with_its_source(name):
    entry = THEOREMS[name]
    assert entry.summary.endswith(".") and "\n" not in entry.summary
    assert entry.source.startswith("P")


@pytest.mark.parametrize("name", NAMES)
def test_settings_have_help_and_the_papers_own_fit_them(name):
    kind = THEOREMS[name].load()
    assert all(field.description for field in kind.model_fields.values())
    full = theorem_named(name, full=True)
    assert {key: getattr(full, key) for key in kind.FULL} == kind.FULL


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_that_there_is_not_is_refused_with_those_there_are(name):
    with pytest.raises(UsageError, match=f"Unknown setting of '{name}' 'stepps'"):
        theorem_named(name, stepps=3)


def test_a_bad_value_is_one_sentence():
    with pytest.raises(UsageError, match="'feature-weighting': depth = 'two'"):
        theorem_named("feature-weighting", depth="two")
    with pytest.raises(UsageError, match="did you mean 'weight-decay'"):
        theorem_named("weight-decy")
