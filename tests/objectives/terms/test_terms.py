"""The terms `augself` and `sdssl` where their values are known, and what they and their sums refuse."""

import math

import pytest
import torch
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.objectives import OBJECTIVES, AugSelfTerm, SDSSLTerm
from fullrank.objectives.terms.samples import VIEW_DIMS, random_numbers
from fullrank.objectives.terms.sdssl import inner_places
from fullrank.runs.recipe import Recipe
from fullrank.step import Step

IMAGES, WIDTH = 6, 4


def step_of(**more):
    h = torch.randn(2 * IMAGES, WIDTH, requires_grad=True)
    return Step(**({"h": h, "z": torch.randn(2 * IMAGES, 3), "views": random_numbers(IMAGES)} | more))


@pytest.mark.parametrize(("only", "names"), [("crop", ["crop"]), ("blur+colour", ["blur", "colour"])])
def test_a_head_that_says_nothing_has_the_mean_square_of_the_targets(only, names):
    term, step = AugSelfTerm(in_dim=WIDTH, view_dims=VIEW_DIMS, hidden=5, only=only), step_of()
    for head in term.heads.values():
        torch.nn.init.zeros_(head[-1].weight), torch.nn.init.zeros_(head[-1].bias)
    forth, back = step.views.differences(), step.views.swapped().differences()
    expected = sum(float(torch.cat([forth[name], back[name]]).square().mean()) for name in names)
    assert term(step).item() == pytest.approx(expected, rel=1e-6)
    assert list(term.heads) == names


def test_a_head_that_says_nothing_of_the_flip_has_ln_2_times_its_factor():
    term = AugSelfTerm(in_dim=WIDTH, view_dims={"flip": 1, "grey": 1}, hidden=5, only="flip*3")
    torch.nn.init.zeros_(term.heads["flip"][-1].weight), torch.nn.init.zeros_(term.heads["flip"][-1].bias)
    assert term(step_of()).item() == pytest.approx(3 * math.log(2), rel=1e-6)


@pytest.mark.parametrize(
    ("view_dims", "settings", "parts"),
    [
        ({"grey": 1, "drop": 1}, {}, ["crop", "colour", "blur", "solarize", "flip", "--views"]),
        ({"crop": 4, "flip": 1}, {"only": "crop+blur"}, ["blur", "only=crop+blur", "crop", "flip"]),
        ({"crop": 4}, {"only": "corp"}, ["'corp'", "'crop'"]),
        ({"crop": 4}, {"only": "crop+crop"}, ["crop", "twice"]),
        ({"crop": 4}, {"only": "crop*much"}, ["crop", "'much'", "crop*0.5"]),
        ({"crop": 4}, {"only": "crop*-1"}, ["crop", -1.0, 0]),
        ({"crop": 4}, {"hidden": 0}, ["hidden", 0, 1]),
        ({"crop": 4}, {"weight": -1}, ["weight", -1, 0]),
        ({"crop": 4}, {"weight": math.inf}, ["weight", "inf", 0]),
    ],
)
def test_augself_refuses_what_it_cannot_predict(view_dims, settings, parts):
    with refuses(UsageError, *parts):
        AugSelfTerm(in_dim=WIDTH, view_dims=view_dims, **settings)


def test_augself_without_the_parameters_of_the_views_says_so():
    with refuses(UsageError, "augself", "views"):
        AugSelfTerm(in_dim=WIDTH, view_dims=VIEW_DIMS, hidden=5)(step_of(views=None))


@pytest.mark.parametrize(
    ("progress", "ramp", "share"), [(0, True, 0), (0.5, True, 0.5), (1, True, 1), (0, False, 1)]
)
def test_sdssl_on_equal_embeddings_is_the_log_of_the_candidates_times_the_ramp(progress, ramp, share):
    """2N candidates without the anchor's own view; the ramp is half a cosine."""
    term = SDSSLTerm(place_dims={"one": 5, "two": 4, "three": 4}, out_dim=3, ramp=ramp)
    features = {"one": torch.randn(2 * IMAGES, 5), "two": torch.randn(2 * IMAGES, 4)}
    step = step_of(z=torch.ones(2 * IMAGES, 3), features=features, progress=progress)
    assert term.places == ("one", "two")
    assert term(step).item() == pytest.approx(share * math.log(2 * IMAGES - 1), rel=1e-5, abs=1e-7)


def test_no_gradient_of_sdssl_reaches_the_embedding():
    term = SDSSLTerm(place_dims={"one": 5, "two": 4}, out_dim=3)
    z, rows = torch.randn(2 * IMAGES, 3, requires_grad=True), torch.randn(2 * IMAGES, 5, requires_grad=True)
    term(step_of(z=z, features={"one": rows})).backward()
    assert z.grad is None and rows.grad.any()


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (["stem", "stage1.1", "stage2.1", "last-conv-input"], ["stage1.1"]),
        (["stem.mean", "b.0.cls", "b.0.mean", "b.1.mean", "b.1.cls", "b.2.cls"], ["b.0.cls", "b.1.cls"]),
    ],
)
def test_the_inner_places_are_the_blocks_but_the_last_with_one_pooling_each(places, expected):
    assert list(inner_places(places)) == expected


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"places": "tow"}, ["'tow'", "'two'", "one"]),
        ({"places": "two+two"}, ["two", "twice"]),
        ({"place_dims": {"stem": 3, "two": 4}}, ["sdssl", "stem", "two", "places="]),
        ({"temperature": 0.0}, ["temperature", 0]),
        ({"layers": 0}, ["layers", 0, 1, 100]),
        ({"hidden": 40000}, ["hidden", 40000, 32768]),
    ],
)
def test_sdssl_refuses_places_that_there_are_not_and_numbers_outside_their_limits(settings, parts):
    with refuses(UsageError, *parts):
        SDSSLTerm(**({"place_dims": {"one": 5, "two": 4, "three": 4}, "out_dim": 3} | settings))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("infonce + augself + augself:2", ["augself", "twice"]),
        ("infonce + vicreg", ["vicreg", "augself"]),
        ("augself:1 + infonce", ["'augself'", "infonce"]),
        ("infonce + augsefl", ["'augsefl'", "'augself'"]),
        ("infonce:0.2+augself:1", ["augself", "spaces"]),
        ("infonce + ", ["infonce + ", "infonce + augself"]),
        ("infonce + augself,hiden=3", ["'hiden'", "'hidden'"]),
        ("infonce + augself:heavy", ["weight", "'heavy'"]),
    ],
)
def test_a_sum_is_one_objective_and_then_terms_each_once(text, parts):
    with refuses(UsageError, *parts):
        OBJECTIVES.parse(text)


def test_the_canonical_sum_sorts_its_terms_and_prints_their_weights():
    spec = OBJECTIVES.parse("infonce + sdssl,hidden=9 + augself")
    assert spec == "infonce:0.1 + augself:1 + sdssl:0.8,hidden=9"
    assert OBJECTIVES.parse(str(spec)) == spec and spec.alone == "infonce:0.1"


def test_a_recipe_file_that_names_a_term_of_an_unknown_module_imports_nothing(tmp_path):
    recipe = Recipe.resolve("digits").dump()
    named = recipe.replace("objective: infonce:0.2", "objective: infonce:0.2 + no_such_module:Term:1")
    (tmp_path / "mine.yaml").write_text(named)
    with refuses(UsageError, "no_such_module", "--import"):
        Recipe.resolve(tmp_path / "mine.yaml")
