"""The list of a recipe's keys: complete, with the limits that validation holds to."""

from typing import get_args

import pytest
from pydantic import BaseModel
from refusals import assert_names, refuses

from fullrank.errors import UsageError
from fullrank.runs.recipe import RECIPE_KEYS, Recipe


def leaves(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every key of a model under its dotted name."""
    names = []
    for name, field in model.model_fields.items():
        parts = [
            part
            for part in (field.annotation, *get_args(field.annotation))
            if isinstance(part, type) and issubclass(part, BaseModel)
        ]
        inside = name != "imports" and [leaf for part in parts for leaf in leaves(part, f"{prefix}{name}.")]
        names += inside or [prefix + name]
    return names


def test_every_key_but_the_imports_is_in_the_list_with_a_meaning():
    assert [*RECIPE_KEYS, "imports"] == leaves(Recipe)
    assert all(key == setting.key and setting.meaning for key, setting in RECIPE_KEYS.items())


def test_kind_limits_and_default_are_those_of_the_field():
    warmup, seed, logger = (RECIPE_KEYS[key] for key in ("optimizer.warmup", "seed", "engine.logger"))
    assert_names(warmup.limits, "number", 0, "below 1")
    assert_names(seed.limits, "whole number", 0, 2**32)
    assert (warmup.default, seed.default, logger.default) == ("0.1", "0", "null")
    assert RECIPE_KEYS["engine.compile"].default == "false"
    assert RECIPE_KEYS["engine.precision"].kind.endswith("32-true, 16-mixed, bf16-mixed")
    assert (RECIPE_KEYS["data"].default, RECIPE_KEYS["data"].kind) == ("required", "spec")


@pytest.mark.parametrize("key", [key for key, setting in RECIPE_KEYS.items() if setting.bounds])
def test_a_value_beyond_the_limits_is_refused_by_key_value_limit_and_default(key):
    value = "two words" if key == "optimizer.name" else "-1"
    with refuses(UsageError, key, value, RECIPE_KEYS[key].default) as error:
        Recipe.resolve("digits", {key: value})
    assert RECIPE_KEYS[key].bounds in str(error.value)
