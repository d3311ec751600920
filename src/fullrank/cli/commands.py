"""The commands. Whatever loads torch is imported inside the command that needs it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fullrank.cli.choice import RecipeChoice, takes_imports, takes_recipe
from fullrank.cli.theory import theory_app
from fullrank.errors import DisagreementError, UsageError
from fullrank.heads import HEADS
from fullrank.specs import split_specs

app = typer.Typer(
    name="fullrank",
    help="Train and diagnose joint-embedding encoders: heads, dimensional collapse, and the layer to keep.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(theory_app, name="theory")

Text = str | None
Texts = list[str] | None
OutOption = Annotated[Path | None, typer.Option(help="Folder for the results; default: one under runs/.")]
FileOption = Annotated[Path, typer.Option(help="The file to write.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")]
WorkersOption = Annotated[int, typer.Option(help="Runs at a time, in processes that share the cores.")]
RunArgument = Annotated[Path, typer.Argument(help="The folder of a finished run.")]
PlaceOption = Annotated[str, typer.Option(metavar="PLACE", help="Where features are read.")]
PlacesOption = Annotated[
    Texts, typer.Option(metavar="PLACE", help="Places to read: h, h[:24], head.1, z. Repeatable.")
]
_FAMILIES = "heads, objectives, encoders, data, views, causes, theory, recipes, recipe-keys, tables."
_MEASURES = "retrieval, per-class, groups, group-balanced, factors or baselines. Repeatable."


@app.command()
def demo(out: OutOption = None, resume: ResumeOption = False) -> None:
    """P1's Table 1 in miniature: four heads on real digits, a few minutes on two CPU cores."""
    from fullrank.studies.demo import demo as run_demo

    study = run_demo(out=out, resume=resume)
    _finish(study.path, study.record)


@app.command()
@takes_imports
@takes_recipe()
def train(
    choice: RecipeChoice,
    out: OutOption = None,
    resume: ResumeOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only try two steps, on generated images; keep nothing.")
    ] = False,
    devices: Annotated[int, typer.Option(help="Processes on this machine, one per device.")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    skip_nonfinite: Annotated[int, typer.Option(help="Skip at most this many non-finite steps.")] = 0,
    profile: Annotated[bool, typer.Option("--profile", help="Print where a step spends its time.")] = False,
) -> None:
    """Train one encoder, probe it, and leave weights, record and report."""
    recipe = choice.resolve(out, resume)
    if dry_run and (out is not None or resume or devices * nodes > 1):
        raise UsageError("A dry run keeps nothing and is one process; leave out --out, --resume, --devices.")
    if dry_run:
        from fullrank.cli.tables import print_rehearsal
        from fullrank.training.dry_run import dry_run as rehearse

        print_rehearsal(rehearse(recipe))
        return
    from fullrank.processes import launched_rank
    from fullrank.training.profile import StepClock
    from fullrank.training.train import train as run_train

    clock = StepClock() if profile else None
    run = run_train(
        recipe,
        out=out,
        resume=resume,
        devices=devices,
        nodes=nodes,
        skip_nonfinite=skip_nonfinite,
        profiler=clock,
    )
    if launched_rank(devices * nodes) == 0:
        _finish(run.path, run.record)
        if clock is not None and clock.batches:
            typer.echo(f"\n{clock.summary()}")


@app.command()
@takes_imports
@takes_recipe(without=("head",))
def compare(
    choice: RecipeChoice,
    heads: Annotated[
        list[str], typer.Option(metavar="HEADS", help="Comma-separated; the first is the reference.")
    ],
    seeds: Annotated[int, typer.Option(help="Number of seeds per head.")] = 3,
    workers: WorkersOption = 1,
    out: OutOption = None,
    resume: ResumeOption = False,
) -> None:
    """Train several heads with several seeds; one table with paired 95 % intervals."""
    if "head" in choice.overrides:
        raise UsageError("A study takes its heads from --heads; leave out --set head=.")
    specs = [HEADS.parse(spec) for text in heads for spec in split_specs(text)]
    recipe = choice.resolve(out, resume)
    from fullrank.studies.compare import compare as run_compare

    study = run_compare(recipe, heads=specs, seeds=seeds, workers=workers, out=out, resume=resume)
    _finish(study.path, study.record)


@app.command()
@takes_imports
def probe(
    run: RunArgument,
    place: PlacesOption = None,
    label: Annotated[str, typer.Option(help="Which labels, where there are several.")] = "label",
    measure: Annotated[Texts, typer.Option(metavar="MEASURE", help=_MEASURES)] = None,
    shots: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Also probe on N images per class. Repeatable.")
    ] = None,
    shift: Annotated[Texts, typer.Option(metavar="SPEC", help="Also test on this data. Repeatable.")] = None,
    features: Annotated[str, typer.Option(help="For linear probes: raw, l2 or standardised.")] = "raw",
) -> None:
    """Linear and nearest-neighbour accuracy of a run at any place, by group, and under shifts."""
    from fullrank.cli.tables import print_evaluation
    from fullrank.evaluation.probe import probe as run_probe

    measures, counts, shifts = measure or (), shots or (), shift or ()
    evaluation = run_probe(
        run, place, label=label, measures=measures, shots=counts, shifts=shifts, features=features
    )
    print_evaluation(evaluation)


@app.command()
@takes_imports
def diagnose(
    target: Annotated[str, typer.Argument(help="A run's folder, a timm model, or a file of embeddings.")],
    data: Annotated[str | None, typer.Option(help="Images for a model; a run has its own.")] = None,
    views: Annotated[str | None, typer.Option(help="Views for a model; a run has its own.")] = None,
    weights: Annotated[Path | None, typer.Option(help="A timm model's: .safetensors, .pth, .ckpt.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Which labels; for a file: a file, an array or a column.")
    ] = None,
    positives: Annotated[Path | None, typer.Option(help="A second file: another view of each row.")] = None,
    place: Annotated[
        Texts, typer.Option(metavar="PLACE", help="Places; default: evenly chosen. Repeatable.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize images to this many pixels square.")] = None,
    limit: Annotated[int, typer.Option(help="Use at most this many test images.")] = 4096,
    seed: Annotated[int, typer.Option(help="Seed of samples and views.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip rows that are not finite.")] = False,
    fail_on: Annotated[Text, typer.Option(metavar="collapse", help="Exit with 3 if it is found.")] = None,
    out: OutOption = None,
) -> None:
    """Did it collapse, why, and where to cut: spectra, causes with remedies, layers."""
    if fail_on not in (None, "collapse"):
        raise UsageError(f"--fail-on takes 'collapse', but got '{fail_on}'.")
    from fullrank.cli.diagnosis import print_diagnosis
    from fullrank.diagnosis.diagnose import diagnose as run_diagnose

    diagnosis = run_diagnose(
        target,
        data=data,
        views=views,
        weights=weights,
        labels=labels,
        positives=positives,
        places=place,
        image_size=image_size,
        limit=limit,
        seed=seed,
        skip_bad=skip_bad,
        out=out,
    )
    _finish(diagnosis.path, diagnosis.entry, print_diagnosis)
    if fail_on == "collapse" and diagnosis.entry.collapsed:
        raise typer.Exit(3)


@app.command()
@takes_imports
def embed(
    run: RunArgument,
    out: FileOption,
    data: Annotated[str | None, typer.Option(metavar="SPEC", help="Images; default: the run's own.")] = None,
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
    place: PlaceOption = "h",
) -> None:
    """Write the features of images at one place of a run, as .npy, .safetensors or .parquet."""
    from fullrank.runs.embed import embed as run_embed

    features = run_embed(run, data, split=split, place=place, out=out)
    typer.echo(f"{out}: {features.shape[0]} x {features.shape[1]} float32 at {place}")


@app.command()
@takes_imports
def export(run: RunArgument, out: FileOption, place: PlaceOption = "h") -> None:
    """Write a run's encoder as plain .safetensors weights that timm loads, or as .onnx."""
    from fullrank.runs.export import export as run_export

    for path in run_export(run, out, place=place):
        typer.echo(path)


@app.command()
@takes_imports
def reproduce(
    names: Annotated[list[str], typer.Argument(help="Tables of `fullrank list tables`, a paper, or all.")],
    scale: Annotated[
        str, typer.Option(help="mini (minutes on two cores), small (hours), cifar, paper (GPUs).")
    ] = "mini",
    seeds: Annotated[int | None, typer.Option(help="Number of seeds; default: the table's own.")] = None,
    workers: WorkersOption = 1,
    out: OutOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only build every part; keep nothing.")] = False,
) -> None:
    """Tables and figures of the papers: their numbers beside ours. Resumes a study that was stopped."""
    from fullrank.cli.reproduction import print_reproduction
    from fullrank.studies.reproduce import rehearse, reproduce as run_reproduce, training_minutes
    from fullrank.studies.table import known_scale

    if dry_run and (out is not None or seeds is not None or workers != 1):
        raise UsageError("A dry run keeps nothing and trains nothing; leave out --out, --seeds, --workers.")
    if dry_run:
        for recipe in rehearse(names, scale=known_scale(scale)):
            typer.echo(f"{recipe.data}, {recipe.encoder}, {recipe.head}, {recipe.objective}: every part fits")
        return
    reproduced = run_reproduce(names, scale=known_scale(scale), seeds=seeds, workers=workers, out=out)
    for table in reproduced:
        _finish(table.path, table.record, partial(print_reproduction, table.title))
        typer.echo()
    runs, minutes = training_minutes(reproduced)
    if runs:
        typer.echo(f"Runs: {runs}; minutes of training in all, as their records have it: {minutes:.1f}")


@app.command(name="check-distributed")
@takes_imports
def check_distributed(
    objective: Annotated[str, typer.Option(metavar="SPEC", help="As in `fullrank list objectives`.")],
    processes: Annotated[int, typer.Option(help="How many train together.")] = 2,
    images: Annotated[int, typer.Option(help="Images of the global batch.")] = 64,
    width: Annotated[int, typer.Option(help="Width of z.")] = 32,
) -> None:
    """Check on CPUs that an objective has the same loss and gradient in one process and in several."""
    from fullrank.objectives.agreement import TOLERANCE, check_agreement

    agreement = check_agreement(objective, processes, images, width)
    typer.echo(f"{agreement.objective}, {images} images of width {width}, float64")
    typer.echo(
        f"  loss      1 process {agreement.one:.12g}   {processes} processes {agreement.many:.12g}\n"
        f"  apart     loss {agreement.loss_apart:.1e}   gradient {agreement.gradient_apart:.1e}   (relative)"
    )
    if not agreement.agrees:
        raise DisagreementError(
            f"{objective} differs between 1 and {processes} processes by more than {TOLERANCE:g}: it sees "
            "the rows of its own process alone; gather them with fullrank.processes.gather_rows."
        )
    typer.echo("  the same")


@app.command()
def report(folders: Annotated[list[Path], typer.Argument(help="Folders that hold a record.json.")]) -> None:
    """Write report.html again, from the records."""
    from fullrank.reports.page import write_page

    for folder in folders:
        typer.echo(write_page(folder))


@app.command(name="list")
@takes_imports
def list_(family: Annotated[Text, typer.Argument(help=_FAMILIES)] = None) -> None:
    """What there is, one line each, with sources."""
    from fullrank.cli.catalogue import print_catalogue

    print_catalogue(family)


def _finish(folder: Path, record: Any, show: Callable[[Any], None] | None = None) -> None:
    """Write the page of what stands in `folder`, show its record, and print where everything is."""
    from fullrank.cli.tables import print_record
    from fullrank.reports.page import write_page

    page = write_page(folder)
    (show or print_record)(record)
    typer.echo(f"\nreport: {page}\nrecord: {folder / 'record.json'}")
