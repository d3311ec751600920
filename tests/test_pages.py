"""Each page of docs/ that a command writes is what the command writes today, and holds all there is."""

import importlib
from pathlib import Path

import pytest

import fullrank
from fullrank.cli import pages
from fullrank.heads import HEADS
from fullrank.record import schema_page
from fullrank.record.schema import Record, RunEntry
from fullrank.runs import recipe_page
from fullrank.runs.recipe import RECIPE_KEYS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {
    "recipe": (recipe_page.recipe_page, recipe_page.COMMAND),
    "record": (schema_page.schema_page, schema_page.COMMAND),
    **{name: (page, pages.COMMAND.format(page=name)) for name, page in pages.PAGES.items()},
}


def rows_of(page: str) -> list[str]:
    """The first cell of each row of the page's tables, without its code marks."""
    cells = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| `")]
    return [cell.strip("`") for cell in cells]


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_current_and_names_the_command_that_writes_it(name):
    write, command = PAGES[name]
    module = command.split()[4]
    assert (DOCS / f"{name}.md").read_text() == write(), f"run: {command}"
    assert command in write() and command.endswith(f"> docs/{name}.md")
    assert importlib.import_module(module).__name__ == write.__module__


def test_recipe_page_has_a_row_for_every_key():
    assert rows_of(recipe_page.recipe_page()) == sorted(RECIPE_KEYS, key=lambda key: "." in key)


def test_schema_page_has_the_keys_of_the_record_and_of_what_it_holds():
    sections = schema_page.schema_page().split("\n## ")
    by_name = {section.splitlines()[0]: rows_of(section) for section in sections}
    dumped = Record.model_json_schema(by_alias=True)
    assert by_name["Record"] == list(dumped["properties"])
    assert by_name["RunEntry"] == list(RunEntry.model_fields)
    assert {*dumped["$defs"], "Record"} == {*by_name} - {"# Record schema"}


def test_commands_page_has_the_options_of_a_command_of_a_group():
    section = pages.commands_page().partition("## fullrank theory depth")[2].partition("\n## ")[0]
    assert {"--depth", "--out", "--full"} <= {*rows_of(section)}


def test_catalogue_page_has_every_part_but_not_what_a_session_registered():
    @fullrank.register_head("passing-through")
    class Through(fullrank.NoHead):
        pass

    try:
        page = pages.catalogue_page()
    finally:
        HEADS.unregister("passing-through")
    assert "passing-through" not in page
    # A test module that was imported before may have registered heads of its own.
    for entry in (each for each in HEADS if each.origin is None):
        assert f"### `{entry.usage}`" in page
