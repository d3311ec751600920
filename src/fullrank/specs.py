"""Specs, the one small grammar for naming a part, and registries, the torch-free catalogues behind it.

    name          name:value          name:value,key=value

The same string works on the command line, in Python, in a recipe file and as the row label of a table.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from fullrank.errors import UsageError, unknown_name

Scalar = int | float | str | bool | tuple[int, ...]
_FOREIGN_NAME = re.compile(r"[a-z0-9_.]+")


@dataclass(frozen=True)
class Parameter:
    """One number or word of a spec: the builder's keyword, its type, and the value that is dropped.

    A parameter whose `default` is None may be left out, and the builder then gets nothing for it, unless
    it is `required`. The type `tuple` is a list of whole numbers written `1-1-2`.
    """

    name: str
    kind: type
    meaning: str
    default: Scalar | None = None
    choices: tuple[str, ...] = ()
    required: bool = False

    def parse(self, text: str, spec: str) -> Scalar:
        """The typed value of `text`; raises UsageError that quotes the whole `spec`."""
        try:
            value: Scalar = _PARSERS[self.kind](text)
        except ValueError:
            raise UsageError(
                f"'{spec}': {self.name} must be {_NOUNS[self.kind]}, but got {text!r} ({self.meaning})."
            ) from None
        if self.choices and value not in self.choices:
            raise UsageError(
                f"'{spec}': {self.name} must be one of {', '.join(self.choices)}, but got {text!r}."
            )
        return value


@dataclass(frozen=True)
class Entry:
    """What a catalogue knows of one part without importing it.

    `builder` is the dotted path `module:callable`; `source` says which paper, equation or table row it is.
    """

    name: str
    builder: str
    summary: str
    source: str
    value: Parameter | None = None
    options: tuple[Parameter, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def usage(self) -> str:
        """How the spec is written: `linear[:OUT_DIM][,KEY=VALUE]`."""
        text = self.name
        if self.value is not None:
            word = f":{self.value.name.upper()}"
            text += word if self.value.required else f"[{word}]"
        return text + ("[,KEY=VALUE]" if self.options else "")

    def load(self) -> Any:
        """The builder itself: this is what imports the part."""
        module, _, attribute = self.builder.partition(":")
        return getattr(import_module(module), attribute)


@dataclass(frozen=True)
class Spec:
    """A parsed spec, typed and canonical: alias resolved, options at their default dropped, keys sorted.

    The value itself is always printed, also when it is the default: libraries disagree about the default
    temperature or width, so a row label that hides it misleads.
    """

    name: str
    value: Scalar | None = None
    options: tuple[tuple[str, Scalar], ...] = ()

    def __str__(self) -> str:
        head = self.name if self.value is None else f"{self.name}:{write(self.value)}"
        return ",".join([head, *(f"{key}={write(value)}" for key, value in self.options)])


class Registry:
    """The parts of one family, by name, as frozen entries; importing one imports none of them.

    An *open entry* `other`, called `LIBRARY/NAME`, stands for every part of another library. A name that
    nobody registered, made of a-z, 0-9, `_` and `.`, is parsed as that entry under its own name, without a
    leading `LIBRARY/`, and its builder gets it as the keyword `model`. Whether the library knows the name
    is found when it is built, so that parsing imports nothing.

    >>> from fullrank.heads import HEADS
    >>> str(HEADS.parse("directclr"))
    'subvector:360'
    >>> str(HEADS.parse("mlp:128,norm=none,hidden=64"))
    'mlp:128,hidden=64'
    """

    def __init__(self, kind: str, room: str, other: Entry | None = None):
        self.kind, self.room, self.other = kind, room, other
        self._entries: dict[str, Entry] = {}
        self._aliases: dict[str, str] = {}

    def __iter__(self) -> Iterator[Entry]:
        yield from self._entries.values()
        if self.other is not None:
            yield self.other

    def __len__(self) -> int:
        return len(self._entries) + (self.other is not None)

    def __getitem__(self, name: str) -> Entry:
        name = self._aliases.get(name, name)
        if name in self._entries:
            return self._entries[name]
        if self.other is not None:
            bare = name.removeprefix(self.other.name.partition("/")[0] + "/")
            if _FOREIGN_NAME.fullmatch(bare):
                return replace(self.other, name=bare)
        known = [*self._entries, *self._aliases]
        raise unknown_name(self.kind, name, known, f"`fullrank list {self.room}` shows all")

    def register(self, entry: Entry) -> None:
        """Add a part; a name or alias that is taken raises UsageError."""
        for name in (entry.name, *entry.aliases):
            if name in self._entries or name in self._aliases:
                raise UsageError(f"The {self.kind} name {name!r} is taken; register it under another name.")
        self._entries[entry.name] = entry
        self._aliases.update(dict.fromkeys(entry.aliases, entry.name))

    def parse(self, text: str) -> Spec:
        """The canonical spec of `text`; raises UsageError for an unknown name or key or a bad value."""
        segments = _split(text, ",")
        name, *rest = _split(segments[0], ":", at_most=1)
        entry = self[name.strip()]
        value: Scalar | None = None
        if rest:
            if entry.value is None:
                raise UsageError(
                    f"'{text}': {self.kind} '{entry.name}' takes no value, but got '{rest[0]}'; "
                    f"write {entry.usage}."
                )
            value = entry.value.parse(_unquote(rest[0]), text)
        elif entry.value is not None:
            if entry.value.required:
                raise UsageError(
                    f"'{text}': {self.kind} '{entry.name}' needs a value ({entry.value.meaning}); "
                    f"write {entry.usage}."
                )
            value = entry.value.default
        known = {option.name: option for option in entry.options}
        options: dict[str, Scalar] = {}
        for segment in segments[1:]:
            key, *given = _split(segment, "=", at_most=1)
            key = key.strip()
            if not given:
                raise UsageError(f"'{text}': expected key=value after the first comma, but got '{segment}'.")
            if entry.value is not None and key == entry.value.name:
                raise UsageError(
                    f"'{text}': {key} is the value of '{entry.name}'; write {entry.name}:{given[0]}."
                )
            if key not in known:
                raise unknown_name(
                    f"option of '{entry.name}'", key, known, f"it takes {', '.join(known)} (in '{text}')"
                )
            if key in options:
                raise UsageError(f"'{text}': {key} is given twice; keep one.")
            options[key] = known[key].parse(_unquote(given[0]), text)
        kept = {key: given for key, given in options.items() if given != known[key].default}
        return Spec(entry.name, value, tuple(sorted(kept.items())))

    def build(self, spec: str | Spec, **context: Any) -> Any:
        """Import the part and call its builder with the spec's value and options and the `context`."""
        spec = self.parse(str(spec))
        entry = self[spec.name]
        arguments: dict[str, Any] = {o.name: o.default for o in entry.options if o.default is not None}
        arguments.update(spec.options)
        if entry.value is not None and spec.value is not None:
            arguments[entry.value.name] = spec.value
        if entry.name not in self._entries:
            arguments["model"] = entry.name
        return entry.load()(**context, **arguments)


def split_specs(text: str) -> list[str]:
    """Cut a comma-separated list into specs: a segment with `=` before any `:` continues the one before it.

    >>> split_specs("none,linear:48,none,norm=batch")
    ['none', 'linear:48', 'none,norm=batch']
    """
    specs: list[str] = []
    for segment in _split(text, ","):
        if not segment.strip():
            raise UsageError(f"'{text}': an empty name between commas; remove the extra comma.")
        if re.match(r"[^:\"]*=", segment):
            if not specs:
                raise UsageError(f"'{text}': '{segment}' continues no spec; put a name before it.")
            specs[-1] += f",{segment.strip()}"
        else:
            specs.append(segment.strip())
    return specs


def _split(text: str, separator: str, at_most: int = -1) -> list[str]:
    """Split at `separator` outside double quotes."""
    parts: list[str] = []
    start, quoted, escaped = 0, False, False
    for position, character in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == separator and not quoted and len(parts) != at_most:
            parts.append(text[start:position])
            start = position + 1
    if quoted:
        raise UsageError(f"'{text}': a double quote is never closed.")
    return [*parts, text[start:]]


def _unquote(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r'\\(["\\])', r"\1", text[1:-1])
    return text


def write(value: Scalar) -> str:
    """A value as a spec spells it: `0.1`, `true`, `1-1-2`, quoted where it holds a comma, `=` or a quote."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    text = str(value)
    if any(character in text for character in ',="') or text != text.strip():
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


_PARSERS: dict[type, Any] = {
    int: int,
    float: float,
    str: _parse_str,
    bool: _parse_bool,
    tuple: lambda text: tuple(int(part) for part in text.split("-")),
}
_NOUNS = {
    int: "a whole number",
    float: "a number",
    str: "a word",
    bool: "true or false",
    tuple: "whole numbers joined by '-'",
}
