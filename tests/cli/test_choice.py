"""Options made from the list of a recipe's keys."""

import pytest
import typer
from refusals import assert_names, refuses
from typer.testing import CliRunner

from fullrank.cli.choice import RecipeChoice, assignment, takes_imports, takes_recipe
from fullrank.cli.commands import app
from fullrank.errors import UsageError
from fullrank.runs.recipe import RECIPE_KEYS, Recipe

# What scripts that users have on disk may say.
OLD_OPTIONS = (
    "--recipe --data --views --encoder --objective --epochs --batch-size --image-size --classes --fraction "
    "--limit --max-bad --seed --set --head --init --out --resume --dry-run --devices --nodes "
    "--skip-nonfinite --profile --import"
)


@pytest.mark.parametrize(("command", "without"), [("train", set()), ("compare", set())])
def test_the_options_that_set_keys_are_those_of_the_list(command, without):
    options = {option.name: option for option in typer.main.get_command(app).commands[command].params}
    keys = {key for key in RECIPE_KEYS if "." not in key} - without
    assert set(options) & set(Recipe.model_fields) - {"imports"} == keys  # --import is of the command
    for key in keys:
        assert options[key].opts == [f"--{key.replace('_', '-')}"]
        assert options[key].help.startswith(RECIPE_KEYS[key].meaning)
        assert RECIPE_KEYS[key].bounds in options[key].help


def test_train_keeps_its_options():
    names = {name for option in typer.main.get_command(app).commands["train"].params for name in option.opts}
    assert names >= set(OLD_OPTIONS.split())


def test_options_and_assignments_become_overrides():
    choices = []
    command = typer.Typer()

    @command.command()
    @takes_imports
    @takes_recipe()
    def catch(choice: RecipeChoice, more: int = 1) -> None:
        choices.append((choice, more))

    arguments = [
        "--recipe",
        "digits",
        "--batch-size",
        "8",
        "--set",
        "optimizer.lr=0.1",
        "--set",
        "limit=null",
    ]
    assert CliRunner().invoke(command, [*arguments, "--more", "2"]).exit_code == 0
    overrides = {"batch_size": "8", "optimizer.lr": "0.1", "limit": None}
    assert choices == [(RecipeChoice("digits", overrides), 2)]


def test_the_recipe_is_the_one_named_then_the_folders_then_that_of_the_data(tmp_path):
    (tmp_path / "recipe.yaml").write_text(Recipe.resolve("digits", {"epochs": 7}).dump())
    assert RecipeChoice(None, {}).resolve(tmp_path, resume=True).epochs == 7
    assert RecipeChoice("digits", {}).resolve(tmp_path, resume=True) == Recipe.resolve("digits")
    assert RecipeChoice(None, {}).resolve(tmp_path, resume=False) == Recipe.resolve("digits")
    small = Recipe.resolve("small-images", {"data": "folder:/images"})
    assert RecipeChoice(None, {"data": "folder:/images"}).resolve(None, resume=False) == small


@pytest.mark.parametrize("text", ["epochs", "=3", " =3"])
def test_what_assigns_nothing_is_refused(text):
    with refuses(UsageError, "--set", "key=value", text.strip()):
        assignment(text)


def test_compare_counts_the_values_of_a_varied_key_as_rows(tmp_path):
    arguments = ["compare", "--heads", "none,mlp", "--vary", "objective=infonce:0.2,vicreg", "--seeds", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        printed = CliRunner().invoke(app, arguments)
    assert isinstance(printed.exception, UsageError)
    assert_names(printed.stderr, "4 rows")
