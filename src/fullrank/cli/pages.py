"""docs/commands.md and docs/catalogue.md, written from the commands and the registries."""

import sys
from collections.abc import Callable, Iterator, Sequence
from types import NoneType
from typing import Any, get_args

import typer

from fullrank.cli.catalogue import FAMILIES, LISTINGS
from fullrank.cli.commands import app
from fullrank.errors import unknown_name
from fullrank.record.criteria import CRITERIA_TEXTS
from fullrank.record.measures import MEASURES
from fullrank.registry import Entry
from fullrank.runs.recipe_page import escaped
from fullrank.specs import Parameter, Spec, write

COMMAND = "uv run python -m fullrank.cli.pages {page} > docs/{page}.md"
_KINDS = {
    int: "<int>",
    float: "<float>",
    str: "<str>",
    bool: "<bool>",
    tuple: "<int>-<int>-...",
    Spec: "SPEC",
}
_TABLE = ["\n| name | value | meaning |", "|---|---|---|"]


def commands_page() -> str:
    """The page of the commands: a section each, with its arguments and options."""
    lines = [
        "# Commands\n",
        f"This page is written by `{COMMAND.format(page='commands')}`. "
        "Exit statuses: 0 success; 1 data, a run or the machine failed; 2 a mistake in the command; "
        "3 `diagnose` found what --fail-on names, or an overlap below --min-overlap.",
    ]
    for name, command in _commands("fullrank", typer.main.get_command(app)):
        lines.append(f"\n## {name}\n\n{command.help or command.short_help or ''}")
        rows = [_option_row(each) for each in command.params if not each.hidden]
        lines += [*_TABLE, *rows] if rows else []
    return "\n".join(lines) + "\n"


def catalogue_page() -> str:
    """The page of the parts: a section for each family, with how each spec is written and its source."""
    lines = [
        "# Catalogue of parts\n",
        f"This page is written by `{COMMAND.format(page='catalogue')}`. "
        "`fullrank list` prints it, together with the parts of installed packages.",
    ]
    for family, registry in FAMILIES.items():
        lines.append(f"\n## {family}")
        if registry.shared:
            lines += [f"\nOptions of every {registry.kind}:", *_parameters(registry.shared)]
        for entry in registry:
            if entry.origin is None:  # what a session has registered is not on the page
                lines += _part(entry, registry.shared)
    lines += ["\n## recipes", "\n| name | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {escaped(meaning)} |" for name, meaning, _ in LISTINGS["recipes"]()]
    lines += ["\n## tables", "\n| name | title | source |", "|---|---|---|"]
    lines += [
        f"| `{name}` | {escaped(title)} | {escaped(source)} |" for name, title, source in LISTINGS["tables"]()
    ]
    lines += ["\n## measures", "\n| name | measure | what it cannot see |", "|---|---|---|"]
    lines += [f"| `{name}` | {each.title} | {each.blind} |" for name, each in MEASURES.items()]
    lines += _criteria()
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {"commands": commands_page, "catalogue": catalogue_page}


def _criteria() -> list[str]:
    lines = ["\n## criteria", "\nWhat [choosing without labels](choosing.md) compares candidates by."]
    lines += ["\n| name | criterion | better | formula | what it cannot see | cost | papers |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, each in CRITERIA_TEXTS.items():
        better = "higher" if each.larger_is_better else "lower"
        papers = ", ".join(f"`{key}`" for key in each.citations)
        cells = [f"`{name}`", each.title, better, each.formula, each.blind, each.cost, papers]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _commands(path: str, group: Any) -> Iterator[tuple[str, Any]]:
    """Each command below a group with its full name; a group comes before its own commands."""
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        yield f"{path} {name}", command
        if hasattr(command, "list_commands"):
            yield from _commands(f"{path} {name}", command)


def _option_row(parameter: Any) -> str:
    option = parameter.param_type_name == "option"
    value = "" if option and parameter.is_flag else f"`{parameter.metavar or _type_name(parameter)}`"
    meaning = escaped((parameter.help or "").replace("\\[", "["))
    if parameter.default not in (None, "") and parameter.default is not False:
        meaning += f" Default: `{parameter.default}`."
    required = " Required." if parameter.required else ""
    return f"| `{', '.join(parameter.opts)}` | {value} | {meaning}{required} |"


def _type_name(parameter: Any) -> str:
    """The word for a value: that of the type, without None and without the list around it."""
    annotation = parameter.type_descriptor.annotation
    while inner := [each for each in get_args(annotation) if each is not NoneType]:
        annotation = inner[0]
    return f"<{annotation.__name__.lower()}>"


def _part(entry: Entry, shared: tuple[Parameter, ...]) -> list[str]:
    also = f" Also called {', '.join(f'`{alias}`' for alias in entry.aliases)}." if entry.aliases else ""
    prose = [f"{escaped(entry.summary)}.{also}\n", f"Source: {escaped(entry.source)}."]
    parameters = [each for each in (entry.value, *entry.options) if each is not None and each not in shared]
    return [f"\n### `{entry.usage}`\n", *prose, *_parameters(parameters)]


def _parameters(parameters: Sequence[Parameter]) -> list[str]:
    return [*_TABLE, *map(_parameter_row, parameters)] if parameters else []


def _parameter_row(parameter: Parameter) -> str:
    meaning = f"{escaped(parameter.meaning)}."
    if parameter.default is not None:
        meaning += f" Default: `{write(parameter.default)}`."
    required = " Required." if parameter.required else ""
    return f"| `{parameter.name}` | `{_KINDS[parameter.kind]}` | {meaning}{required} |"


def main(name: str) -> None:
    """Print a page by its name."""
    if name not in PAGES:
        raise unknown_name("page", name, PAGES, "the pages are those of docs/")
    print(PAGES[name](), end="")


if __name__ == "__main__":
    main(*sys.argv[1:2] or [""])
