"""The keys of a recipe as one list, from its models: meaning, default and limits of each. Torch-free."""

import json
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fullrank.specs import Spec

# Type -> the description of its values, and its name in help texts.
KINDS: dict[Any, tuple[str, str]] = {
    int: ("whole number", "<int>"),
    float: ("number", "<float>"),
    bool: ("true or false", "<bool>"),
    str: ("text", "<str>"),
    Spec: ("spec", "SPEC"),
}
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "pattern": "matching"}


@dataclass(frozen=True)
class Setting:
    """One key: its dotted name, meaning, default ("required" if there is none), and limits."""

    key: str
    meaning: str
    default: str
    kind: str
    metavar: str
    bounds: str

    @property
    def limits(self) -> str:
        """The description of valid values, such as `number, above 0 and at most 1`."""
        return ", ".join(filter(None, (self.kind, self.bounds)))


def settings_of(model: type[BaseModel], prefix: str = "") -> dict[str, Setting]:
    """Every key of a model with a description, and the keys of its parts under their dotted names.

    >>> from fullrank.runs.recipe import Optimizer
    >>> settings_of(Optimizer, "optimizer.")["optimizer.lr"].limits
    'number, above 0'
    """
    settings: dict[str, Setting] = {}
    for name, field in model.model_fields.items():
        kind = kind_of(field)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            settings |= settings_of(kind, f"{prefix}{name}.")
        elif field.description is not None:
            settings[prefix + name] = _setting(prefix + name, field, field.description)
    return settings


def kind_of(field: FieldInfo) -> Any:
    """The type of a field, without None and annotations."""
    union = get_origin(field.annotation) in (Union, UnionType)
    kinds = get_args(field.annotation) if union else (field.annotation,)
    [kind] = [kind for kind in kinds if kind is not NoneType]
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _setting(key: str, field: FieldInfo, meaning: str) -> Setting:
    kind = kind_of(field)
    literal = get_origin(kind) is Literal
    words, metavar = (f"one of {', '.join(get_args(kind))}", "<str>") if literal else KINDS[kind]
    bounds = " and ".join(
        f"{word} {value}"
        for limit in field.metadata
        for name, word in _BOUNDS.items()
        if (value := getattr(limit, name, None)) is not None
    )
    default = "required" if field.is_required() else field.default
    text = default if isinstance(default, str) else json.dumps(default)
    return Setting(key, meaning, text, words, metavar, bounds)
