"""Known factors through a run: which there are, how they are weighed, and where they are predicted."""

import numpy as np
import pytest
import torch
from refusals import refuses
from torch import nn

from fullrank import train
from fullrank.data import source
from fullrank.errors import DataError
from fullrank.evaluation.factors import (
    depth_shares,
    drawn_views,
    factor_scores,
    flat_pixels,
    known_factors,
    relative,
    theory_of,
)
from fullrank.heads import head
from fullrank.record.scores import IMAGES, LEFT_OUT, PREDICTED, RELATIVE, WEIGHT
from fullrank.runs.recipe import Recipe
from fullrank.theory.weighting.prediction import view_correlations
from fullrank.views import view_pipeline

DATA = "composite:two-cues,n=300"
QUICK = {"encoder": "tiny-resnet,width=4", "epochs": 1, "batch_size": 100, "data": DATA, "views": "weak"}


class Flat(nn.Module):
    """An encoder that gives the pixels themselves."""

    places = ()

    def features(self, x, places):
        return {"h": x.flatten(1)}


def images(data=DATA):
    return source(data).load("train"), source(data).load("test")


def scores_of(spec, in_dim=432, **keys):
    recipe = Recipe.resolve("digits", QUICK | {"head": spec} | keys)
    return factor_scores(recipe, Flat(), head(spec, in_dim=in_dim).eval(), *images(recipe.data))


def by_place(scores, statistic):
    found = {}
    for score in scores:
        if (score.probe, score.statistic) == ("factors", statistic):
            found.setdefault(score.place, {})[score.label] = score.value
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train("digits", out=tmp_path_factory.mktemp("run") / "out", head="mlp:8", **QUICK)


def test_a_run_on_a_composite_records_the_dial(run):
    scores = run.record.runs[0].scores
    weights, shares = by_place(scores, WEIGHT), by_place(scores, RELATIVE)
    assert list(weights) == list(shares) == [IMAGES, "h", "head.1", "z"]
    for place, found in shares.items():
        assert list(found) == ["label", "background", "object"]
        assert max(found.values()) == 1
        for factor, share in found.items():
            assert share * max(weights[place].values()) == pytest.approx(weights[place][factor])
    assert list(by_place(scores, PREDICTED)) == ["h", "head.1", "z"]
    assert set(by_place(scores, LEFT_OUT)[IMAGES]) == {"digit", "group"}
    of_factors = [score for score in scores if score.probe == "factors"]
    assert {(s.split, s.features, s.shots) for s in of_factors} == {("test", "raw", None)}


def test_the_prediction_is_the_same_for_every_seed():
    head_ = head("linear:8", in_dim=16)
    nets = [
        theory_of(Recipe.resolve("digits", QUICK | {"seed": seed}), head_, images()[0]) for seed in (0, 1)
    ]
    assert np.array_equal(nets[0].gains, nets[1].gains)


def test_a_run_with_too_few_images_for_its_factors_has_no_scores_of_them(tmp_path):
    keys = QUICK | {"data": "composite:digits-on-textures,n=45", "limit": 40, "batch_size": 20}
    run = train("digits", out=tmp_path / "out", head="none", **keys)
    assert not [s for s in run.record.runs[0].scores if s.probe == "factors"]


def test_what_is_measured_at_an_encoder_that_does_nothing_is_in_the_images():
    weights = by_place(scores_of("none"), WEIGHT)
    assert weights["h"] == pytest.approx(weights[IMAGES]) and weights["z"] == pytest.approx(weights["h"])


def test_the_object_of_two_cues_weighs_what_its_shapes_differ_by():
    # A disc or a cross at a fixed place, drawn over all else: half the distance of their mean images.
    _, test = images("composite:two-cues")
    pixels, shown = flat_pixels(test).numpy(), test.labels["object"]
    distance = np.linalg.norm(pixels[shown == 0].mean(0) - pixels[shown == 1].mean(0))
    found = by_place(scores_of("none,norm=batch", data="composite:two-cues"), WEIGHT)[IMAGES]["object"]
    assert found == pytest.approx(distance / 2, rel=0.02) and found < distance / 2


@pytest.mark.parametrize(
    ("spec", "keys", "places"),
    [
        ("none", {}, ["h", "z"]),
        ("subvector:24", {}, ["z"]),
        ("lowrank:24", {}, ["z"]),
        ("reweight:1.05", {}, ["z"]),
        ("diagonal", {}, ["h", "z"]),
        ("linear:24,norm=batch", {}, []),
        ("random-subvector:24", {}, []),
        ("linear:24", {"objective": "supcon:0.1"}, []),
    ],
)
def test_predictions_stand_where_the_theory_speaks(spec, keys, places):
    scores = scores_of(spec, **keys)
    assert list(by_place(scores, PREDICTED)) == places
    assert list(by_place(scores, WEIGHT)) == [IMAGES, "h", "z"]


def test_places_of_ones_own_are_weighed_and_a_sub_vector_is_z():
    recipe = Recipe.resolve("digits", QUICK | {"head": "subvector:24"})
    head_ = head("subvector:24", in_dim=432)
    scores = factor_scores(recipe, Flat(), head_, *images(), places=["h[:24]", "h[:9]", "z"])
    predicted = by_place(scores, PREDICTED)
    assert list(predicted) == ["h[:24]", "z"] and predicted["h[:24]"] == predicted["z"]
    measured = by_place(scores, WEIGHT)
    assert measured["h[:24]"] == measured["z"] and "h[:9]" in measured


def test_depths_and_ranks_of_heads():
    assert depth_shares(head("orthogonal", in_dim=8)) == {"h": 1.0, "z": 1.0}
    assert depth_shares(head("mlp:4", in_dim=8)) == pytest.approx(
        {"h": 1 / 3, "head.1": 2 / 3, "head.2": 1, "z": 1}
    )
    assert depth_shares(head("none,norm=batch", in_dim=8)) == {}
    ranks = {
        "subvector:3": 3,
        "linear:4": 4,
        "linear:9": 8,
        "mlp:8,hidden=2": 2,
        "orthogonal": 8,
        "diagonal": 8,
    }
    assert {spec: head(spec, in_dim=8).linear_rank for spec in ranks} == ranks


def test_views_are_of_the_images_and_drawn_anew_each_round():
    train_set, _ = images()
    views = view_pipeline("weak,scale=1,flip=0", image_size=12, channels=3)
    ((first, second),) = drawn_views(train_set, views, rounds=1)
    np.testing.assert_allclose(first, flat_pixels(train_set).numpy(), atol=1e-6)
    np.testing.assert_allclose(first, second, atol=1e-6)
    views = view_pipeline("weak", image_size=12, channels=3)
    one, two = drawn_views(train_set, views, rounds=2)
    assert not np.allclose(one[0], two[0]) and not np.allclose(one[0], one[1])
    again = next(iter(drawn_views(train_set, views, rounds=1)))
    np.testing.assert_array_equal(again[0], one[0])
    assert view_correlations(*one)[2][0] > 0.5


def test_the_main_label_wins_over_finer_and_coarser_ones():
    test = images()[1]
    _, factors, left_out = known_factors(test)
    assert list(factors) == ["label", "background", "object"]
    assert {out.factor: out.goes_with for out in left_out} == {"group": "label", "digit": "label"}
    assert torch.equal(factors["label"], torch.from_numpy(test.labels["label"]))


def test_images_without_two_factors_are_refused():
    with refuses(DataError, "2 factors", "digits (test)", "has 1", "composite:PRESET"):
        scores_of("none", in_dim=64, data="digits")


def test_a_factor_is_relative_to_the_largest():
    assert relative({"a": 0.0, "b": 0.0}) == {"a": 0.0, "b": 0.0}
