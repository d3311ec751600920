"""Registries: torch-free catalogues of the parts that specs name, ours and those of other packages."""

import inspect
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from fullrank import door
from fullrank.bibliography import key_of
from fullrank.door import Origin
from fullrank.errors import UsageError, explained, unknown_name
from fullrank.specs import Parameter, Scalar, Spec, parameters_of, split_outside_quotes, unquote, write

_FOREIGN_NAME = re.compile(r"[a-z0-9_.]+")
# The registries that were made so far, to say which family a misplaced name belongs to.
_FAMILIES: "list[Registry]" = []


@dataclass(frozen=True)
class Entry:
    """What a catalogue knows about one part without importing it.

    Attributes:
        name: The name in specs.
        builder: The dotted path `module:callable`; for a part that was registered from outside, the callable.
        summary: One line that says what the part does.
        source: The paper, with its equation, table or section.
        value: The parameter after the colon of a spec, if there is one.
        options: The parameters written as `key=value`.
        aliases: Other names of the part.
        origin: The module of a part that is not ours.
        citations: Keys of the bibliography, or BibTeX entries.
        families: Pairs of the beginning of a spec and a further key, for a part that stands for many.
        alone: The dotted path of the class that the name alone builds, where `builder` is a function.
    """

    name: str
    builder: str | Callable[..., Any]
    summary: str
    source: str
    value: Parameter | None = None
    options: tuple[Parameter, ...] = ()
    aliases: tuple[str, ...] = ()
    origin: Origin | None = None
    citations: tuple[str, ...] = ()
    families: tuple[tuple[str, str], ...] = ()
    alone: str = ""

    def cited(self, value: Scalar | None = None) -> tuple[str, ...]:
        """Its citations, and those of the family that its name, or its spec with `value`, belongs to."""
        spec = f"{self.name}:{value}"
        return (*self.citations, *(key for start, key in self.families if spec.startswith(start)))

    @property
    def usage(self) -> str:
        """The form of the spec, as in `linear[:OUT_DIM][,KEY=VALUE]`."""
        text = self.name
        if self.value is not None:
            word = f":{self.value.name.upper()}"
            text += word if self.value.required else f"[{word}]"
        return text + ("[,KEY=VALUE]" if self.options else "")

    def load(self) -> Any:
        """Import the part and return its builder."""
        if not isinstance(self.builder, str):
            return self.builder
        module, _, attribute = self.builder.partition(":")
        return getattr(import_module(module), attribute)


class Registry:
    """The parts of one family, by name, as frozen entries. A registry imports none of its parts.

    Args:
        kind: What a part is called in messages, as in `head`.
        room: The name of the family in `fullrank list`, as in `heads`.
        other: An open entry called `LIBRARY/NAME`. It stands for every part of another library. Any
            unregistered name of a-z, 0-9, `_` and `.` belongs to it, with or without `LIBRARY/` in front, and
            goes to the builder as `model`. The library checks the name when the part is built.
        context: Keywords that builders may take besides the numbers of a spec, such as the width of h.
        shared: Options of every part of the family, which the family and not the builder handles. A part that
            has an option of one of these names handles that itself.
        offered: A keyword of `context` -> such options of only those parts whose builder takes the keyword.
        group: The entry-point group of installed packages whose parts belong to the family.
        builder_of: Returns what builds somebody else's part, if that is not the class or function itself.
        suggest: Returns the spec of a file, a folder or another text that is no name; "" if it knows none.
        terms: The registry of what may be added to a part by ` + `, if anything may.

    >>> from fullrank.heads import HEADS
    >>> HEADS.parse("directclr")
    'subvector:360'
    >>> HEADS.parse("mlp:128,norm=none,hidden=64")
    'mlp:128,hidden=64'
    """

    def __init__(
        self,
        kind: str,
        room: str,
        other: Entry | None = None,
        *,
        context: tuple[str, ...] = (),
        shared: tuple[Parameter, ...] = (),
        offered: Mapping[str, tuple[Parameter, ...]] | None = None,
        group: str | None = None,
        builder_of: Callable[[Any], Callable[..., Any]] = lambda target: target,
        suggest: Callable[[str], str] = lambda text: "",
        terms: "Registry | None" = None,
    ):
        self.kind, self.room, self.other, self.builder_of = kind, room, other, builder_of
        self.suggest, self.terms = suggest, terms
        self.context, self.shared, self.group = context, shared, group
        self.offered = dict(offered or {})
        self._entries: dict[str, Entry] = {}
        self._aliases: dict[str, str] = {}
        _FAMILIES.append(self)

    def __iter__(self) -> Iterator[Entry]:
        yield from self._entries.values()
        if self.other is not None:
            yield self.other

    def __len__(self) -> int:
        return len(self._entries) + (self.other is not None)

    def __getitem__(self, name: str) -> Entry:
        return self.entry(name)

    def entry(self, name: str, *, from_file: bool = False) -> Entry:
        """The part with this name: registered, or from an installed package, a module or another library.

        Args:
            name: The name or an alias.
            from_file: The name was read from a file, so no new module is imported for it.

        Raises:
            UsageError: For an unknown name.
        """
        name = self._aliases.get(name, name)
        if name in self._entries:
            return self._entries[name]
        if self.group is not None and (point := door.installed_part(self.group, name, self.kind)) is not None:
            # Its module may have registered it by a decorator.
            return self._entries.get(name) or self._admit(name, *point)
        if ":" in name:
            return self._of_module(name, from_file)
        if self.terms is not None and name in self.terms._names():
            raise UsageError(
                f"{name!r} is an {self.terms.kind}, which is added to an {self.kind}; write it after one, as "
                f"in 'infonce:0.2 + {name}:1'."
            )
        if hint := self._hint(name):
            raise UsageError(f"Unknown {self.kind} {name!r}: {hint}.")
        if self.other is not None:
            bare = name.removeprefix(self.other.name.partition("/")[0] + "/")
            if _FOREIGN_NAME.fullmatch(bare):
                return replace(self.other, name=bare)
        if name.endswith(".py"):
            raise UsageError(f"The {self.kind} '{name}' names a file but no class in it; write {name}:CLASS.")
        yours = "" if self.group is None else ", and your own parts need --import"
        if room := next((each.room for each in _FAMILIES if name in (*each._entries, *each._aliases)), ""):
            yours = f", and {name!r} is in `fullrank list {room}`"
        raise unknown_name(self.kind, name, self._names(), f"`fullrank list {self.room}` shows all{yours}")

    def _hint(self, name: str) -> str:
        """How to write a class, a file or a folder that was given instead of a name; "" for anything else."""
        for entry in self._entries.values():
            built = entry.alone or entry.builder
            if isinstance(built, str) and built.rpartition(":")[2] == name:
                return f"the class {name} is called {entry.name!r} here"
        try:
            hint = self.suggest(name)
        except OSError:  # a text that cannot be the name of a file
            hint = ""
        if hint:
            return hint
        if name.isidentifier() and name[0].isupper() and not get_close_matches(name.lower(), self._names()):
            return f"a class of yours is written with its module or file, module:{name} or file.py:{name}"
        return ""

    def of(self, spec: Spec) -> Entry:
        """The entry of a parsed spec, or of one of its terms."""
        family = self.terms if self.terms is not None and spec.family == self.terms.kind else self
        return family[spec.name]

    def installed(self) -> dict[str, str]:
        """The unregistered names that installed packages offer, each with its package."""
        offered = {} if self.group is None else door.installed_names(self.group)
        return {name: by for name, by in offered.items() if name not in self._entries}

    def register(self, entry: Entry) -> None:
        """Add a part; raises UsageError if its name or an alias is taken."""
        for name in (entry.name, *entry.aliases):
            if name in self._entries or name in self._aliases:
                taken = self._entries[self._aliases.get(name, name)]
                by = f" by {taken.origin.module}" if taken.origin else ""
                raise UsageError(
                    f"The {self.kind} name {name!r} is taken{by}; register it under another name."
                )
        own = _option_names(entry)
        options = (*entry.options, *(o for o in self.shared if o.name not in own))
        self._entries[entry.name] = replace(entry, options=options)
        self._aliases.update(dict.fromkeys(entry.aliases, entry.name))

    def unregister(self, name: str) -> None:
        """Remove a part, if it is registered."""
        if self._entries.pop(name, None) is not None:
            self._aliases = {alias: part for alias, part in self._aliases.items() if part != name}

    def add(
        self, name: str, *, summary: str = "", source: str = "", aliases: tuple[str, ...] = ()
    ) -> Callable[[Callable[..., Any]], Any]:
        """A decorator that registers a class or function of yours under `name`.

        The spec's value and options come from its signature. The first parameter that can be given by
        position is the value; the parameters after it are options, written by their types. What the family
        gives to every builder (`context`) is neither. Loading a module again registers its parts again. A
        class attribute `bibtex` holds the BibTeX of its papers for `fullrank cite`.

        Args:
            name: The name in specs, as in `@register_head("axes")` and `--head axes:24`.
            summary: One line for `fullrank list`; by default the first line of the docstring.
            source: The paper, equation or table that the part comes from, for `fullrank list`.
            aliases: Further names for the same part.

        Raises:
            UsageError: The name is taken, or no spec can write the type of a parameter.
        """

        if not isinstance(name, str):
            raise UsageError(
                f"A decorator that registers a {self.kind} needs its name; write it with parentheses, "
                f"as in @register_{self.kind}('my-name')."
            )

        def register(target: Callable[..., Any]) -> Any:
            before = self._entries.get(name)
            # The same part, defined twice: a notebook cell that ran again.
            if before and before.origin and door.home_of(before.load()) == door.home_of(target):
                self.unregister(name)
            entry = self._described(name, target, door.origin_of(target))
            entry = replace(entry, summary=summary or entry.summary, source=source or entry.source)
            self.register(replace(entry, aliases=aliases))
            return target

        return register

    def parse(self, part: str | Callable[..., Any], *, from_file: bool = False) -> Spec:
        """The canonical spec of a text, or of a class or function of yours; a parsed spec is kept.

        Args:
            part: A spec, a class or a function. `module:Name` and `file.py:Name` import that module.
            from_file: The text was read from a file, so no new module is imported for it.

        Raises:
            UsageError: For an unknown name or key, a bad value, or another kind of object.
        """
        if isinstance(part, Spec) and part.family == self.kind:
            return part
        return self._parse_text(part, from_file) if isinstance(part, str) else self.parse(self._named(part))

    def build(self, part: str | Callable[..., Any], **context: Any) -> Any:
        """Import the part and call its builder with the numbers of the spec.

        Args:
            part: A spec, a class or a function.
            **context: Further keywords; the builder of somebody else gets those that it accepts.

        Raises:
            UsageError: If the builder of a part that is not ours fails.
        """
        spec = self.parse(part)
        entry = self[spec.name]
        defaults = {option.name: option.default for option in entry.options if option.default is not None}
        arguments: dict[str, Any] = {**defaults, **dict(spec.options)}
        for option in (*self.shared, *(option for options in self.offered.values() for option in options)):
            if option in entry.options:
                arguments.pop(option.name, None)
        for option in entry.options:
            if option.keyword and option.name in arguments:
                arguments[option.keyword] = arguments.pop(option.name)
        if entry.value is not None and spec.value is not None:
            arguments[entry.value.name] = spec.value
        if entry.name not in self._entries:
            arguments["model"] = entry.name
        builder = entry.load()
        if entry.origin is None:
            return builder(**context, **arguments)
        with explained(f"The {self.kind} '{spec}' of {entry.origin.module} cannot be built"):
            return builder(**_accepted(builder, context), **arguments)

    def _parse_text(self, text: str, from_file: bool) -> Spec:
        if self.terms is None:
            return self._parse_alone(text, from_file)
        first, *added = split_outside_quotes(text, r" \+ ")
        self._check_sum(text, first, added)
        spec = self._parse_alone(first, from_file)
        for part in added:
            if (name := re.split("[:,]", part.strip())[0]) in self._names():
                raise UsageError(
                    f"'{text}': {name} is a second {self.kind}, and a sum has one; train each alone, or add "
                    f"{' or '.join(self.terms._names())}."
                )
        terms = sorted(self.terms.parse(part, from_file=from_file) for part in added)
        if twice := next((term.name for term in terms if [t.name for t in terms].count(term.name) > 1), ""):
            raise UsageError(f"'{text}': the term {twice} is given twice; keep one.")
        return Spec(spec.name, spec.value, spec.options, spec.family, tuple(terms))

    def _check_sum(self, text: str, first: str, added: list[str]) -> None:
        """Raise UsageError for a sum without spaces, or with nothing between two of them."""
        names = self.terms._names() if self.terms is not None else []
        for tight in split_outside_quotes(first, r"\+")[1:]:
            if (name := re.split("[:,]", tight.strip())[0]) in names:
                raise UsageError(f"'{text}': a term has spaces around its plus sign; write ' + {name}'.")
        if not all(part.strip() for part in (first, *added)):
            raise UsageError(
                f"'{text}': a plus sign has nothing beside it; write as in 'infonce + {names[0]}'."
            )

    def _parse_alone(self, text: str, from_file: bool) -> Spec:
        """The spec of one part, without terms."""
        first, *segments = split_outside_quotes(text, ",")
        name, *rest = self._split_name(first.strip())
        entry = self.entry(name.strip(), from_file=from_file)
        value = self._parse_value(entry, rest, text)
        by_name = {option.name: option for option in entry.options}
        options: dict[str, Scalar] = {}
        for segment in segments:
            key, *words = split_outside_quotes(segment, "=", at_most=1)
            key = key.strip()
            if not words:
                problem = f"'{text}': expected key=value after the first comma, but got '{segment}'"
                raise UsageError(f"{problem}{_quoted(entry, text)}.")
            if entry.value is not None and key == entry.value.name:
                raise UsageError(
                    f"'{text}': {key} is the value of '{entry.name}'; write {entry.name}:{words[0]}."
                )
            if key not in by_name:
                remedy = f"it takes {', '.join(by_name)} (in '{text}')"
                if able := [part.name for part in self._entries.values() if key in _option_names(part)]:
                    raise UsageError(
                        f"'{text}': {entry.name!r} has no option {key!r}, but {', '.join(able)} can take it; "
                        f"{remedy}."
                    )
                raise unknown_name(f"option of '{entry.name}'", key, by_name, remedy)
            if key in options:
                raise UsageError(f"'{text}': {key} is given twice; keep one.")
            options[key] = by_name[key].parse(unquote(words[0]), text)
            if by_name[key].kind is Spec and options[key] not in by_name[key].choices:
                options[key] = self._parse_text(str(options[key]), from_file)
        changed = [(key, option) for key, option in options.items() if option != by_name[key].default]
        return Spec(entry.name, value, tuple(sorted(changed)), self.kind)

    def _parse_value(self, entry: Entry, words: list[str], text: str) -> Scalar | None:
        """The value after the name of a spec, or the default."""
        start, write = f"'{text}': {self.kind} '{entry.name}'", f"write {entry.usage}"
        if entry.value is None:
            if words:
                raise UsageError(f"{start} takes no value, but got '{words[0]}'; {write}.")
            return None
        if words:
            return entry.value.parse(unquote(words[0]), text)
        if entry.value.required:
            raise UsageError(f"{start} needs a value ({entry.value.meaning}); {write}.")
        return entry.value.default

    def _split_name(self, segment: str) -> list[str]:
        """The name of a spec and its value, if it has one; `module:Name` is a single name."""
        of_module = (name for name in self._entries if ":" in name and f"{segment}:".startswith(f"{name}:"))
        if (name := next(of_module, None)) is None:
            first, *rest = split_outside_quotes(segment, ":", at_most=1)
            match = door.MODULE_NAME.match(segment)
            if match is None or (rest and first.strip() in self._names()):
                return [first, *rest]
            name = match[0]
        return [name, segment[len(name) + 1 :]] if len(segment) > len(name) else [name]

    def _names(self) -> list[str]:
        """Every known name, found without importing any part."""
        return [*self._entries, *self._aliases, *self.installed()]

    def _of_module(self, name: str, from_file: bool) -> Entry:
        """The entry of `module:Name`, which is registered under that name on first use."""
        module, _, attribute = name.rpartition(":")
        label = door.label_of(module)
        canonical = f"{label}:{attribute}"
        if from_file and canonical not in self._entries and label not in door.imported:
            raise UsageError(
                f"The {self.kind} '{name}' comes from {module}, which is not imported because a file "
                f"names it; if you trust that module, add --import {module} (imports=[{module!r}] in "
                "Python)."
            )
        if not from_file:
            door.import_named(module, self.kind, self._names())
        if canonical in self._entries:
            return self._entries[canonical]
        return self._admit(
            canonical, door.attribute_of(label, attribute, self.kind), door.imported[label].origin
        )

    def _named(self, target: object) -> str:
        """The registered name of a class or function, or `module:Name`."""
        if not (isinstance(target, type) or inspect.isroutine(target)):
            raise UsageError(
                f"Expected a spec, a class or a function for the {self.kind}, but got an object of "
                f"type {type(target).__name__}; give its class, since every run builds its own."
            )
        if target.__qualname__.endswith("<lambda>"):
            raise UsageError(
                f"A {self.kind} needs a name that others can find; give a class or a def, not a lambda."
            )
        for builder in (target, f"{target.__module__}:{target.__qualname__}"):
            for entry in self._entries.values():
                if builder in (entry.builder, entry.alone):
                    return entry.name
        label = door.admit(target)
        name = f"{label}:{target.__qualname__}"
        self.unregister(name)  # a class that a notebook cell has redefined
        self._admit(name, target, door.imported[label].origin)
        return name

    def _admit(self, name: str, target: Callable[..., Any], origin: Origin) -> Entry:
        """Register a class or function that is not ours."""
        self.register(self._described(name, target, origin))
        return self._entries[name]

    def _described(self, name: str, target: Callable[..., Any], origin: Origin) -> Entry:
        """The entry of a class or function, with the value and options from its signature."""
        target = self.builder_of(target)
        parameters = parameters_of(target, (*self.context, "model"), name)
        value, first_is_value = parameters[0] if parameters else (None, False)
        options = [option for option, _ in parameters[first_is_value:]]
        own = tuple(options)
        for keyword, more in self.offered.items():
            if takes(target, keyword):
                own += more
        doc = vars(target).get("__doc__") if isinstance(target, type) else target.__doc__  # not inherited
        summary, *_ = (doc or "").strip().splitlines() or ["a part of yours"]
        value = value if first_is_value else None
        bibtex = getattr(target, "bibtex", "")
        papers = (bibtex,) if isinstance(bibtex, str) and key_of(bibtex) else ()
        return Entry(name, target, summary, origin.module, value, own, origin=origin, citations=papers)


def _option_names(entry: Entry) -> list[str]:
    return [option.name for option in entry.options]


def takes(builder: Callable[..., Any], keyword: str) -> bool:
    """Whether a class or function names a keyword among its parameters."""
    try:
        return keyword in inspect.signature(builder).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return False


def _accepted(builder: Callable[..., Any], context: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the context that a builder accepts: all of it if it takes any keyword."""
    parameters = inspect.signature(builder).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(context)
    return {key: value for key, value in context.items() if key in parameters}


def _quoted(entry: Entry, text: str) -> str:
    """The spec with quotes around a value that has commas, as the remedy in an error."""
    if entry.value is None or entry.value.kind is not str or ":" not in text:
        return ""
    name, _, rest = text.partition(":")
    parts = rest.split(",")
    last = max(row for row, part in enumerate(parts) if "=" not in part)
    options = "".join(f",{option}" for option in parts[last + 1 :])
    spec = f"{name}:{write(','.join(parts[: last + 1]))}{options}"
    return f"; a value with a comma is written in double quotes, {shlex.quote(spec)}"
