"""`fullrank theory NAME`: one command for each theorem. A theorem is imported when its command runs."""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from fullrank.cli.choice import ThreadsOption, assignment, begin_work, takes_imports
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
        theory_run = run_predict(run, place=place, outcome=outcome, seed=seed, out=out)
    _finish(theory_run.path)


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
        console.print(_table(record, entry, slice(first, first + 2)))
    console.print(escape(entry.verdict))
    for remark in entry.remarks:
        console.print(f"[dim]{escape(remark)}[/dim]")


def _table(record: Record, entry: TheoryEntry, rows: slice) -> Table:
    # The theorem's columns go down: there are up to 16 of them, and seldom more than 3 rows.
    table = Table("", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in entry.rows[rows]:
        table.add_column(f"{escape(name)}\npredicted", justify="right", min_width=9)
        table.add_column("\nsimulated", justify="right", min_width=9, vertical="bottom")
    pairs = zip((record.predicted or [])[rows], (record.simulated or [])[rows], strict=True)
    columns = zip(*(values for pair in pairs for values in pair), strict=True)
    lines = [(escape(name), *map(_short, cells)) for name, cells in zip(entry.columns, columns, strict=True)]
    if len(lines) > 2 * MOST_ROWS:
        lines[MOST_ROWS:-MOST_ROWS] = [("...",)]
    for line in lines:
        table.add_row(*line)
    return table


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
                help=f"{field.description} \\[default: {_written(field.default)}]",
            ),
        ]
        for name, field in kind.model_fields.items()
    }
    shared = {
        "assignments": Annotated[
            list[str] | None, typer.Option("--set", help="Any setting as key=value. Repeatable.")
        ],
        "out": Annotated[Path | None, typer.Option("--out", help="Folder; default: one under runs/.")],
        "threads": ThreadsOption,
    }
    if kind.FULL:  # a theorem without a long form has no option that would change nothing
        long = ", ".join(f"{name}={value}" for name, value in kind.FULL.items())
        shared["full"] = Annotated[bool, typer.Option("--full", help=f"The long form: {long}.")]

    def run(**options: Any) -> None:
        from fullrank.theory.run import run_theorem

        values = {name: options[name] for name in settings if options[name] is not None}
        values |= dict(map(assignment, options["assignments"] or []))
        full, out = bool(options.get("full")), options["out"]
        with ExitStack() as work, progress_bar() as progress:
            begin_work(work, options["threads"], needs_torch=False)
            done = run_theorem(entry.name, full=full, out=out, progress=progress, **values)
        _finish(done.path)

    hints, keyword = settings | shared, inspect.Parameter.KEYWORD_ONLY
    run.__annotations__ = hints
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, keyword, default=None, annotation=hint) for name, hint in hints.items()]
    )
    return run


def _finish(folder: Path) -> None:
    from fullrank.reports.page import write_page

    page, record = write_page(folder), Record.load(folder)
    if record.theory is not None:
        print_theory(record, record.theory)
    typer.echo(f"\nreport: {page}\nrecord: {folder / 'record.json'}")


def _written(value: Any) -> str:
    return ",".join(f"{each:g}" for each in value) if isinstance(value, tuple) else str(value)
