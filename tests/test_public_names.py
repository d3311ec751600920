"""Every public name of fullrank describes each of its arguments and has its entry in docs/api.md."""

import inspect
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

import fullrank

API = Path(__file__).parents[1] / "docs" / "api.md"
# The keys of a recipe are described where they are defined, and docs/recipe.md lists them.
MODELS = {name for name in fullrank.__all__ if issubclass(type(getattr(fullrank, name)), type(BaseModel))}
CALLABLES = sorted(name for name in {*fullrank.__all__} - MODELS if callable(getattr(fullrank, name)))


def described_arguments(docstring: str) -> list[str]:
    """The names that the section `Args:` of a docstring describes, in its order."""
    section = re.search(r"^Args:\n((?: {4,}.*\n?)+)", docstring, re.MULTILINE)
    return re.findall(r"^ {4}\**(\w+): \S", section[1], re.MULTILINE) if section else []


@pytest.mark.parametrize("name", CALLABLES)
def test_a_public_name_describes_each_of_its_arguments(name):
    part = getattr(fullrank, name)
    assert described_arguments(inspect.getdoc(part) or "") == list(inspect.signature(part).parameters)


def test_described_arguments_reads_nothing_of_other_sections():
    docstring = (
        "Sum.\n\nArgs:\n    a: One\n        b: no name, a line of `a`.\n    c: Two\n\nRaises:\n    d: No.\n"
    )
    assert described_arguments(docstring) == ["a", "c"]


def test_the_models_among_the_public_names_are_those_of_a_recipe():
    assert {"Optimizer", "Recipe"} == MODELS


def test_api_page_has_one_entry_for_every_public_name():
    entries = re.findall(r"^::: fullrank\.(\w+)$", API.read_text(), re.MULTILINE)
    assert sorted(entries) == sorted(n for n in fullrank.__all__ if not n.startswith(("register_", "__")))
