"""From a recipe to a run folder: data, parts, training, evaluation, record. Read from `train` downwards."""

import re
import sys
import zlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from rich.progress import Progress

from fullrank.data import BatchLoader, ImageSet
from fullrank.devices import accelerator, flushed_denormals, has_room
from fullrank.door import import_modules
from fullrank.errors import FullrankError, UsageError
from fullrank.evaluation.evaluate import evaluate, help_evaluate
from fullrank.evaluation.scores import Request
from fullrank.files import save_arrays
from fullrank.processes import launched_rank, own_share, process_count
from fullrank.progress import progress_bar
from fullrank.record import RECORD_FILE, Record
from fullrank.record.making import new_record
from fullrank.runs import folders
from fullrank.runs.build import GivenImages, check_plan, load_data
from fullrank.runs.recipe import Recipe
from fullrank.runs.run import Run, load
from fullrank.training import engine, results
from fullrank.training.callbacks.checkpoints import Checkpointer, newest_whole
from fullrank.training.callbacks.curves import Monitor, ProgressLine
from fullrank.training.callbacks.finite import FiniteGuard
from fullrank.training.callbacks.online import OnlineProbes
from fullrank.training.callbacks.stopping import Stop
from fullrank.training.module import JointEmbedding
from fullrank.training.session import OptimizerFactory, Session
from fullrank.training.sgd_probe import KIND as SGD_PROBE


@flushed_denormals()
def train(
    recipe: str | Path | Recipe,
    *,
    data: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    init: str | Path | None = None,
    devices: int = 1,
    nodes: int = 1,
    skip_nonfinite: int = 0,
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[Logger] = (),
    optimizer: str | OptimizerFactory | None = None,
    progress: Progress | None = None,
    profiler: Profiler | None = None,
    imports: Sequence[str | Path | ModuleType] = (),
    **overrides: Any,
) -> Run:
    """Train an encoder as a recipe says, probe it, and leave everything in the folder `out`.

    `overrides` replace keys of the recipe; a nested key is given as `**{"optimizer.lr": 1e-3}`. Parts are
    specs or classes of yours, and `imports` are modules that register parts. `data` is the spec of a source,
    a torch Dataset of (image, label), or a pair of them, to train and to test. `init` is a file of weights to
    start the encoder from (see `load_weights`). `callbacks`, `loggers` and `profiler` are Lightning's;
    `optimizer` is a name, or is called with groups of parameters and returns an optimizer, whose rate then
    follows the recipe's warm-up and cosine.

    With `resume` a run that was cut off goes on exactly where its newest whole checkpoint stands, in a folder
    without one from the beginning; a finished run is returned as it is. With more than one device or node,
    every process makes this call (`torchrun` or SLURM start them), and the first one writes; a run may be
    resumed by another number of processes. Up to `skip_nonfinite` steps whose loss or gradient is not finite
    are left out (see `FiniteGuard`).

    Raises UsageError for a recipe that cannot be carried out or a folder in use, DataError for images that
    cannot be read, DivergedError for a loss or gradient that is not finite, OutOfMemoryError for a batch that
    memory does not hold, FullDiskError for a disk without room, and, after saving, InterruptedRunError on
    Ctrl-C and TerminatedRunError on SIGTERM.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp() + "/run"
    >>> run = train("digits", out=folder, head="none", epochs=1, limit=300)
    >>> sorted(run.record.runs[0].probes)
    ['h', 'z']
    """
    import_modules(imports)
    own_images = None if data is None or isinstance(data, str | type) else GivenImages.of(data)
    if data is not None:
        overrides["data"] = data if own_images is None else own_images.spec
    if init is not None:
        overrides["init"] = str(init)
    factory = optimizer if callable(optimizer) else None
    if optimizer is not None:
        overrides["optimizer.name"] = optimizer if factory is None else called(factory)
    plan = Recipe.resolve(recipe, overrides)
    watchers = _listed(callbacks), _listed(loggers)
    session = Session(devices, nodes, resume, skip_nonfinite, progress, profiler, *watchers, factory)
    processes = session.processes
    if processes > 1 and out is None:
        raise UsageError("Several processes need --out DIR, the folder that all of them know.")
    folder = folders.claim_folder(out, f"{plan.data}-{plan.head}-seed{plan.seed}", resume)
    folders.check_folder(folder, plan, resume or launched_rank(processes) > 0, free=("max_bad",))
    if (folder / RECORD_FILE).is_file():
        return load(folder)
    return carry_out(plan, folder, *load_data(plan, own_images), session)


def carry_out(
    recipe: Recipe, folder: Path, train: ImageSet, test: ImageSet, session: Session | None = None
) -> Run:
    """Train, evaluate and record `recipe` in `folder`, on images that are loaded already.

    The parts are tried out before anything is written, and the weights are saved before they are evaluated.
    The caller's random generators are left as they were.
    """
    session = session or Session()
    writes = launched_rank(session.processes) == 0
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), ExitStack() as contexts:
        torch.manual_seed(recipe.seed)
        parts = check_plan(recipe, train, session.processes)
        module = JointEmbedding.of(recipe, parts, session.optimizer)
        loader = BatchLoader(train, recipe.batch_size, recipe.seed, label=recipe.label)
        contexts.enter_context(folders.room_in(folder))
        if writes:
            contexts.enter_context(folders.sole_writer(folder))
            folders.check_free(folder, recipe, session.resume)
            folders.open_folder(folder, recipe, session.resume)
        images = train, test
        monitor = Monitor(folder, recipe.monitor_every)
        guard = FiniteGuard(folder, recipe.monitor_every, session.skip_nonfinite)
        online = [OnlineProbes(recipe.online_every)] if recipe.online_every else []
        try:
            _fit(module, loader, monitor, [guard, monitor, *online], recipe, folder, session)
            if writes:
                curves = monitor.arrays() | (online[0].arrays() if online else {})
                examples = results.example_views(module.views, train, recipe.seed)
                save_arrays(folder, curves | {"examples": examples})
                results.save_weights(module, folder, recipe, train)
            share = own_share()
            module.to(accelerator())  # Lightning leaves the modules on the CPU
            share.follow_first(module)
            if writes:
                request = Request(seed=recipe.seed)
                evaluation = evaluate(module.encoder, module.head, *images, request=request, share=share)
                entry = results.entry_of(module, recipe, monitor, guard.skipped, len(loader), evaluation)
                entry.scores.extend(results.further_scores(module, recipe, folder, images, session))
                entry.baselines.extend(results.baselines_of(recipe, images, evaluation))
                folders.list_bad_images(folder, train.bad.found | test.bad.found)
                record = new_record("run", recipe.model_dump(mode="json"), [entry])
                record.save(folder)
            else:
                help_evaluate(module.encoder, module.head, *images, share)
        except FullrankError:
            if writes:  # the list says what to mend before the run goes on
                folders.list_bad_images(folder, train.bad.found | test.bad.found)
            raise
    if process_count() > 1:
        dist.barrier()
    if not writes:
        record = Record.load(folder)
    return Run(folder, record, recipe, *results.finished_parts(module))


def _listed(value: Any) -> tuple[Any, ...]:
    """One thing or several, as several."""
    return tuple(value) if isinstance(value, Iterable) else (value,)


def called(factory: OptimizerFactory) -> str:
    """How a recipe calls an optimizer that was given in Python: by the module and name of what makes it."""
    name = getattr(factory, "__qualname__", type(factory).__qualname__)
    code = getattr(factory, "__code__", None)
    # Of a function also a digest, so that another one of that name, such as a lambda, is another optimizer.
    digest = "" if code is None else f".{zlib.crc32(code.co_code + repr(code.co_consts).encode()):08x}"
    return re.sub(r"[^\w.:]", "", f"{getattr(factory, '__module__', 'python')}:{name}") + digest


def _fit(
    module: JointEmbedding,
    loader: BatchLoader,
    monitor: Monitor,
    watchers: list[pl.Callback],
    recipe: Recipe,
    folder: Path,
    session: Session,
) -> None:
    rank = launched_rank(session.processes)
    resumed = newest_whole(folder, rank=rank)
    if resumed is None and rank == 0:
        for stale in folders.checkpoints_in(folder, SGD_PROBE):  # of an encoder that is trained anew
            stale.unlink(missing_ok=True)
    if (note := engine.split_statistics(module, session.processes)) and rank == 0:
        print(note, file=sys.stderr)
    with engine.quiet_lightning(), Stop(folder) as stop, session.progress or progress_bar() as shown:
        line = ProgressLine(shown, monitor, results.chance_level(module, recipe))
        # The checkpoint comes after the curves and probes of its epoch, which are part of it.
        checkpointer = Checkpointer(folder, loader, stop, recipe.engine.keep_checkpoints)
        trainer = engine.build_trainer(recipe, folder, [*watchers, checkpointer, line], session)
        home = trainer.strategy.root_device
        if has_room(home, loader.nbytes):
            loader.to(home)  # a step then uploads nothing but what its views are drawn with
        with engine.named_out_of_memory(recipe.batch_size):
            trainer.fit(module, loader, ckpt_path=resumed, weights_only=True)
        if checkpointer.must_stop(trainer):
            remedy = f"with --out {folder} --resume the same command evaluates the run"
            raise stop.error(f"Stopped after the last step; {remedy}.")
