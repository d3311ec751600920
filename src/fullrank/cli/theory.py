"""`fullrank theory NAME`: a command for each theorem, its options made of the theorem's settings.

A theorem's module is imported when its command is asked for, so that `fullrank --help` needs none.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from fullrank.cli.choice import assignment, takes_imports
from fullrank.progress import progress_bar
from fullrank.record import Record, TheoryEntry
from fullrank.registry import Entry
from fullrank.theory import THEOREMS

_PLAIN = (int, float, str)
# Of a longer table its first and last rows are shown; the record has all.
MOST_ROWS = 8


class TheoremGroup(TyperGroup):
    """The theorems as commands, before those of the group itself."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every theorem, then the group's own."""
        return [*(entry.name for entry in THEOREMS), *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; raises UsageError with the nearest names for an unknown one."""
        return super().get_command(ctx, cmd_name) or _command(THEOREMS[cmd_name])


theory_app = typer.Typer(
    cls=TheoremGroup,
    no_args_is_help=True,
    help="A theorem of the two papers: predicted and simulated side by side, with its figure.",
)


@theory_app.command()
@takes_imports
def predict(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    place: Annotated[
        str | None, typer.Option("--place", help="Where directions are looked at; default: h.")
    ] = None,
    outcome: Annotated[
        str | None, typer.Option("--outcome", help="Where it shows what became of them; default: z.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of samples and views.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default: one under runs/.")] = None,
) -> None:
    """Which directions of a real run the linear theory says are kept, beside what the run did."""
    from fullrank.diagnosis.predict import predict as run_predict

    with Console(stderr=True).status("reading views"):
        found = run_predict(run, place=place, outcome=outcome, seed=seed, out=out)
    _finish(found.path)


@theory_app.callback()
def _theory() -> None:
    # A group with one command of its own is taken for that command, unless it has a callback.
    pass


def print_theory(record: Record, entry: TheoryEntry) -> None:
    """The theorem in a line, predicted beside simulated, what came out and what limits it."""
    console = Console(highlight=False)
    console.print(f"[bold]{escape(entry.statement)}[/bold] [dim]({escape(entry.source)})[/dim]\n")
    console.print(escape(f"{entry.quantity[0].upper()}{entry.quantity[1:]}:"))
    # Two pairs of columns fit 80 characters whatever the rows are called.
    for first in range(0, len(entry.rows), 2):
        console.print(_side_by_side(record, entry, range(first, min(first + 2, len(entry.rows)))))
    console.print(escape(entry.verdict))
    for remark in entry.remarks:
        console.print(f"[dim]{escape(remark)}[/dim]")


def _side_by_side(record: Record, entry: TheoryEntry, rows: range) -> Table:
    # The theorem's columns go down: there are up to 16 of them, and seldom more than 3 rows.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("")
    for row in rows:
        table.add_column(f"{escape(entry.rows[row])}\npredicted", justify="right", min_width=9)
        table.add_column("\nsimulated", justify="right", min_width=9, vertical="bottom")
    for number in _shown_rows(len(entry.columns)):
        if number is None:
            table.add_row("...")
            continue
        column = entry.columns[number]
        cells = [(record.predicted or [])[row][number] for row in rows]
        beside = [(record.simulated or [])[row][number] for row in rows]
        pairs = zip(cells, beside, strict=True)
        table.add_row(escape(column), *(_short(value) for pair in pairs for value in pair))
    return table


def _shown_rows(count: int) -> list[int | None]:
    """Which of so many rows are shown; None is the gap between the first and the last."""
    rows: list[int | None] = list(range(count))
    return rows if count <= 2 * MOST_ROWS else [*rows[:MOST_ROWS], None, *rows[-MOST_ROWS:]]


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _command(entry: Entry) -> Any:
    app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
    app.command(entry.name, help=f"{entry.summary} ({entry.source})", short_help=entry.summary)(_run(entry))
    return typer.main.get_command(app)


def _run(entry: Entry) -> Callable[..., None]:
    """A function with an option for each setting of the theorem."""
    kind = entry.load()
    settings = {
        name: Annotated[
            (field.annotation if field.annotation in _PLAIN else str) | None,
            typer.Option(
                f"--{name.replace('_', '-')}",
                help=f"{field.description or name} \\[default: {_written(field.default)}]",
            ),
        ]
        for name, field in kind.model_fields.items()
    }
    shared = {
        "assignments": Annotated[
            list[str] | None, typer.Option("--set", help="Any setting as key=value. Repeatable.")
        ],
        "out": Annotated[Path | None, typer.Option("--out", help="Folder; default: one under runs/.")],
    }
    if kind.FULL:  # a theorem without a long form has no option that would change nothing
        long = ", ".join(f"{name}={value}" for name, value in kind.FULL.items())
        shared["full"] = Annotated[bool, typer.Option("--full", help=f"The long form: {long}.")]
    defaults = {"assignments": None, "full": False, "out": None}

    def run(**given: Any) -> None:
        said = {name: given[name] for name in settings if given[name] is not None}
        said |= dict(map(assignment, given["assignments"] or []))
        _show(entry.name, full=given.get("full", False), out=given["out"], settings=said)

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name), annotation=hint)
        for name, hint in (settings | shared).items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = settings | shared
    return run


def _show(name: str, *, full: bool, out: Path | None, settings: dict[str, Any]) -> None:
    from fullrank.theory.run import run_theorem

    with progress_bar() as progress:
        run = run_theorem(name, full=full, out=out, progress=progress, **settings)
    _finish(run.path)


def _finish(folder: Path) -> None:
    from fullrank.reports.page import write_page

    page, record = write_page(folder), Record.load(folder)
    if record.theory is not None:
        print_theory(record, record.theory)
    typer.echo(f"\nreport: {page}\nrecord: {folder / 'record.json'}")


def _written(value: Any) -> str:
    return ",".join(f"{each:g}" for each in value) if isinstance(value, tuple) else str(value)
