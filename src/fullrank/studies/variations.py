"""The rows of a study: heads crossed with the values of varied keys, each row a recipe. Torch-free."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from fullrank.errors import UsageError, unknown_name
from fullrank.record.schema import row_name
from fullrank.runs.folders import slug
from fullrank.runs.recipe import RECIPE_KEYS, Recipe
from fullrank.specs import Spec, split_specs, unquote, write

# What a study takes by options of their own.
_OWN_OPTIONS = {"head": "--heads none,mlp:128", "seed": "--seeds 3"}
_EXAMPLE = "--vary objective=infonce:0.2,vicreg"


@dataclass(frozen=True)
class PlannedRow:
    """A row of a study: its recipe, and the value of each varied key in it."""

    recipe: Recipe
    varied: dict[str, str]

    @property
    def name(self) -> str:
        """What tables, figures and the progress line call it."""
        return row_name(self.recipe.head, self.varied)

    @property
    def folder(self) -> str:
        """Its name as the start of a folder's name, before the seed.

        A digest is added where the name is too long, or where another path could give the same one.
        """
        parts = [self.recipe.head, *(f"{key}-{value}" for key, value in self.varied.items())]
        text = "-".join(parts)
        if not self.varied or (len(text) <= 100 and "/" not in text):
            return slug(text)
        return f"{slug(text)[:80]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def planned_rows(
    recipe: Any, overrides: Mapping[str, Any], heads: Sequence[Spec], vary: Mapping[str, Any]
) -> list[PlannedRow]:
    """Every head with every combination of the varied values, heads outermost.

    Args:
        recipe: What `Recipe.resolve` takes.
        overrides: Keys that all rows share.
        heads: Specs of heads; none for the recipe's own.
        vary: The values of each varied key, as a sequence or as text with commas between them.

    Returns:
        The rows, each with its resolved recipe.

    Raises:
        UsageError: For an unknown key, a value that its key does not allow, a value named twice, a key that
            is both fixed and varied, and for a study of a single row with nothing varied and no heads.
    """
    values = {key: _values(key, given) for key, given in vary.items()}
    if not heads and not values:
        raise UsageError(f"A study needs something to compare; give --heads none,mlp:128 or {_EXAMPLE}.")
    for key in values:
        if key in overrides:
            raise UsageError(f"--vary {key} and {key}={overrides[key]} exclude each other; leave one out.")
    own: list[dict[str, Any]] = [{"head": head} for head in heads] or [{}]
    rows = [
        PlannedRow(*_resolved(recipe, {**overrides, **head}, dict(zip(values, combination, strict=True))))
        for head, combination in product(own, product(*values.values()))
    ]
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"Two rows would be '{name}'; name each value of --vary once.")
    return rows


def value_of(recipe: Recipe, key: str) -> str:
    """The value of a dotted key as `--vary` takes it: a spec, a number, a word, or null.

    >>> value_of(Recipe.resolve("digits", {"optimizer.lr": "1e-3"}), "optimizer.lr")
    '0.001'
    """
    value: Any = recipe
    for name in key.split("."):
        value = getattr(value, name, None)
    if value is None:
        return "null"
    return str(value) if isinstance(value, Spec) else write(value)


def _values(key: str, given: Any) -> list[Any]:
    """The values of a key; UsageError for a key that cannot be varied, and for no values."""
    if key in _OWN_OPTIONS:
        raise UsageError(f"--vary takes no {key}; give {_OWN_OPTIONS[key]}.")
    if key not in RECIPE_KEYS:
        raise unknown_name("key to vary", key, RECIPE_KEYS, "`fullrank list recipe-keys` shows all")
    if isinstance(given, str):
        # A word may be quoted; in a spec the quotes belong to its grammar.
        texts = split_specs(given)
        given = texts if RECIPE_KEYS[key].kind == "spec" else [unquote(text) for text in texts]
    if not isinstance(given, Sequence) or not given:
        raise UsageError(f"--vary {key} needs a list of values, but got {given!r}; write {_EXAMPLE}.")
    if key == "data" and not all(isinstance(value, str | type) for value in given):
        raise UsageError("A study reads images by the spec of a source; train and diagnose take a Dataset.")
    return [None if value == "null" else value for value in given]


def _resolved(
    recipe: Any, shared: Mapping[str, Any], varied: Mapping[str, Any]
) -> tuple[Recipe, dict[str, str]]:
    """The recipe of a row, and its varied values in their canonical form; an error names these values."""
    try:
        resolved = Recipe.resolve(recipe, {**shared, **varied})
    except UsageError as error:
        if not varied:
            raise
        named = ", ".join(f"{key}={getattr(value, '__name__', value)}" for key, value in varied.items())
        raise UsageError(f"With {named}: {error}") from None
    return resolved, {key: value_of(resolved, key) for key in varied}
