"""Forecasts of factors: what is said before training, how sure it is, and what nothing is said of."""

import math

import pytest
from refusals import refuses

from fullrank.errors import DataError, UsageError
from fullrank.evaluation.factors import factor_scores
from fullrank.evaluation.forecast import FactorForecast, predict_factors
from fullrank.record.scores import PREDICTED
from fullrank.runs.build import build, load_data
from fullrank.runs.recipe import Recipe
from fullrank.studies.table import table_named

SETTING = {"data": "composite:two-cues,n=240", "views": "weak", "encoder": "tiny-resnet,width=4"}


@pytest.fixture(scope="module")
def forecasts():
    return {one.factor: one for one in predict_factors("digits", head="linear:12", rounds=2, **SETTING)}


def test_one_forecast_a_factor_with_weights_and_labels_at_each_place(forecasts):
    assert list(forecasts) == ["label", "background", "object"]
    for one in forecasts.values():
        assert one.shares == {"h": 0.5, "head.1": 1.0, "z": 1.0}
        assert one.weights["head.1"] == one.weights["z"] and one.labels["head.1"] == one.labels["z"]
        if one.advantage is not None:
            assert one.advantage == pytest.approx(math.log(one.labels["z"] / one.labels["h"]))
        assert one.low is None or one.low <= one.advantage <= one.high
    assert max(one.weights["h"] for one in forecasts.values()) == 1


def test_a_forecast_is_what_a_run_is_predicted_by():
    recipe = Recipe.resolve("digits", SETTING | {"head": "linear:12"})
    train, test = load_data(recipe)
    module = build(recipe, train)
    scores = factor_scores(recipe, module.encoder, module.head, train, test)
    predicted = {(s.place, s.label): s.value for s in scores if s.statistic == PREDICTED}
    for one in predict_factors(recipe):
        for place in ("h", "z"):
            assert predicted[place, one.factor] == pytest.approx(one.weights[place], abs=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "better"), [(0.1, 0.5, "h"), (-0.5, -0.1, "z"), (-0.1, 0.5, None), (None, None, None)]
)
def test_a_place_is_better_where_all_that_is_left_open_agrees(low, high, better):
    assert FactorForecast("label", {}, {}, {}, 0.2, low, high).better == better


def test_where_h_is_z_or_not_spoken_of_no_place_is_better():
    for spec, advantage in (("none", 0.0), ("subvector:12", None)):
        for one in predict_factors("digits", head=spec, rounds=1, **SETTING):
            assert one.better is None
            assert one.advantage in (advantage, None) and one.weights.keys() == one.shares.keys()


@pytest.mark.parametrize(
    ("keys", "kind", "parts"),
    [
        ({"head": "linear:12,norm=batch"}, UsageError, ["linear:12,norm=batch", "linear:48"]),
        ({"head": "random-subvector:4"}, UsageError, ["random-subvector:4", "linear:48"]),
        ({"objective": "supcon:0.1"}, UsageError, ["supcon:0.1", "labels", "infonce:0.1"]),
        ({"data": "digits"}, DataError, ["2 factors", "digits (test)", "has 1", "composite:PRESET"]),
        ({"image_size": 40}, UsageError, [4800, 4096, "image_size"]),
    ],
)
def test_what_cannot_be_forecast_is_said(keys, kind, parts):
    with refuses(kind, *parts):
        predict_factors("digits", **SETTING | {"head": "linear:12"} | keys)


@pytest.mark.parametrize("name", ["pre-or-post", "pre-or-post-wide"])
def test_the_predictions_of_the_tables_are_what_the_theory_computes(name):
    """Two rows of each table, a strong and a faint digit under jittered views, from one forecast."""
    table = table_named(f"projection-head/{name}")
    strong, faint = table.rows[:2]
    assert table.settings(strong, "mini") == table.settings(faint, "mini")
    by_factor = {one.factor: one for one in predict_factors(table.recipe_of(strong, "mini", seed=0))}
    for row in (strong, faint):
        one = by_factor[row.label or "label"]
        assert round(one.advantage, 2) == row.theory
        assert row.expected == {"h": "pre", "z": "post", None: "nothing"}[one.better]
