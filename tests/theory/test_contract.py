"""Every registered theorem: what is promised of its outcome and of its settings."""

import numpy as np
import pytest
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.reports.equation import equation_as_text
from fullrank.theory import THEOREMS, theorem_named
from fullrank.theory.common.papers import COLLAPSE, PROJECTION_HEAD
from fullrank.theory.common.theorem import START_AND_END
from fullrank.theory.sweep import values_to_sweep

NAMES = [entry.name for entry in THEOREMS]
# What takes seconds takes fewer steps or trials here.
QUICK = {
    "strong-augmentation": {"steps": 20, "width": 6, "augmented": 2, "time": 0.5},
    "implicit-regularization": {"steps": 20, "width": 6},
    "depth": {"steps": 20, "width": 6, "depth": 3},
    "feature-weighting": {"strengths": "2,1", "keep": "1,0.9"},
    "weight-decay": {"strengths": "2,1", "keep": "1,0.3"},
    "pre-or-post": {"trials": 20, "labels": 200},
    "reweighting": {"strengths": "2,1", "keep": "1,0.9"},
}


@pytest.fixture(scope="module", params=NAMES)
def run(request):
    chosen = theorem_named(request.param, **QUICK.get(request.param, {}))
    return request.param, chosen, chosen.outcome()


def test_predicted_stands_beside_simulated(run):
    _, _, outcome = run
    for table in (outcome.predicted, outcome.simulated):
        assert table.shape == (len(outcome.rows), len(outcome.columns)) and np.isfinite(table).all()
    assert outcome.verdict.endswith(".") and all(remark.endswith(".") for remark in outcome.remarks)


def test_every_curve_has_a_panel_and_every_panel_a_curve(run):
    _, _, outcome = run
    titles = [panel.title for panel in outcome.panels]
    assert titles and len(set(titles)) == len(titles)
    assert {curve.panel for curve in outcome.curves} == set(titles)
    for curve in outcome.curves:
        assert curve.x.shape == curve.y.shape and curve.x.ndim == 1
        assert np.isfinite(curve.x).all() and np.isfinite(curve.y).all()
    for title in titles:
        # A page's key has a line for each name; bundles share one.
        assert len({curve.name for curve in outcome.curves if curve.panel == title}) <= 12


def test_every_theorem_draws_start_and_end_and_sums_itself_up(run):
    _, _, outcome = run
    assert outcome.explanation and outcome.measures
    if START_AND_END in {panel.title for panel in outcome.panels}:
        curves = [curve for curve in outcome.curves if curve.panel == START_AND_END]
        assert {curve.dotted for curve in curves} == {False, True}
    names = [each.name for each in outcome.measures]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", NAMES)
def test_a_statement_explains_its_letters_and_its_example_is_a_sweep(name):
    kind = THEOREMS[name].load()
    stated = kind.STATEMENT
    assert stated.link.startswith("https://arxiv.org/abs/") and stated.paper in stated_papers()
    equation = equation_as_text(stated.equation)
    for letter, _ in stated.letters:
        for each in letter.split(", "):
            symbol = equation_as_text(each).split("(")[0]
            explained = " ".join(equation_as_text(meaning) for _, meaning in stated.letters)
            assert symbol[0] in equation or symbol in explained, each
    words = stated.example.split()
    settings = {
        option[2:].replace("-", "_"): value for option, value in zip(words[::2], words[1::2], strict=True)
    }
    (several,) = values_to_sweep(kind, settings).values()
    assert len(several) > 1


def stated_papers():
    return {COLLAPSE.title, PROJECTION_HEAD.title}


def test_the_same_settings_give_the_same_numbers(run):
    name, chosen, outcome = run
    again = theorem_named(name, **chosen.model_dump(mode="json")).outcome()
    np.testing.assert_array_equal(outcome.predicted, again.predicted)
    np.testing.assert_array_equal(outcome.simulated, again.simulated)
    assert outcome.verdict == again.verdict


@pytest.mark.parametrize("name", NAMES)
def test_a_statement_is_one_sentence_with_its_source(name):
    entry = THEOREMS[name]
    assert entry.summary.endswith(".") and "\n" not in entry.summary
    assert entry.source.endswith(")") or "(P1)" in entry.source


@pytest.mark.parametrize("name", NAMES)
def test_settings_have_help_and_the_papers_own_fit_them(name):
    kind = THEOREMS[name].load()
    assert all(field.description for field in kind.model_fields.values())
    full = theorem_named(name, full=True)
    assert {key: getattr(full, key) for key in kind.FULL} == kind.FULL


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_that_there_is_not_is_refused_with_those_there_are(name):
    with refuses(UsageError, name, "stepps", *THEOREMS[name].load().model_fields):
        theorem_named(name, stepps=3)


def test_a_bad_value_and_a_bad_name_are_refused():
    with refuses(UsageError, "feature-weighting", "depth", "two"):
        theorem_named("feature-weighting", depth="two")
    with refuses(UsageError, "weight-decy", "weight-decay"):
        theorem_named("weight-decy")
