"""Every recipe can be rehearsed: two steps and its probes on generated images in the right layout."""

import pytest
from refusals import refuses

from fullrank import dry_run
from fullrank.errors import UsageError
from fullrank.runs.recipe import Recipe, recipe_names
from fullrank.training.dry_run import replacements

LONG = ("imagenet-directclr", "cifar10")  # ResNet-50 and ResNet-18, whole


@pytest.mark.parametrize("name", LONG)
def test_the_full_scale_recipes_walk_through(name):
    """With their own encoder, but at 32 pixels also where the recipe says 224."""
    entry, recipe = dry_run(name, image_size=32).entry, Recipe.resolve(name)
    assert entry.steps == 2 and entry.head == recipe.head
    assert list(entry.probes) == ["h", "z"]
    probes = {score.probe for score in entry.scores}
    assert ("sgd" in probes) == (recipe.sgd_probe is not None)


@pytest.mark.parametrize("name", [name for name in recipe_names() if name not in (*LONG, "small-images")])
def test_every_other_recipe_walks_through_with_a_small_encoder(name):
    """The same way, but with an encoder and a size for which two steps take a moment."""
    small = {"encoder": "tiny-resnet,width=4", "head": "linear:8"}
    # The theory of a set of two labels solves for all of its pixels: at 32 that takes 20 seconds.
    own_size = Recipe.resolve(name).image_size is None and name != "cifar100"
    # Local crops of a given size must fit into the images.
    fits = 112 if "size=" in str(Recipe.resolve(name).views) else 16
    size = {} if own_size else {"image_size": fits}
    entry = dry_run(name, **small, **size).entry
    assert entry.steps == 2 and "h" in entry.probes


def test_what_defines_the_run_is_not_replaced(tmp_path):
    plan = Recipe.resolve("imagenet100")
    replaced = replacements(plan, tmp_path / "images")
    own = {"views", "encoder", "head", "objective", "optimizer", "encoder_passes", "image_size"}
    assert not own & {key.split(".")[0] for key in replaced}
    assert replaced["classes"].count("+") == 3 and replaced["data"].startswith("imagenet:")


def test_what_is_learned_is_rehearsed_too():
    """Coarse labels where the layout has them; a folder has one kind of labels."""
    small = {"encoder": "tiny-resnet,width=4", "head": "mlp:5", "image_size": 32, "sgd_probe": None}
    rehearsed = dry_run("small-images", data="cifar100:x", objective="supcon", label="coarse", **small)
    assert "label" not in rehearsed.replaced and rehearsed.entry.steps == 2
    rehearsed = dry_run("digits", objective="cross-entropy", label="group", **small)
    assert rehearsed.replaced["label"] == "label" and rehearsed.entry.parameters["objective"] == 4 * 5 + 4


def test_a_mistake_in_a_recipe_shows_in_the_rehearsal():
    with refuses(UsageError, 4096, 1, 16):
        dry_run("cifar10", head="subvector:4096", encoder="tiny-resnet,width=4")
