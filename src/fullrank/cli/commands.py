"""The commands. Whatever loads torch is imported inside the command that needs it."""

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fullrank.cli.choice import (
    Begin,
    ModelOptions,
    RecipeChoice,
    takes_imports,
    takes_model,
    takes_recipe,
    takes_threads,
    varied,
)
from fullrank.cli.theory import theory_app
from fullrank.errors import DisagreementError, UsageError, count_of
from fullrank.heads import HEADS
from fullrank.specs import Parameter, split_specs

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
_TARGETS = (
    "A run's folder, an encoder (any timm model, hf-hub:NAME, module:Name, a Hugging Face folder, a .pt2 or "
    ".onnx program), or embeddings (a file, or a folder of files)."
)
_CANDIDATES = "Folders of runs, one or more; or two or more files of embeddings of the same rows."
TargetArgument = Annotated[str, typer.Argument(metavar="TARGET", help=_TARGETS)]
DataOption = Annotated[
    str | None, typer.Option(metavar="SPEC", help="Images (`fullrank list data`). A run has its own.")
]
LabelsOption = Annotated[
    str | None, typer.Option(help="Which labels; for embeddings: a file, an array or a column.")
]
ColumnOption = Annotated[str | None, typer.Option(help="For embeddings: the array or column of features.")]
PlaceOption = Annotated[str, typer.Option(metavar="PLACE", help="Where features are read.")]
PlacesOption = Annotated[
    Texts, typer.Option(metavar="PLACE", help="Places to read: h, h[:24], head.1, z. Repeatable.")
]
_FAMILIES = "heads, objectives, encoders, data, views, causes, theory, recipes, recipe-keys, tables."
_VARY = "A recipe key and its values: objective=infonce,vicreg. All combinations are trained. Repeatable."
_TABLES = "Tables of `fullrank list tables`, a paper, all, or YAML files of your own tables."
_FAIL_ON = "Exit with 3 on collapse (an alarm) or worse (than --against or --baseline). Repeatable."
_OVERLAP = "Exit with 3 if a smaller share (0 to 1) of nearest rows agrees with --against."
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on standard output.")
]
NoReportOption = Annotated[bool, typer.Option("--no-report", help="Write no report.html, only the record.")]
_MEASURES = (
    "reduced, redundancy, retrieval, per-class, groups, group-balanced, corrections, factors, views, "
    "segmentation or baselines. Repeatable."
)
_VIEWS = "For --measure views; default: a run's own, else simclr."


def _print_version(wanted: bool) -> None:
    if wanted:
        from fullrank.version import __version__

        typer.echo(f"fullrank {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
@takes_threads
def demo(begin: Begin, out: OutOption = None, resume: ResumeOption = False) -> None:
    """P1's Table 1 in miniature: four heads on real digits, a few minutes on two CPU cores."""
    begin()
    from fullrank.studies.demo import demo as run_demo

    study = run_demo(out=out, resume=resume)
    _finish(study.path, study.record)


@app.command()
@takes_imports
@takes_recipe()
@takes_threads
def train(
    begin: Begin,
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
        raise UsageError("A dry run keeps nothing, in one process; leave out --out, --resume and --devices.")
    if dry_run:
        from fullrank.cli.tables import print_rehearsal
        from fullrank.training.dry_run import dry_run as rehearse

        print_rehearsal(rehearse(recipe))
        return
    choice.print_plan(recipe, out, resume, f"the head {recipe.head}")
    begin(devices)
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
@takes_recipe()
@takes_threads
def compare(
    begin: Begin,
    choice: RecipeChoice,
    heads: Annotated[
        Texts, typer.Option(metavar="HEADS", help="Comma-separated; the first is the reference.")
    ] = None,
    vary: Annotated[Texts, typer.Option(metavar="KEY=V1,V2", help=_VARY)] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds per row.")] = 3,
    workers: WorkersOption = 1,
    out: OutOption = None,
    resume: ResumeOption = False,
) -> None:
    """Compare heads, or any settings of a recipe, over several seeds, with paired 95 % intervals."""
    if heads and "head" in choice.overrides:
        raise UsageError("--heads excludes --head and --set head=; name all heads in --heads.")
    specs = [HEADS.parse(spec) for text in heads for spec in split_specs(text)] if heads else None
    values = varied(vary or [])
    recipe = choice.of_study(values, out, resume)
    rows = math.prod([len(specs or [""]), *(len(split_specs(text)) for text in values.values())])
    each = f"{count_of(rows, 'row')} with {count_of(seeds, 'seed')}{' each' * (rows > 1)}"
    choice.print_plan(recipe, out, resume, each, values)
    begin()
    from fullrank.studies.compare import compare as run_compare

    study = run_compare(
        recipe, heads=specs, vary=values, seeds=seeds, workers=workers, out=out, resume=resume
    )
    _finish(study.path, study.record)


@app.command()
@takes_imports
@takes_model
@takes_threads
def probe(
    begin: Begin,
    model: ModelOptions,
    target: TargetArgument,
    data: DataOption = None,
    place: PlacesOption = None,
    label: Annotated[
        str, typer.Option("--label", "--labels", help="Which labels; for embeddings: a file or a column.")
    ] = "label",
    column: ColumnOption = None,
    measure: Annotated[Texts, typer.Option(metavar="MEASURE", help=_MEASURES)] = None,
    views: Annotated[str | None, typer.Option(metavar="SPEC", help=_VIEWS)] = None,
    shots: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Also probe on N images per class. Repeatable.")
    ] = None,
    episodes: Annotated[int, typer.Option(help="Draws of the images for --shots.")] = 5,
    shift: Annotated[Texts, typer.Option(metavar="SPEC", help="Also test on this data. Repeatable.")] = None,
    features: Annotated[str, typer.Option(help="For linear probes: raw, l2 or standardised.")] = "raw",
    json: JsonOption = False,
) -> None:
    """Linear and nearest-neighbour accuracy of any encoder at any place, on any labelled images."""
    from fullrank.embeddings.kinds import is_embeddings

    file = is_embeddings(target)
    if file:
        model.refuse_for_file(target)
    begin()
    from fullrank.cli.corrections import print_corrections
    from fullrank.cli.tables import print_evaluation
    from fullrank.evaluation.evaluate import Evaluation
    from fullrank.evaluation.probe import probe as run_probe

    evaluation = run_probe(
        target if file else model.open(target),
        place,
        data=data,
        label=label,
        column=column,
        measures=measure or (),
        shots=shots or (),
        episodes=episodes,
        shifts=shift or (),
        features=features,
        views=views,
    )
    if json:
        from pydantic import TypeAdapter

        typer.echo(TypeAdapter(Evaluation).dump_json(evaluation, indent=1))
        return
    print_evaluation(evaluation)
    print_corrections(evaluation.scores, evaluation.corrections)


@app.command(context_settings={"allow_extra_args": True})
@takes_imports
@takes_model
@takes_threads
def diagnose(
    context: typer.Context,
    begin: Begin,
    model: ModelOptions,
    target: TargetArgument,
    data: DataOption = None,
    views: Annotated[str | None, typer.Option(help="Views for a model; a run has its own.")] = None,
    labels: LabelsOption = None,
    column: ColumnOption = None,
    positives: Annotated[Path | None, typer.Option(help="A second file: another view of each row.")] = None,
    place: Annotated[
        Texts, typer.Option(metavar="PLACE", help="Places to read; default: evenly spaced. Repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Use at most this many test images.")] = 4096,
    seed: Annotated[int, typer.Option(help="Seed of samples and views.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip rows that are not finite.")] = False,
    baseline: Annotated[
        Path | None, typer.Option(help="Compare with this earlier diagnosis: its record.json or its folder.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="TARGET", help="Compare with this target: two files, or two models.")
    ] = None,
    against_column: Annotated[
        str | None, typer.Option(help="Its array or column, if not that of --column.")
    ] = None,
    against_weights: Annotated[
        Path | None, typer.Option(help="A file of weights for the encoder of --against.")
    ] = None,
    fail_on: Annotated[Texts, typer.Option(metavar="WHAT", help=_FAIL_ON)] = None,
    min_overlap: Annotated[float | None, typer.Option(help=_OVERLAP)] = None,
    map_: Annotated[
        str, typer.Option("--map", help="Map of the rows on the page: pca, tsne, umap or none.")
    ] = "pca",
    json: JsonOption = False,
    no_report: NoReportOption = False,
    out: OutOption = None,
) -> None:
    """Did it collapse, why, and where to cut: spectra, causes with remedies, layers."""
    from fullrank.cli.diagnosis import Limits, plan, print_diagnosis
    from fullrank.embeddings.kinds import is_embeddings

    for other in context.args:
        raise UsageError(
            f"diagnose takes one target, but got {target} and {other}; to compare the first with the second, "
            f"use `fullrank diagnose {target} --against {other}`."
        )
    limits = Limits(fail_on or (), min_overlap)
    limits.check(baseline, against)
    file = is_embeddings(target)
    if file:
        model.refuse_for_file(target)
    if against_weights is not None and (file or against is None):
        raise UsageError("--against-weights is of a second model; name its encoder with --against.")
    print(plan(target, data, views, limit), file=sys.stderr)
    begin()
    from fullrank.diagnosis.diagnose import diagnose as run_diagnose

    second: Any = against
    if against is not None and not (file or is_embeddings(against)):
        second = model.open_other(against, against_weights)
    diagnosis = run_diagnose(
        target if file else model.open(target),
        data=data,
        views=views,
        labels=labels,
        column=column,
        positives=positives,
        places=place,
        limit=limit,
        seed=seed,
        skip_bad=skip_bad,
        baseline=baseline,
        against=second,
        against_column=against_column,
        map=map_,
        out=out,
    )
    _finish(diagnosis.path, diagnosis.entry, print_diagnosis, json=json, page=not no_report)
    if failures := limits.failures(diagnosis.entry):
        typer.echo("\n".join(f"fullrank: {failure} (exit status 3)." for failure in failures), err=True)
        raise typer.Exit(3)


@app.command()
@takes_imports
@takes_threads
def choose(
    begin: Begin,
    targets: Annotated[list[str], typer.Argument(metavar="TARGETS...", help=_CANDIDATES)],
    data: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Images for all; default: the runs' own, if equal.")
    ] = None,
    place: Annotated[
        Texts, typer.Option("--place", "--places", metavar="PLACE", help="Places to choose from. Repeatable.")
    ] = None,
    views: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Views for all; default: a chain of middle strength.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Use at most this many images or rows.")] = 5000,
    labels: Annotated[
        str | None, typer.Option(help="Which labels of the images --labels-for takes, if there are several.")
    ] = None,
    labels_for: Annotated[
        int | None, typer.Option(metavar="N", help="Also say what N labelled images would choose.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of samples and views.")] = 0,
    out: OutOption = None,
) -> None:
    """Which run and which layer to keep, without labels; three candidates, and how far off they may be."""
    from fullrank.cli.choosing import plan, print_choice

    print(plan(targets, data, limit), file=sys.stderr)
    begin()
    from fullrank.choosing.choose import choose as run_choose

    choice = run_choose(
        targets,
        data=data,
        places=place,
        views=views,
        labels_for=labels_for,
        labels=labels,
        limit=limit,
        seed=seed,
        out=out,
    )
    _finish(choice.path, choice.entry, print_choice)
    if not choice.entry.shortlist:
        typer.echo("fullrank: every candidate has a veto (exit status 3).", err=True)
        raise typer.Exit(3)


@app.command()
@takes_imports
@takes_model
@takes_threads
def embed(
    begin: Begin,
    model: ModelOptions,
    target: TargetArgument,
    out: FileOption,
    data: DataOption = None,
    split: Annotated[
        Text, typer.Option(help="train, test or all. Default: test, or all where the data have no splits.")
    ] = None,
    place: PlaceOption = "h",
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    resume: Annotated[bool, typer.Option("--resume", help="Continue a file that was interrupted.")] = False,
) -> None:
    """Write features of images at one place of any model, with ids: .npy, .safetensors or .parquet."""
    from fullrank.embeddings.kinds import is_embeddings

    file = is_embeddings(target)
    if file:
        model.refuse_for_file(target)
    begin()
    from fullrank.targets.embed import write_embeddings

    source = target if file else model.open(target)
    typer.echo(write_embeddings(source, data, out, split=split, place=place, dtype=dtype, resume=resume))


@app.command()
@takes_imports
@takes_model
def export(model: ModelOptions, target: TargetArgument, out: FileOption, place: PlaceOption = "h") -> None:
    """Write a model that ends at a place: .safetensors that timm loads, .pt2 of torch.export, or .onnx."""
    from fullrank.targets.export import export as run_export

    for path in run_export(model.open(target), out, place=place):
        typer.echo(path)


@app.command()
@takes_imports
@takes_threads
def reproduce(
    begin: Begin,
    names: Annotated[list[str], typer.Argument(help=_TABLES)],
    scale: Annotated[
        str, typer.Option(help="mini (minutes on two cores), small (hours), cifar, paper (GPUs).")
    ] = "mini",
    seeds: Annotated[int | None, typer.Option(help="Number of seeds; default: the table's own.")] = None,
    workers: WorkersOption = 1,
    out: OutOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the parts; keep nothing.")] = False,
) -> None:
    """Measure tables of the papers, or your own. Run it again to continue after a stop."""
    from fullrank.cli.reproduction import print_reproduction
    from fullrank.studies.reproduce import (
        rehearse,
        rehearse_studies,
        reproduce as run_reproduce,
        training_minutes,
    )
    from fullrank.studies.table import known_scale

    if dry_run and (out is not None or seeds is not None or workers != 1):
        raise UsageError("A dry run keeps nothing; leave out --out, --seeds and --workers.")
    if dry_run:
        for recipe in rehearse(names, scale=known_scale(scale)):
            typer.echo(f"{recipe.data}, {recipe.encoder}, {recipe.head}, {recipe.objective}: all parts fit")
        for net in rehearse_studies(names, scale=known_scale(scale)):
            typer.echo(net)
        return
    many = "the table's own seeds" if seeds is None else count_of(seeds, "seed")
    print(f"Reproducing {', '.join(names)} at the scale {scale}, with {many}.", file=sys.stderr)
    begin()
    reproduced = run_reproduce(names, scale=known_scale(scale), seeds=seeds, workers=workers, out=out)
    for table in reproduced:
        _finish(table.path, table.record, partial(print_reproduction, table.title))
        typer.echo()
    runs, minutes = training_minutes(reproduced)
    if runs:
        typer.echo(f"Runs: {runs}. Recorded training time in all: {minutes:.1f} minutes.")


@app.command(name="check-distributed")
@takes_imports
def check_distributed(
    objective: Annotated[str, typer.Option(metavar="SPEC", help="As in `fullrank list objectives`.")],
    processes: Annotated[int, typer.Option(help="Number of processes.")] = 2,
    images: Annotated[int, typer.Option(help="Images of the global batch.")] = 64,
    width: Annotated[int, typer.Option(help="Width of z.")] = 32,
    nested: Annotated[
        str | None, typer.Option(metavar="8-16", help="Nested widths, as of the head matryoshka.")
    ] = None,
    views: Annotated[int, typer.Option(help="Number of views.")] = 2,
    local: Annotated[int, typer.Option(help="How many of the views are local crops.")] = 0,
) -> None:
    """Check on CPUs that an objective has the same loss and gradient in one process and in several."""
    from fullrank.objectives.agreement import TOLERANCE, check_agreement

    widths: Any = (
        Parameter("widths", tuple, "nested widths of z").parse(nested, f"--nested {nested}") if nested else ()
    )
    agreement = check_agreement(objective, processes, images, width, widths, views, local)
    typer.echo(f"{agreement.objective}, {images} images of width {width}, float64")
    typer.echo(
        f"  loss      1 process {agreement.one:.12g}   {processes} processes {agreement.many:.12g}\n"
        f"  apart     loss {agreement.loss_apart:.1e}   gradient {agreement.gradient_apart:.1e}   (relative)"
    )
    if not agreement.agrees:
        raise DisagreementError(
            f"{objective} differs between 1 and {processes} processes by more than {TOLERANCE:g}: it uses "
            "only the rows of its own process; gather them with fullrank.processes.gather_rows."
        )
    typer.echo("  the same")


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders that hold a record.json.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page of several folders; default: under runs/.")
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Write each folder's own page again, not one page for all.")
    ] = False,
    figures: Annotated[
        str, typer.Option(metavar="FORMATS", help="Also write each figure as a file: svg,pdf,png.")
    ] = "",
) -> None:
    """Write report.html again from the record; several runs and studies make one page, paired by seed."""
    from fullrank.cli.results import write_reports

    for path in write_reports(folders, out, each, figures):
        typer.echo(path)


@app.command()
def table(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Finished runs, studies, tables, diagnoses or choices, or folders of them."),
    ],
    format_: Annotated[
        Text, typer.Option("--format", metavar="FORMAT", help="markdown, csv, latex or json.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; its ending chooses a format.")] = None,
) -> None:
    """Print results as one table for a paper or a spreadsheet; runs and studies are paired by seed."""
    from fullrank.cli.results import print_table

    print_table(folders, format_, out)


@app.command()
@takes_imports
def cite(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders of runs, studies and other results.")
    ] = None,
) -> None:
    """BibTeX of fullrank, and of the papers behind what results used."""
    from fullrank.studies.cite import cite as run_cite

    typer.echo(run_cite(*(folders or ())))


@app.command(name="list")
@takes_imports
def list_(family: Annotated[Text, typer.Argument(help=_FAMILIES)] = None) -> None:
    """List all parts, recipes and tables, one line each, with sources."""
    from fullrank.cli.catalogue import print_catalogue

    print_catalogue(family)


def _finish(
    folder: Path,
    record: Any,
    show: Callable[[Any], None] | None = None,
    *,
    json: bool = False,
    page: bool = True,
) -> None:
    """Write the page of the result in `folder`, print the record, and print the paths of both.

    As JSON, standard output holds nothing but the record, and the paths go to standard error.
    """
    from fullrank.cli.tables import print_record
    from fullrank.reports.page import write_page
    from fullrank.runs.folders import TEACHER

    paths = [f"report: {write_page(folder)}"] if page else []
    paths.append(f"record: {folder / 'record.json'}")
    if (teacher := folder / TEACHER).is_dir():
        paths.append(f"teacher: {teacher}")
    if json:
        typer.echo(record.model_dump_json(indent=1, by_alias=True))
    else:
        (show or print_record)(record)
        typer.echo()
    typer.echo("\n".join(paths), err=json)
