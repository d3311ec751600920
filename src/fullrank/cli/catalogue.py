"""What is registered, for a terminal: nothing here loads torch, NumPy or a part."""

from rich.console import Console
from rich.markup import escape

from fullrank.data import SOURCES
from fullrank.encoders import ENCODERS
from fullrank.errors import unknown_name
from fullrank.heads import HEADS
from fullrank.objectives import OBJECTIVES
from fullrank.specs import Registry
from fullrank.views import VIEWS

FAMILIES: dict[str, Registry] = {r.room: r for r in (HEADS, OBJECTIVES, ENCODERS, SOURCES, VIEWS)}


def print_catalogue(family: str | None) -> None:
    """What is registered, one line each; of one family with the source and the options too."""
    if family is not None and family not in [*FAMILIES, "recipes"]:
        raise unknown_name("family", family, [*FAMILIES, "recipes"], "`fullrank list` shows all")
    console = Console()
    for name, registry in FAMILIES.items():
        if family in (None, name):
            console.print(f"[bold]{name}[/bold]")
            for entry in registry:
                console.print(
                    f"  [cyan]{escape(entry.usage if family else entry.name)}[/cyan]", highlight=False
                )
                console.print(f"      {escape(entry.summary)}", highlight=False)
                console.print(f"      [dim]{escape(entry.source)}[/dim]", highlight=False)
    if family in (None, "recipes"):
        from fullrank.training.recipe import recipe_names

        console.print("[bold]recipes[/bold]")
        for recipe in recipe_names():
            console.print(f"  [cyan]{recipe}[/cyan]")
