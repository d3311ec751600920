import pytest
import yaml

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


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"optimizer.rate": 3}, "Unknown recipe key 'optimizer.rate'"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"batch_size": 1}, "greater than or equal to 2"),
        ({"optimizer.lr": "fast"}, "optimizer.lr='fast'"),
        ({"optimizer.lr": "nan"}, "finite number"),
        ({"optimizer.name": "two words"}, "optimizer.name='two words'"),
        ({"head": "linaer"}, "did you mean 'linear'"),
        ({"data": "digist"}, "did you mean 'digits'"),
        ({"head.dim": 3}, "has no keys below it"),
    ],
)
def test_a_bad_key_or_value_is_one_sentence(overrides, part):
    with pytest.raises(UsageError) as error:
        Recipe.resolve("digits", overrides)
    assert part in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "- a", "data: [", "epochs: 3", "data: digits\nhaed: none"])
def test_a_bad_file_is_one_sentence(tmp_path, content):
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(UsageError) as error:
        Recipe.resolve(file)
    assert "\n" not in str(error.value)


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(UsageError, match="did you mean 'digits'"):
        Recipe.resolve("digit")
