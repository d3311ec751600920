"""docs/record.md, written from the models of a record: `python -m fullrank.record.schema_page`."""

import inspect
import json
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from fullrank.record.schema import SCHEMA, Record

COMMAND = "uv run python -m fullrank.record.schema_page > docs/record.md"
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value"}


def schema_page() -> str:
    """The page: a section for the record and for each model inside it, with a table of its keys."""
    lines = [
        f"# Record schema\n\nThis page is written by `{COMMAND}`.\n",
        f"Every command leaves `record.json` in its folder. This is schema {SCHEMA}; older records are still "
        "read, and a new version only adds keys. Each section is one object of the file. "
        "`fullrank.record.Record.load(FOLDER)` reads a record and checks it.",
    ]
    for model in models_of(Record):
        paragraphs = (inspect.getdoc(model) or "").split("\n\n")
        prose = [f"\n{text}" for text in paragraphs if not text.startswith(">>>")]
        lines += [f"\n## {model.__name__}", *prose, "\n| key | a value is | default |", "|---|---|---|"]
        for name, field in model.__pydantic_fields__.items():
            lines.append(f"| `{field.alias or name}` | {kind(field.annotation)} | {_default(field)} |")
    return "\n".join(lines) + "\n"


def models_of(model: Any) -> list[Any]:
    """A model and those that its fields hold, each once, in the order in which they are met.

    >>> [each.__name__ for each in models_of(Record)][:3]
    ['Record', 'Machine', 'RunEntry']
    """
    found, waiting = [], [model]
    while waiting:
        kind = waiting.pop(0)
        if hasattr(kind, "__pydantic_fields__"):
            if kind not in found:
                found.append(kind)
                waiting += [field.annotation for field in kind.__pydantic_fields__.values()]
        else:
            waiting[:0] = get_args(kind)
    return found


def kind(annotation: Any) -> str:
    """A type in plain words, with a link to the section of a model.

    >>> kind(dict[str, float | None])
    'object of (number or null) by name'
    >>> kind(list[Literal["a", "b"]])
    'list of (one of `a`, `b`)'
    >>> kind(tuple[tuple[str, int], ...])
    'list of [text, whole number]'
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind(inner[0])
    if origin in (Union, UnionType):
        return " or ".join("null" if each is NoneType else kind(each) for each in inner)
    if origin is Literal:
        return f"one of {', '.join(f'`{value}`' for value in inner)}"
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"[{', '.join(map(kind, inner))}]"
    if origin in (list, tuple):
        return (
            f"list of ({kind(inner[0])})" if get_origin(inner[0]) is Literal else f"list of {kind(inner[0])}"
        )
    if origin is dict:
        several = get_origin(inner[1]) in (Literal, Union, UnionType)
        return f"object of ({kind(inner[1])}) by name" if several else f"object of {kind(inner[1])} by name"
    return _WORDS.get(annotation) or f"[{annotation.__name__}](#{annotation.__name__.lower()})"


def _default(field: Any) -> str:
    return "required" if field.default is PydanticUndefined else f"`{json.dumps(field.default)}`"


if __name__ == "__main__":
    print(schema_page(), end="")
