"""From a recipe to a run folder: data, parts, training, evaluation, record. Read from `train` downwards."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch.profilers import Profiler
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from fullrank.data import BatchLoader, ImageSet
from fullrank.encoders import Encoder, encoder as build_encoder, without_download
from fullrank.errors import DataError, FullrankError, UsageError
from fullrank.heads import Head, head as build_head
from fullrank.machine import new_record
from fullrank.processes import Share, launched_rank, own_share
from fullrank.progress import progress_bar
from fullrank.record import RECORD_FILE, Record, RunEntry, Score, save_arrays, write_whole
from fullrank.training.checkpoints import Checkpointer, checkpoints_in, newest_whole
from fullrank.training.engine import (
    ONE_PROCESS,
    Machines,
    accelerator,
    build_trainer,
    has_room,
    named_out_of_memory,
    on_accelerator,
    quiet_lightning,
    split_statistics,
    wait_for_all,
)
from fullrank.training.evaluate import (
    MEASURES,
    Evaluation,
    check_measures,
    check_probeable,
    checked_treatment,
    evaluate,
    help_evaluate,
)
from fullrank.training.factors import factor_scores
from fullrank.training.finite import FiniteGuard
from fullrank.training.folders import (
    check_folder,
    check_free,
    claim_folder,
    list_bad_images,
    open_folder,
    room_in,
    sole_writer,
)
from fullrank.training.module import JointEmbedding
from fullrank.training.monitor import Monitor, ProgressLine
from fullrank.training.online import OnlineProbes
from fullrank.training.parts import build, chance_level, check_plan, load_data
from fullrank.training.recipe import RECIPE_FILE, Recipe
from fullrank.training.sgd_probe import KIND as SGD_PROBE, sgd_probe
from fullrank.training.shifts import load_shift
from fullrank.training.stopping import stop_on_signal
from fullrank.views import Views, step_generator

ENCODER_FILE, HEAD_FILE = "encoder.safetensors", "head.safetensors"
EXAMPLES = 8
# The measure of `probe` that needs a run's views, beside those of `evaluate`.
FACTORS = "factors"


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its recipe, the trained parts in eval mode, and its record."""

    path: Path
    recipe: Recipe
    encoder: Encoder
    head: Head
    record: Record


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Numbers too small for float32's normal range count as 0 meanwhile: on a CPU they are very slow.

    The setting belongs to this thread and to those that start from it, so it must come before the first
    parallel operation. Only this thread's is put back: the others work for torch alone.
    """
    before = float(torch.tensor(1e-38) * 0.01) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@flushed_denormals()
def train(
    recipe: str | Path | Recipe,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    init: str | Path | None = None,
    devices: int = 1,
    nodes: int = 1,
    skip_nonfinite: int = 0,
    progress: Progress | None = None,
    profiler: Profiler | None = None,
    **overrides: Any,
) -> Run:
    """Train an encoder as a recipe says, probe it, and leave everything in the folder `out`.

    `overrides` replace keys of the recipe; a nested key is given as `**{"optimizer.lr": 1e-3}`. `init` is a
    file of weights to start the encoder from (see `load_weights`). With `resume` a run that was cut off goes
    on exactly where its newest whole checkpoint stands, in a folder without one from the beginning; a
    finished run is returned as it is. With more than one device or node, every process makes this call
    (`torchrun` or SLURM start them), and the first one writes; a run may be resumed by another number of
    processes. Up to `skip_nonfinite` steps whose loss or gradient is not finite are left out (see
    `FiniteGuard`). `profiler` is any of Lightning's, or a `StepClock`. Raises UsageError for a recipe that
    cannot be carried out or a folder in use, DataError for images that cannot be read, DivergedError for a
    loss or gradient that is not finite, OutOfMemoryError for a batch that memory does not hold,
    FullDiskError for a disk without room, and, after saving, InterruptedRunError on Ctrl-C and
    TerminatedRunError on SIGTERM.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp() + "/run"
    >>> run = train("digits", out=folder, head="none", epochs=1, limit=300)
    >>> sorted(run.record.runs[0].probes)
    ['h', 'z']
    """
    plan = Recipe.resolve(recipe, overrides if init is None else {**overrides, "init": str(init)})
    machines = Machines(devices, nodes)
    if machines.processes > 1 and out is None:
        raise UsageError("Several processes need --out DIR, the folder that all of them know.")
    folder = claim_folder(out, f"{plan.data}-{plan.head}-seed{plan.seed}", resume)
    check_folder(folder, plan, resume or launched_rank(machines.processes) > 0, free=("max_bad",))
    if (folder / RECORD_FILE).is_file():
        return load(folder)
    train_set, test_set = load_data(plan)
    check_plan(plan, train_set, machines.processes)
    return carry_out(
        plan,
        folder,
        train_set,
        test_set,
        resume=resume,
        machines=machines,
        skip_nonfinite=skip_nonfinite,
        progress=progress,
        profiler=profiler,
    )


def carry_out(
    recipe: Recipe,
    folder: Path,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    resume: bool = False,
    machines: Machines = ONE_PROCESS,
    skip_nonfinite: int = 0,
    progress: Progress | None = None,
    profiler: Profiler | None = None,
) -> Run:
    """Train, evaluate and record `recipe` in `folder`, on images that are loaded already.

    The weights are saved before they are evaluated. The caller's random generators are left as they were.
    Raises UsageError where another process writes into `folder` or has just done so, FullDiskError where
    the disk has no room; what was saved until then stays whole.
    """
    writes = launched_rank(machines.processes) == 0
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), ExitStack() as held:
        torch.manual_seed(recipe.seed)
        module = build(recipe, train_set)
        loader = BatchLoader(train_set, recipe.batch_size, recipe.seed, label=recipe.label)
        held.enter_context(room_in(folder))
        if writes:
            held.enter_context(sole_writer(folder))
            check_free(folder, recipe, resume)
            open_folder(folder, recipe, resume)
        monitor = Monitor(folder, recipe.monitor_every)
        online = OnlineProbes(recipe.online_every) if recipe.online_every else None
        guard = FiniteGuard(folder, recipe.monitor_every, skip_nonfinite)
        try:
            _fit(module, loader, monitor, online, guard, folder, recipe, machines, progress, profiler)
            if writes:
                arrays = monitor.arrays() | {"examples": _examples(module.views, train_set, recipe.seed)}
                save_arrays(folder, arrays | (online.arrays() if online else {}))
                _save_weights(module, folder, recipe, train_set)
            share = own_share()
            module.to(accelerator())  # Lightning leaves the modules on the CPU
            share.follow_first(module)
            if writes:
                entry = _evaluated(
                    module, monitor, len(loader), folder, recipe, train_set, test_set, progress, share
                )
                entry = entry.model_copy(update={"skipped_steps": guard.skipped})
                list_bad_images(folder, train_set.bad.found | test_set.bad.found)
                new_record("run", recipe.model_dump(), [entry]).save(folder)
            else:
                help_evaluate(module.encoder, module.head, train_set, test_set, share)
        except FullrankError:
            if writes:  # the list says what to mend before the run goes on
                list_bad_images(folder, train_set.bad.found | test_set.bad.found)
            raise
    wait_for_all()
    return load(folder)


def load(folder: str | Path) -> Run:
    """Read a finished run back: encoder and head in eval mode. Raises DataError for a folder that is none.

    Weights are read from safetensors files; nothing is unpickled.
    """
    folder = Path(folder)
    record = Record.load(folder)
    if record.kind != "run":
        raise DataError(f"{folder} holds a {record.kind}, not a run; name one of the run folders below it.")
    if not (folder / RECIPE_FILE).is_file():
        raise DataError(f"{folder} holds no {RECIPE_FILE}; name the folder of a finished run.")
    recipe = Recipe.resolve(folder / RECIPE_FILE)
    try:
        with safe_open(folder / ENCODER_FILE, framework="pt") as file:
            size, in_chans = (int(file.metadata()[key]) for key in ("image_size", "in_chans"))
        with torch.random.fork_rng(devices=()):
            architecture = without_download(recipe.encoder)
            encoder = build_encoder(architecture, image_size=size, in_chans=in_chans)
            head = build_head(recipe.head, in_dim=encoder.feature_dim)
        encoder.load_state_dict(load_file(folder / ENCODER_FILE))
        head.load_state_dict(load_file(folder / HEAD_FILE))
    except (FileNotFoundError, SafetensorError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"The weights in {folder} cannot be read ({reason}); remove {RECORD_FILE} there and "
            "resume the run."
        ) from None
    return Run(folder, recipe, encoder.eval(), head.eval(), record)


@flushed_denormals()
def probe(
    run: str | Path | Run,
    places: Sequence[str] | None = None,
    *,
    label: str = "label",
    measures: Sequence[str] = (),
    shots: Sequence[int] = (),
    shifts: Sequence[str] = (),
    features: str = "raw",
) -> Evaluation:
    """Probe a finished run at `places` (by default h, the head's inner layers and z), on its own data.

    `label` chooses among several kinds of labels (`coarse` of CIFAR-100); the measure "factors" adds the
    weight of every known factor (see `factor_scores`), the other `measures`, `shots` and `features`
    add to the linear and nearest-neighbour accuracy or change it (see `evaluate`). `shifts` are specs of
    sources whose test images, brought to the run's image size, are scored by the same probes; their scores'
    `split` is the canonical spec. Raises DataError for images with fewer than two classes, UsageError for a
    place, label or measure that there is not, and what `load_shift` and `evaluate` raise.
    """
    run = run if isinstance(run, Run) else load(run)
    check_measures(measures, shots, (*MEASURES, FACTORS))
    among_images = [measure for measure in measures if measure != FACTORS]
    checked_treatment(features)
    train_set, test_set = load_data(run.recipe)
    check_probeable(train_set, test_set, label)
    sets = dict(load_shift(spec, train_set) for spec in shifts)
    with on_accelerator(run.encoder, run.head):
        found = evaluate(
            run.encoder,
            run.head,
            train_set,
            test_set,
            places,
            label=label,
            seed=run.recipe.seed,
            measures=among_images,
            shots=shots,
            shifts=sets,
            features=features,
        )
        weights = (
            factor_scores(run.recipe, run.encoder, run.head, train_set, test_set, places)
            if FACTORS in measures
            else []
        )
    return replace(found, scores=[*found.scores, *weights])


def _fit(
    module: JointEmbedding,
    loader: BatchLoader,
    monitor: Monitor,
    online: OnlineProbes | None,
    guard: FiniteGuard,
    folder: Path,
    recipe: Recipe,
    machines: Machines,
    progress: Progress | None,
    profiler: Profiler | None,
) -> None:
    rank = launched_rank(machines.processes)
    resumed = newest_whole(folder, rank=rank)
    if resumed is None and rank == 0:
        for stale in checkpoints_in(folder, SGD_PROBE):  # of an encoder that is trained anew
            stale.unlink(missing_ok=True)
    if (note := split_statistics(module, machines)) and rank == 0:
        print(note, file=sys.stderr)
    with quiet_lightning(), stop_on_signal(folder) as stop, progress or progress_bar() as shown:
        line = ProgressLine(shown, monitor, chance_level(module.objective, recipe.batch_size))
        # The checkpoint comes after the curves and probes of its epoch, which are part of it.
        checkpointer = Checkpointer(folder, loader, stop, recipe.engine.keep_checkpoints)
        watchers = [guard, monitor, *([online] if online else []), checkpointer, line]
        trainer = build_trainer(recipe.engine, machines, recipe.epochs, folder, watchers, profiler)
        home = trainer.strategy.root_device
        if has_room(home, loader.nbytes):
            loader.to(home)  # a step then uploads nothing but what its views are drawn with
        with named_out_of_memory(recipe.batch_size):
            trainer.fit(module, loader, ckpt_path=resumed, weights_only=True)
        if checkpointer.is_told(trainer):
            raise stop.error(
                f"Stopped after the last step; with --out {folder} --resume the same command evaluates the "
                "run."
            )


def _save_weights(module: JointEmbedding, folder: Path, recipe: Recipe, train_set: ImageSet) -> None:
    for part, file in ((module.encoder, ENCODER_FILE), (module.head, HEAD_FILE)):
        weights = {name: tensor.contiguous() for name, tensor in part.state_dict().items()}
        write_whole(folder / file, save(weights, _metadata(recipe, train_set)))


def _evaluated(
    module: JointEmbedding,
    monitor: Monitor,
    batches: int,
    folder: Path,
    recipe: Recipe,
    train_set: ImageSet,
    test_set: ImageSet,
    progress: Progress | None,
    share: Share,
) -> RunEntry:
    """What the trained parts are worth, and how the training went."""
    evaluation = evaluate(module.encoder, module.head, train_set, test_set, seed=recipe.seed, share=share)
    scores = [*evaluation.scores, *_factor_scores(module, recipe, train_set, test_set)]
    if recipe.sgd_probe is not None:
        check_probeable(train_set, test_set, "label")
        with stop_on_signal(folder) as stop, progress or progress_bar() as shown:
            scores += sgd_probe(
                cast(Encoder, module.encoder),
                train_set,
                test_set,
                recipe.sgd_probe,
                folder=folder,
                progress=shown,
                stop=stop,
                seed=recipe.seed,
            )
    views = 2 * recipe.epochs * batches * recipe.batch_size
    return RunEntry(
        head=recipe.head,
        seed=recipe.seed,
        folder=".",
        epochs=recipe.epochs,
        steps=recipe.epochs * -(-batches // recipe.engine.accumulate),
        loss=monitor.curves["loss"][-1],
        chance=chance_level(module.objective, recipe.batch_size),
        seconds=monitor.elapsed(),
        views_per_second=views / monitor.elapsed(),
        parameters=_parameters(module),
        probes=evaluation.probes,
        scores=scores,
        spectrum=evaluation.spectrum,
    )


def _factor_scores(
    module: JointEmbedding, recipe: Recipe, train_set: ImageSet, test_set: ImageSet
) -> list[Score]:
    """The weights of known factors, of images that have several and enough of each.

    Features that are not finite have failed the probes before; what is left to refuse is too few images for
    the factors, and that is no reason to lose a run.
    """
    try:
        return factor_scores(recipe, module.encoder, cast(Head, module.head), train_set, test_set)
    except DataError:
        return []


def _parameters(module: JointEmbedding) -> dict[str, int]:
    """How many weights each part has; the objective is named where it has any."""
    counts = {"encoder": _count(module.encoder), "head": _count(module.head)}
    own = _count(module.objective)
    return counts | {"objective": own} if own else counts


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _metadata(recipe: Recipe, images: ImageSet) -> dict[str, str]:
    return {
        "encoder": recipe.encoder,
        "head": recipe.head,
        "objective": recipe.objective,
        "data": recipe.data,
        "image_size": str(images.image_size),
        "in_chans": str(images.channels),
        "input": "images in 0 to 1",
        "fullrank": version("fullrank"),
    }


def _examples(views: Views, images: ImageSet, seed: int) -> np.ndarray:
    """A few images with both views, (n, 3, H, W, C) uint8; a view has the image's size."""
    rows = np.linspace(0, len(images) - 1, EXAMPLES).astype(int)
    batch = images.batch(rows)
    height, width = batch.images.shape[-2:]
    drawn = views.sample(len(rows), step_generator(seed, 0, 0), (height, width), batch.sizes)
    pair = ((view * 255).round().to(torch.uint8) for view in views.apply(batch, drawn))
    shown = [images.subset(rows).tensor(), *pair]
    return torch.stack(shown, 1).permute(0, 1, 3, 4, 2).numpy()
