"""From a recipe to a run folder: data, parts, training, evaluation, record. Read from `train` downwards."""

import sys
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch.profilers import Profiler
from rich.progress import Progress
from safetensors.torch import save
from torch import nn

from fullrank.data import BatchLoader, ImageSet
from fullrank.devices import accelerator, flushed_denormals, has_room
from fullrank.encoders import Encoder
from fullrank.errors import DataError, FullrankError, UsageError
from fullrank.evaluation.evaluate import (
    check_probeable,
    evaluate,
    help_evaluate,
)
from fullrank.evaluation.factors import factor_scores
from fullrank.files import save_arrays, write_whole
from fullrank.heads import Head
from fullrank.processes import Share, launched_rank, own_share
from fullrank.progress import progress_bar
from fullrank.record import RECORD_FILE, RunEntry, Score
from fullrank.record.making import new_record
from fullrank.runs.build import build, chance_level, check_plan, load_data
from fullrank.runs.folders import (
    check_folder,
    check_free,
    checkpoints_in,
    claim_folder,
    list_bad_images,
    open_folder,
    room_in,
    sole_writer,
)
from fullrank.runs.recipe import Recipe
from fullrank.runs.run import ENCODER_FILE, HEAD_FILE, Run, load
from fullrank.training.callbacks.checkpoints import Checkpointer, newest_whole
from fullrank.training.callbacks.curves import Monitor, ProgressLine
from fullrank.training.callbacks.finite import FiniteGuard
from fullrank.training.callbacks.online import OnlineProbes
from fullrank.training.callbacks.stopping import stop_on_signal
from fullrank.training.engine import (
    ONE_PROCESS,
    Machines,
    build_trainer,
    named_out_of_memory,
    quiet_lightning,
    split_statistics,
    wait_for_all,
)
from fullrank.training.module import JointEmbedding
from fullrank.training.sgd_probe import KIND as SGD_PROBE, sgd_probe
from fullrank.views import Views, step_generator

EXAMPLES = 8


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
        module = JointEmbedding.of(recipe, build(recipe, train_set))
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
        scales_channels=getattr(module.head, "scales_channels", False),
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
