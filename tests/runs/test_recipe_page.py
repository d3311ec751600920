"""docs/recipe.md is what its command writes today."""

from pathlib import Path

from fullrank.runs.recipe import RECIPE_KEYS
from fullrank.runs.recipe_page import COMMAND, recipe_page


def test_the_page_is_current_and_names_the_command_that_writes_it():
    page = Path(__file__).parents[2] / "docs" / "recipe.md"
    assert page.read_text() == recipe_page()
    assert COMMAND in recipe_page() and COMMAND.endswith(f"> docs/{page.name}")


def test_every_key_has_a_row():
    rows = [line.split("|")[1].strip() for line in recipe_page().splitlines() if line.startswith("| `")]
    assert rows == [f"`{key}`" for key in sorted(RECIPE_KEYS, key=lambda key: "." in key)]
