"""What is registered, for a terminal: nothing here loads torch, NumPy or a part."""

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from fullrank.data import SOURCES
from fullrank.diagnosis.causes import CAUSES
from fullrank.encoders import ENCODERS
from fullrank.errors import unknown_name
from fullrank.heads import HEADS
from fullrank.objectives import OBJECTIVES
from fullrank.registry import Registry
from fullrank.runs.recipe import recipe_names, recipe_summary
from fullrank.specs import write
from fullrank.studies.table import table_named, table_names
from fullrank.theory import THEOREMS
from fullrank.views import VIEWS

FAMILIES: dict[str, Registry] = {
    r.room: r for r in (HEADS, OBJECTIVES, ENCODERS, SOURCES, VIEWS, CAUSES, THEOREMS)
}


def print_catalogue(family: str | None) -> None:
    """What there is: a row for each part with its source, or one family with how each spec is written."""
    known = [*FAMILIES, "recipes", "tables"]
    if family is not None and family not in known:
        raise unknown_name("family", family, known, "`fullrank list` shows all")
    console = Console()
    if family in FAMILIES:
        _print_family(console, FAMILIES[family])
        return
    if family is None:
        for registry in FAMILIES.values():
            console.print(_overview(registry))
    if family in (None, "recipes"):
        console.print(_listed("recipes", {name: recipe_summary(name) for name in recipe_names()}))
    if family in (None, "tables"):
        console.print(_listed("tables", {name: table_named(name).title for name in table_names()}))
    if family is None:
        console.print("\n`fullrank list heads` and so on: how each spec is written.", highlight=False)


def _listed(title: str, summaries: dict[str, str]) -> Table:
    table = _table(title)
    for name, summary in summaries.items():
        table.add_row(name, escape(summary))
    return table


def _table(title: str) -> Table:
    table = Table(box=None, show_header=False, title=title, title_justify="left", title_style="bold")
    table.add_column(style="cyan", no_wrap=True, min_width=16)
    table.add_column()
    table.add_column(style="dim")
    return table


def _overview(registry: Registry) -> Table:
    table = _table(registry.room)
    for entry in registry:
        table.add_row(entry.name, escape(entry.summary), escape(entry.source))
    for name, package in registry.installed().items():
        table.add_row(escape(name), f"a part of {escape(package)}", escape(package))
    return table


def _print_family(console: Console, registry: Registry) -> None:
    for entry in registry:
        console.print(escape(entry.usage), style="cyan", highlight=False)
        lines = [escape(entry.summary), *(f"also called {alias}" for alias in entry.aliases)]
        for parameter in (entry.value, *entry.options):
            if parameter is not None:
                default = "" if parameter.default is None else f"; default {write(parameter.default)}"
                lines.append(escape(f"{parameter.name}: {parameter.meaning}{default}"))
        lines.append(f"[dim]{escape(entry.source)}[/dim]")
        for line in lines:
            console.print(Padding(line, (0, 0, 0, 4)), highlight=False)
    for name, package in registry.installed().items():
        console.print(escape(name), style="cyan", highlight=False)
        line = f"a {registry.kind} of the installed package {package}, which is imported when it is used"
        console.print(Padding(escape(line), (0, 0, 0, 4)), highlight=False)
