"""The commands. Whatever loads torch is imported inside the command that needs it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fullrank.errors import UsageError
from fullrank.specs import split_specs

app = typer.Typer(
    name="fullrank",
    help="Train and diagnose joint-embedding encoders: heads, dimensional collapse, and the layer to keep.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="A recipe by name, or a YAML file (`fullrank list recipes`).")
]
DataOption = Annotated[
    str | None, typer.Option("--data", help="Where the images come from (`fullrank list data`).")
]
ViewsOption = Annotated[
    str | None, typer.Option("--views", help="How views are made (`fullrank list views`).")
]
EncoderOption = Annotated[str | None, typer.Option("--encoder", help="`fullrank list encoders`")]
ObjectiveOption = Annotated[str | None, typer.Option("--objective", help="`fullrank list objectives`")]
EpochsOption = Annotated[int | None, typer.Option("--epochs", help="Passes over the training images.")]
BatchOption = Annotated[int | None, typer.Option("--batch-size", help="Images a step; each is seen twice.")]
SizeOption = Annotated[
    int | None, typer.Option("--image-size", help="Bring images to this many pixels square.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Use so many training images only.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of the (first) run.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any key of the recipe: --set optimizer.lr=0.001. Repeatable."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder for the results; default: one under runs/.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with what stands in --out.")]


@app.command()
def demo(out: OutOption = None, resume: ResumeOption = False) -> None:
    """P1's Table 1 in miniature: four heads on real digits, a few minutes on two CPU cores."""
    from fullrank.studies.demo import demo as run_demo

    _finish(run_demo(out=out, resume=resume).path)


@app.command()
def train(
    recipe: RecipeOption = None,
    data: DataOption = None,
    views: ViewsOption = None,
    encoder: EncoderOption = None,
    head: Annotated[str | None, typer.Option("--head", help="`fullrank list heads`")] = None,
    objective: ObjectiveOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    image_size: SizeOption = None,
    limit: LimitOption = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
) -> None:
    """Train one encoder, probe it, and leave weights, record and report."""
    from fullrank.training.run import train as run_train

    overrides = _overrides(
        set_,
        data=data,
        views=views,
        encoder=encoder,
        head=head,
        objective=objective,
        epochs=epochs,
        batch_size=batch_size,
        image_size=image_size,
        limit=limit,
        seed=seed,
    )
    chosen = _recipe(recipe, data, out, resume)
    _finish(run_train(chosen, out=out, resume=resume, **overrides).path)


@app.command()
def compare(
    heads: Annotated[
        list[str], typer.Option("--heads", help="Heads, comma-separated; the first is the reference.")
    ],
    seeds: Annotated[int, typer.Option("--seeds", help="Seeds a head.")] = 3,
    recipe: RecipeOption = None,
    data: DataOption = None,
    views: ViewsOption = None,
    encoder: EncoderOption = None,
    objective: ObjectiveOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    image_size: SizeOption = None,
    limit: LimitOption = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
) -> None:
    """Train several heads with several seeds; one table with paired 95 % intervals."""
    from fullrank.studies.compare import compare as run_compare

    overrides = _overrides(
        set_,
        data=data,
        views=views,
        encoder=encoder,
        objective=objective,
        epochs=epochs,
        batch_size=batch_size,
        image_size=image_size,
        limit=limit,
        seed=seed,
    )
    chosen = _recipe(recipe, data, out, resume)
    specs = [spec for text in heads for spec in split_specs(text)]
    _finish(run_compare(chosen, heads=specs, seeds=seeds, out=out, resume=resume, **overrides).path)


@app.command()
def probe(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    place: Annotated[
        list[str] | None,
        typer.Option("--place", help="Where features are read: h, h[:24], head.1, z. Repeatable."),
    ] = None,
) -> None:
    """Linear and nearest-neighbour accuracy of a run at any place."""
    from fullrank.cli.tables import print_places
    from fullrank.training.run import probe as run_probe

    print_places(run_probe(run, place))


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished runs or studies.")],
) -> None:
    """Write report.html again, from the records."""
    from fullrank.reports.page import write_page

    for folder in folders:
        typer.echo(write_page(folder))


@app.command(name="list")
def list_(
    family: Annotated[
        str | None, typer.Argument(help="heads, objectives, encoders, data, views or recipes.")
    ] = None,
) -> None:
    """What there is, one line each, with sources."""
    from fullrank.cli.catalogue import print_catalogue

    print_catalogue(family)


def _overrides(set_: list[str] | None, **named: Any) -> dict[str, Any]:
    """The recipe's keys that the user gave, by name or by --set."""
    overrides = {key: value for key, value in named.items() if value is not None}
    for assignment in set_ or []:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise UsageError(
                f"--set takes key=value, but got '{assignment}'; for example --set optimizer.lr=0.001."
            )
        overrides[key.strip()] = value.strip()
    return overrides


def _recipe(recipe: str | None, data: str | None, out: Path | None, resume: bool) -> str | Path:
    """The recipe asked for; else the one in a folder to be resumed; else the data's own; else digits."""
    from fullrank.data import SOURCES
    from fullrank.training.recipe import RECIPE_FILE, recipe_names

    if resume and out is None:
        raise UsageError("--resume needs --out DIR, the folder to go on with.")
    if recipe is not None:
        return recipe
    if out is not None and resume and (out / RECIPE_FILE).is_file():
        return out / RECIPE_FILE
    name = "digits" if data is None else SOURCES.parse(data).name
    return name if name in recipe_names() else "digits"


def _finish(folder: Path) -> None:
    """Write the page of a run or study, and print its table and where everything is."""
    from fullrank.cli.tables import print_record
    from fullrank.record import Record
    from fullrank.reports.page import write_page

    page = write_page(folder)
    print_record(Record.load(folder))
    typer.echo(f"\nreport: {page}\nrecord: {folder / 'record.json'}")
