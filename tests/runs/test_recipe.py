"""Recipes: shipped ones, files, keys that are replaced, and errors that name key, value and limit."""

import pytest
import yaml
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.runs.recipe import Recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_resolves_and_its_dump_resolves_to_it(name, tmp_path):
    recipe = Recipe.resolve(name, {"data": "digits"})
    (tmp_path / "recipe.yaml").write_text(recipe.dump())
    assert Recipe.resolve(tmp_path / "recipe.yaml") == recipe
    assert set(yaml.safe_load(recipe.dump())) == set(Recipe.model_fields)


def test_overrides_reach_nested_keys_and_are_typed():
    recipe = Recipe.resolve("digits", {"optimizer.lr": "0.01", "epochs": "3", "head": "directclr"})
    assert (recipe.optimizer.lr, recipe.epochs, recipe.head) == (0.01, 3, "subvector:360")
    assert recipe.optimizer.weight_decay == Recipe.resolve("digits").optimizer.weight_decay


def test_every_key_of_a_recipe_can_be_set_as_text():
    """As `--set` gives them."""
    plain = Recipe.resolve("imagenet-directclr").model_dump()
    texts = {
        f"{key}.{inner}" if isinstance(value, dict) else key: str(text)
        for key, value in plain.items()
        for inner, text in (value.items() if isinstance(value, dict) else [("", value)])
        if text is not None and key != "imports"  # which are found, not chosen
    }
    assert Recipe.resolve("imagenet-directclr", texts).model_dump() == plain


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({"epoch": 3}, ["epoch", "epochs", "recipe-keys"]),
        ({"optimizer.rate": 3}, ["optimizer.rate", "optimizer.lr", "optimizer.clip"]),
        ({"epochs": 0}, ["digits", "epochs", 0, 1, 40]),
        ({"batch_size": 1}, ["batch_size", 1, 2, 256]),
        ({"optimizer.lr": "fast"}, ["optimizer.lr", "fast", "number", 0, 0.003]),
        ({"optimizer.lr": "nan"}, ["optimizer.lr", "nan", "number", 0.003]),
        ({"optimizer.name": "two words"}, ["optimizer.name", "two words", "adamw"]),
        ({"engine.precision": "8"}, ["engine.precision", 8, "16-mixed", "32-true"]),
        ({"optimizer": 3}, ["optimizer.KEY"]),
        ({"head": "linaer"}, ["linaer", "linear"]),
        ({"data": "digist"}, ["digist", "digits"]),
        ({"head.dim": 3}, ["head.dim", "head=VALUE"]),
    ],
)
def test_a_bad_key_or_value_is_one_sentence(overrides, names):
    with refuses(UsageError, *names) as error:
        Recipe.resolve("digits", overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("", "data"),
        ("- a", "data"),
        ("data: [", "YAML"),
        ("epochs: 3", "data"),
        ("data: digits\nhaed: none", "head"),
        ("data: digits\nhead: 3", "list heads"),
        ("data: &a digits\nhead: *a", "alias"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, content, name):
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with refuses(UsageError, name) as error:
        Recipe.resolve(file)
    assert "\n" not in str(error.value)


def test_an_unknown_recipe_names_those_there_are():
    with refuses(UsageError, "digit", "digits"):
        Recipe.resolve("digit")
