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

from fullrank.cli.choice import Begin, ThreadsOption, assignment, begin_work, takes_imports, takes_threads
from fullrank.progress import progress_bar
from fullrank.record import Record, TheoryEntry, TheoryStatement
from fullrank.registry import Entry
from fullrank.reports.equation import equation_as_text
from fullrank.theory import THEOREMS

# Options take text, since a setting of one number may be given several values.
_METAVARS: dict[Any, str] = {int: "INT", float: "NUMBER", tuple[float, ...]: "N,N,..."}
# A longer table is cut to its first and last rows; the record has all of them.
MOST_ROWS = 8
_SWEEP_HELP = "A setting that takes one number may be given several, to see the result against it:"


class TheoremGroup(TyperGroup):
    """The theorems as commands, before the group's own commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every theorem, then the group's own."""
        return [*(entry.name for entry in THEOREMS), *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command with that name; raises UsageError with the nearest names for an unknown one."""
        return super().get_command(ctx, cmd_name) or _command(THEOREMS[cmd_name])


theory_app = typer.Typer(
    cls=TheoremGroup,
    no_args_is_help=True,
    help="Run a theorem on projection heads or dimensional collapse: prediction, simulation, figures. Give "
    "several values of one setting, such as --noise 0,1,2, to see the result against it.",
)


@theory_app.command()
@takes_imports
@takes_threads
def predict(
    begin: Begin,
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    place: Annotated[
        str | None, typer.Option("--place", help="Where the directions are taken from; default: h.")
    ] = None,
    outcome: Annotated[
        str | None, typer.Option("--outcome", help="Where their weight is measured; default: z.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Random seed of the sampled images and views.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default: one under runs/.")] = None,
) -> None:
    """Compare a trained run with the linear theory: which directions it should keep, and did keep."""
    begin()
    from fullrank.diagnosis.predict import predict as run_predict

    with Console(stderr=True).status("computing features of two views"):
        theory_run = run_predict(run, place=place, outcome=outcome, seed=seed, out=out)
    _finish(theory_run.path)


@theory_app.callback()
def _theory() -> None:
    # Without a callback, typer turns a group with a single command into that command.
    pass


def print_theory(record: Record, entry: TheoryEntry) -> None:
    """Print the theorem with its source, the numbers, the headline, what happened, and the limits."""
    console = Console(highlight=False)
    if entry.explained is None:
        console.print(f"[bold]{escape(entry.statement)}[/bold] [dim]({escape(entry.source)})[/dim]\n")
    else:
        _print_statement(console, entry.explained)
    console.print(escape(f"{entry.quantity[0].upper()}{entry.quantity[1:]}:"))
    layout = _sweep_table if entry.sweep else _table
    # Two pairs of columns fit 80 characters, however long the names of the rows are.
    for first in range(0, len(entry.rows), 2):
        console.print(layout(record, entry, slice(first, first + 2)))
    console.print(f"[bold]{escape(entry.verdict)}[/bold]\n")
    console.print(_bullets(entry.explanation))
    if entry.remarks:
        console.print("\nAssumptions and limits:", _bullets(entry.remarks), sep="\n")


def _bullets(sentences: list[str]) -> Table:
    bullets = Table.grid(padding=(0, 1))
    for sentence in sentences:
        bullets.add_row("-", escape(sentence))
    return bullets


def _print_statement(console: Console, stated: TheoryStatement) -> None:
    console.print(f"[bold]{escape(stated.title)}[/bold]\n{escape(stated.words)}\n")
    console.print(f"    {escape(equation_as_text(stated.equation))}\n")
    letters = Table.grid(padding=(0, 2))
    for letter, meaning in stated.letters:
        letters.add_row(escape(equation_as_text(letter)), escape(equation_as_text(meaning)))
    console.print(letters)
    console.print(
        f"\n[dim]{escape(stated.place)}. Paper: {escape(stated.authors)}. {escape(stated.paper)}. "
        f"{escape(stated.venue)}, {escape(stated.link)}[/dim]\n"
    )


def _sweep_table(record: Record, entry: TheoryEntry, rows: slice) -> Table:
    """A row for each value of the setting."""
    table = Table("", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in entry.rows[rows]:
        table.add_column(f"{escape(name)}\npredicted", justify="right", min_width=9, max_width=22)
        table.add_column(f"\n{entry.observed}", justify="right", min_width=9, vertical="bottom")
    for position, column in enumerate(entry.columns):
        pairs = zip((record.predicted or [])[rows], (record.simulated or [])[rows], strict=True)
        cells = [_short(row[position]) for pair in pairs for row in pair]
        table.add_row(escape(column), *cells)
    return table


def _table(record: Record, entry: TheoryEntry, rows: slice) -> Table:
    # The columns of the theorem become rows here: there are up to 16 columns, and rarely more than 3 rows.
    table = Table("", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in entry.rows[rows]:
        table.add_column(f"{escape(name)}\npredicted", justify="right", min_width=9)
        table.add_column(f"\n{entry.observed}", justify="right", min_width=9, vertical="bottom")
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
    text = f"{entry.summary} ({entry.source})\n\n{_SWEEP_HELP} {entry.load().STATEMENT.example}"
    app.command(entry.name, help=text, short_help=entry.summary)(_run(entry))
    return typer.main.get_command(app)


def _run(entry: Entry) -> Callable[..., None]:
    """A function with an option for each setting of the theorem."""
    kind = entry.load()
    settings = {
        name: Annotated[
            str | None,
            typer.Option(
                f"--{name.replace('_', '-')}",
                metavar=_METAVARS.get(field.annotation, "TEXT"),
                help=f"{field.description} \\[default: {_written(field.default)}]",
            ),
        ]
        for name, field in kind.model_fields.items()
    }
    shared = {
        "assignments": Annotated[
            list[str] | None,
            typer.Option("--set", metavar="KEY=VALUE", help="Any setting by name. Repeatable."),
        ],
        "out": Annotated[Path | None, typer.Option("--out", help="Folder; default: one under runs/.")],
        "threads": ThreadsOption,
    }
    if kind.FULL:  # without settings of the paper, the option would change nothing
        long = ", ".join(f"{name}={value}" for name, value in kind.FULL.items())
        shared["full"] = Annotated[
            bool, typer.Option("--full", help=f"The settings of the paper, where known: {long}.")
        ]

    def run(**options: Any) -> None:
        from fullrank.theory.run import chosen_theorems, run_theorem

        values = {name: options[name] for name in settings if options[name] is not None}
        values |= dict(map(assignment, options["assignments"] or []))
        full, out = bool(options.get("full")), options["out"]
        chosen_theorems(entry.name, full=full, **values)  # raises before anything is printed
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
