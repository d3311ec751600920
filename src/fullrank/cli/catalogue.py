"""The registered parts, for a terminal. Nothing here loads torch, NumPy or a part."""

from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from fullrank.data import SOURCES
from fullrank.diagnosis.causes import CAUSES
from fullrank.encoders import ENCODERS
from fullrank.errors import unknown_name
from fullrank.heads import HEADS
from fullrank.objectives import AUXILIARIES, OBJECTIVES
from fullrank.registry import Registry
from fullrank.runs.recipe import RECIPE_KEYS, recipe_names, recipe_summary
from fullrank.specs import write
from fullrank.studies.table import table_named, table_names
from fullrank.theory import THEOREMS
from fullrank.views import VIEWS

Rows = Iterator[tuple[str, str, str]]  # name, summary, and what is shown beside them
FAMILIES: dict[str, Registry] = {
    r.room: r for r in (HEADS, OBJECTIVES, AUXILIARIES, ENCODERS, SOURCES, VIEWS, CAUSES, THEOREMS)
}


# What no registry holds.
LISTINGS: dict[str, Callable[[], Rows]] = {
    "recipes": lambda: ((name, recipe_summary(name), "") for name in recipe_names()),
    "recipe-keys": lambda: (
        (key, setting.meaning, f"{setting.limits}; default {setting.default}")
        for key, setting in RECIPE_KEYS.items()
    ),
    "tables": lambda: ((name, t.title, t.source) for name in table_names() for t in [table_named(name)]),
}


def print_catalogue(family: str | None) -> None:
    """Print a row for each part with its source, or one family with the options of each spec."""
    names = [*FAMILIES, *LISTINGS]
    if family is not None and family not in names:
        raise unknown_name("family", family, names, "`fullrank list` shows all")
    console = Console()
    if family in FAMILIES:
        _print_family(console, FAMILIES[family])
        return
    if family == "tables":  # names and titles are too long for columns
        for name, title, source in LISTINGS[family]():
            _print_part(console, name, [escape(title), f"[dim]{escape(source)}[/dim]"])
        return
    for name in [family] if family else names:
        table = Table(box=None, show_header=False, title=name, title_justify="left", title_style="bold")
        table.add_column(style="cyan", no_wrap=True, min_width=16)
        table.add_column()
        table.add_column(style="dim")
        for row in LISTINGS[name]() if name in LISTINGS else _parts(FAMILIES[name]):
            table.add_row(*map(escape, row))
        console.print(table)
    if family is None:
        console.print("\n`fullrank list heads` and so on: how each spec is written.", highlight=False)


def _parts(registry: Registry) -> Rows:
    yield from ((entry.name, entry.summary, entry.source) for entry in registry)
    yield from ((name, f"a part of {package}", package) for name, package in registry.installed().items())


def _print_family(console: Console, registry: Registry) -> None:
    for entry in registry:
        lines = [entry.summary, *(f"also called {alias}" for alias in entry.aliases)]
        for parameter in (entry.value, *entry.options):
            if parameter is not None:
                default = "" if parameter.default is None else f"; default {write(parameter.default)}"
                lines.append(f"{parameter.name}: {parameter.meaning}{default}")
        _print_part(console, entry.usage, [*map(escape, lines), f"[dim]{escape(entry.source)}[/dim]"])
    for name, package in registry.installed().items():
        line = f"a {registry.kind} of the installed package {package}, which is imported when it is used"
        _print_part(console, name, [escape(line)])


def _print_part(console: Console, usage: str, lines: list[str]) -> None:
    console.print(escape(usage), style="cyan", highlight=False)
    for line in lines:
        console.print(Padding(line, (0, 0, 0, 4)), highlight=False)
