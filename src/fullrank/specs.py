"""Specs, the grammar that names a part: `name:value,key=value` or `module:Name:value,key=value`."""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fullrank.errors import UsageError

Scalar = int | float | str | bool | tuple[int, ...]
_PLAIN = (int, float, str, bool)


class Spec(str):
    """A parsed spec: a string in canonical form that also holds its parts.

    Aliases are resolved, options at their default are dropped, and keys are sorted. The value is always
    printed, even if it is the default: libraries disagree about the default temperature or width, so a row
    label without it would mislead.

    Attributes:
        name: The name of the part.
        value: What follows the colon, None without one.
        options: The options that differ from their defaults.
        family: The kind of the registry that parsed the spec, "" for none.
        terms: The specs that are added to it by ` + `, sorted; of an objective, its auxiliary terms.

    >>> spec = Spec("mlp", 128, (("hidden", 64),))
    >>> spec, spec.name, spec.value
    ('mlp:128,hidden=64', 'mlp', 128)
    >>> Spec("infonce", 0.2, terms=(Spec("augself", 1.0),))
    'infonce:0.2 + augself:1'
    """

    name: str
    value: Scalar | None
    options: tuple[tuple[str, Scalar], ...]
    family: str
    terms: "tuple[Spec, ...]"

    def __new__(
        cls,
        name: str,
        value: Scalar | None = None,
        options: tuple[tuple[str, Scalar], ...] = (),
        family: str = "",
        terms: "tuple[Spec, ...]" = (),
    ) -> "Spec":
        """Join the parts to one string."""
        head = name if value is None else f"{name}:{write(value)}"
        alone = ",".join([head, *(f"{key}={write(option)}" for key, option in options)])
        spec = super().__new__(cls, " + ".join([alone, *terms]))
        spec.name, spec.value, spec.options, spec.family, spec.terms = name, value, options, family, terms
        return spec

    def __getnewargs__(self) -> tuple[Any, ...]:
        """The arguments that recreate the spec in another process."""
        return self.name, self.value, self.options, self.family, self.terms

    @property
    def alone(self) -> "Spec":
        """The spec without its terms."""
        return Spec(self.name, self.value, self.options, self.family)

    def nested(self) -> "Iterator[Spec]":
        """The spec itself, and the specs among its options and terms."""
        yield self
        for _, value in self.options:
            if isinstance(value, Spec):
                yield from value.nested()
        for term in self.terms:
            yield from term.nested()


@dataclass(frozen=True)
class Parameter:
    """One number or word of a spec.

    Attributes:
        name: The word in a spec, and the keyword of the builder.
        kind: The type. `tuple` is a list of whole numbers, written `1-1-2`. `Spec` is a spec of the same
            family, or one of `choices`.
        meaning: What the parameter does.
        default: The value that is not printed. With None the builder gets no argument unless one is given.
        choices: The allowed words.
        required: Whether a spec must give a value.
        citations: Keys of the bibliography for a spec that sets the parameter.
        keyword: The keyword of the builder where Python does not allow the name, as with `global`.
        word_citations: Pairs of a word and a key of the bibliography, for a spec that chooses this word.
    """

    name: str
    kind: type
    meaning: str
    default: Scalar | None = None
    choices: tuple[str, ...] = ()
    required: bool = False
    citations: tuple[str, ...] = ()
    keyword: str = ""
    word_citations: tuple[tuple[str, str], ...] = ()

    def cited(self, value: Scalar) -> tuple[str, ...]:
        """The citations of a spec that sets the parameter to `value`."""
        return (*self.citations, *(key for word, key in self.word_citations if word == value))

    def parse(self, text: str, spec: str) -> Scalar:
        """The typed value of `text`. Raises UsageError, which quotes the whole `spec`."""
        read, noun = _KINDS[self.kind]
        try:
            value: Scalar = read(text)
        except ValueError:
            raise UsageError(
                f"'{spec}': {self.name} must be {noun}, but got {text!r} ({self.meaning})."
            ) from None
        if self.choices and self.kind is not Spec and value not in self.choices:
            raise UsageError(
                f"'{spec}': {self.name} must be one of {', '.join(self.choices)}, but got {text!r}."
            )
        return value


def parameters_of(
    target: Callable[..., Any], context: Sequence[str], name: str
) -> list[tuple[Parameter, bool]]:
    """The parameters of a class or function, and whether each can be passed by position.

    Args:
        target: The class or function.
        context: Names of parameters to leave out.
        name: The name of the part, for messages.

    Raises:
        UsageError: For a parameter without a default whose type no spec can express.

    >>> def head(in_dim: int, rank: int = 4, *, eps: float = 1e-3): ...
    >>> [(each.name, each.kind.__name__, first) for each, first in parameters_of(head, ["in_dim"], "mine")]
    [('rank', 'int', True), ('eps', 'float', False)]
    """
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return []
    hints, parameters = _hints(target), []
    for key, each in signature.parameters.items():
        if key in context or each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL):
            continue
        required = each.default is each.empty
        default = None if required else each.default
        default = tuple(default) if isinstance(default, list) else default
        kind, choices = _kind_of(hints.get(key), default)
        if kind is not None and (default is None or isinstance(default, (*_PLAIN, tuple))):
            parameter = Parameter(key, kind, f"a parameter of {name}", default, choices, required)
            parameters.append((parameter, each.kind is each.POSITIONAL_OR_KEYWORD))
        elif required:
            raise UsageError(
                f"{name} needs {key}, which no spec can express; give it a default, or a type of "
                "int, float, str, bool or tuple[int, ...]."
            )
    return parameters


def _kind_of(hint: Any, default: Any) -> tuple[type | None, tuple[str, ...]]:
    """The type of a parameter from its annotation, and its allowed words."""
    if hint is None:
        hint = str if default is None else type(default)
    if get_origin(hint) in (Union, UnionType):
        rest = [each for each in get_args(hint) if each is not type(None)]
        hint = rest[0] if len(rest) == 1 else None
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal and all(isinstance(each, str) for each in arguments):
        return str, arguments
    if origin in (tuple, list, Sequence) and int in arguments:
        return tuple, ()
    return (hint, ()) if hint in (*_PLAIN, tuple) else (None, ())


def _hints(target: Any) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError, AttributeError):  # the annotation cannot be evaluated here
        return {}


def split_specs(text: str) -> list[str]:
    """Split a comma-separated list into specs. A segment with `=` before any `:` continues the last spec.

    >>> split_specs("none,linear:48,none,norm=batch")
    ['none', 'linear:48', 'none,norm=batch']
    """
    specs: list[str] = []
    for segment in split_outside_quotes(text, ","):
        if not segment.strip():
            raise UsageError(f"'{text}': an empty name between commas; remove the extra comma.")
        if re.match(r"[^:\"]*=", segment):
            if not specs:
                raise UsageError(f"'{text}': '{segment}' does not continue a spec; put a name before it.")
            specs[-1] += f",{segment.strip()}"
        else:
            specs.append(segment.strip())
    return specs


def split_outside_quotes(text: str, separator: str, at_most: int = -1) -> list[str]:
    """Split at `separator` outside double quotes."""
    parts: list[str] = []
    start = 0
    for match in re.finditer(rf'"(?:\\.|[^"\\])*("?)|{separator}', text, re.DOTALL):
        if match[1] == "":
            raise UsageError(f"'{text}': a double quote is not closed; add the second one.")
        if match[1] is None and len(parts) != at_most:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def unquote(text: str) -> str:
    """A value without its enclosing double quotes."""
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r'\\(["\\])', r"\1", text[1:-1])
    return text


def write(value: Scalar) -> str:
    """A value as written in a spec: `0.1`, `true`, `1-1-2`; quoted if it contains a comma, `=` or a quote."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    text = str(value)
    if any(mark in text for mark in (",", "=", '"', " + ")) or text != text.strip():
        return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
    return text


def _parse_bool(text: str) -> bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise ValueError(text)


def _parse_str(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


# How each type is parsed, and its name in errors.
_KINDS: dict[type, tuple[Callable[[str], Any], str]] = {
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (_parse_str, "a word"),
    bool: (_parse_bool, "true or false"),
    Spec: (_parse_str, "a spec"),
    tuple: (lambda text: tuple(int(part) for part in text.split("-")), "whole numbers joined by '-'"),
}
