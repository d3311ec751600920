"""From a recipe to a run folder: data, parts, training, evaluation, record. Read from `train` downwards."""

import re
import sys
import zlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
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
from fullrank.evaluation.correction_table import head_corrections
from fullrank.evaluation.evaluate import evaluate, help_evaluate
from fullrank.evaluation.scores import Request
from fullrank.files import save_arrays, typed_path
from fullrank.processes import launched_rank, own_share, process_count
from fullrank.progress import progress_bar
from fullrank.record import RECORD_FILE, Record
from fullrank.record.making import new_record
from fullrank.runs import folders
from fullrank.runs.build import GivenImages, check_plan, load_data
from fullrank.runs.recipe import Recipe
from fullrank.runs.run import Run, load
from fullrank.threads import asked_threads
from fullrank.training import engine, results
from fullrank.training.callbacks.checkpoints import Checkpointer, newest_whole
from fullrank.training.callbacks.collapse import CollapseWatch, rules_for
from fullrank.training.callbacks.curves import Monitor, ProgressLine
from fullrank.training.callbacks.finite import FiniteGuard
from fullrank.training.callbacks.online import OnlineProbes
from fullrank.training.callbacks.stopping import Stop
from fullrank.training.loggers import log_results, run_loggers
from fullrank.training.module import JointEmbedding
from fullrank.training.session import LoggerFactory, Logging, OptimizerFactory, Session
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
    loggers: Sequence[Logger] | LoggerFactory = (),
    optimizer: str | OptimizerFactory | None = None,
    progress: Progress | None = None,
    profiler: Profiler | None = None,
    threads: int | None = None,
    imports: Sequence[str | Path | ModuleType] = (),
    **overrides: Any,
) -> Run:
    """Train an encoder according to a recipe, probe it, and write everything into a folder.

    Args:
        recipe: The name of a recipe, a YAML file, or a `Recipe`.
        data: The spec of a source, a torch Dataset of (image, label), or a pair of them: train and test.
        out: Folder of the run; by default a new one under `runs/`.
        resume: Continue the run in `out` from its newest undamaged checkpoint. The result is the same as
            without the interruption. A finished run is returned unchanged.
        init: A file of weights for the encoder to start from (see `load_weights`).
        devices: Processes on this machine, one per device. With more than one, `torchrun` or SLURM starts
            them, every process makes this call, and the first one writes.
        nodes: Number of machines. A run may be resumed with another number of processes.
        skip_nonfinite: Skip at most this many steps whose loss or gradient is not finite (see `FiniteGuard`).
        callbacks: Callbacks of Lightning.
        loggers: Loggers of Lightning, or a function that gets the recipe and returns them. Those of a
            function are closed at the end of the run (docs/loggers.md).
        optimizer: A name, or a function that gets groups of parameters and returns an optimizer. Its rate
            follows the recipe's warm-up and cosine.
        progress: The progress line to use.
        profiler: A profiler of Lightning.
        threads: Number of threads to compute with; None leaves torch's own, or that of a resumed run.
        imports: Modules that register parts.
        **overrides: Keys of the recipe to replace; a nested key is `**{"optimizer.lr": 1e-3}`. Parts are
            specs or your own classes.

    Raises:
        UsageError: For a recipe that cannot be carried out, a logger that does not start, or a folder in use.
        DataError: For images that cannot be read.
        DivergedError: For a loss or gradient that is not finite.
        OutOfMemoryError: For a batch that does not fit in memory.
        FullDiskError: For a full disk.
        InterruptedRunError: On Ctrl-C, after saving. On SIGTERM it is a TerminatedRunError.

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
    make = loggers if callable(loggers) and not isinstance(loggers, type | Logger) else None
    watchers = _listed(callbacks), () if make else _listed(loggers)
    parts = progress, profiler, *watchers, factory, Logging(make=make)
    session = Session(devices, nodes, resume, skip_nonfinite, *parts)
    processes = session.processes
    if processes > 1 and out is None:
        raise UsageError("Several processes need --out DIR, a folder that all of them share.")
    folder = folders.claim_folder(out, f"{plan.data}-{plan.head}-seed{plan.seed}", resume)
    folders.check_folder(folder, plan, resume or launched_rank(processes) > 0, free=("max_bad",))
    if (folder / RECORD_FILE).is_file():
        return load(folder)
    with asked_threads(threads):
        return carry_out(plan, folder, *load_data(plan, own_images), session)


def carry_out(
    recipe: Recipe, folder: Path, train: ImageSet, test: ImageSet, session: Session | None = None
) -> Run:
    """Train, evaluate and record `recipe` in `folder`, on loaded images.

    The parts are tested before anything is written, and the weights are saved before they are evaluated. The
    caller's random generators are unchanged.
    """
    session = session or Session()
    writes = launched_rank(session.processes) == 0
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), ExitStack() as contexts:
        contexts.callback(torch.set_num_threads, torch.get_num_threads())  # a resumed run may change it
        torch.manual_seed(recipe.seed)
        parts = check_plan(recipe, train, session.processes)
        module = JointEmbedding.of(recipe, parts, session.optimizer)
        loader = BatchLoader(train, recipe.batch_size, recipe.seed, label=recipe.label, cues=module.cues)
        contexts.enter_context(folders.room_in(folder))
        if writes:
            contexts.enter_context(folders.sole_writer(folder))
            folders.check_free(folder, recipe, session.resume)
            folders.open_folder(folder, recipe, session.resume)
        loggers = contexts.enter_context(run_loggers(recipe, folder, session))
        session = replace(session, loggers=loggers)
        images = train, test
        monitor = Monitor(folder, recipe.monitor_every, [str(term.name) for term in module.terms])
        guard = FiniteGuard(folder, recipe.monitor_every, session.skip_nonfinite)
        watch = CollapseWatch(recipe.monitor_every, rules_for(module.objective, module.head))
        online = [OnlineProbes(recipe.online_every)] if recipe.online_every else []
        try:
            _fit(module, loader, monitor, [guard, monitor, watch, *online], recipe, folder, session)
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
                entry.findings.extend(watch.findings())
                entry.corrections.extend(head_corrections(module.encoder, module.head, test, module.cues))
                if (objects := results.segmentation_of(module, recipe, images)) is not None:
                    entry.scores.extend(objects.scores)
                    save_arrays(folder, curves | {"examples": examples} | objects.examples)
                entry.baselines.extend(results.baselines_of(recipe, images, evaluation))
                folders.list_bad_images(folder, train.bad.found | test.bad.found)
                if module.teacher is not None:
                    taught = evaluate(
                        module.teacher.encoder, module.teacher.head, *images, request=request, share=share
                    )
                    results.save_teacher(module.teacher, folder, recipe, train, entry, taught)
                record = new_record("run", recipe.model_dump(mode="json"), [entry])
                record.save(folder)
                log_results(loggers, recipe, entry, session.callbacks)
            else:
                help_evaluate(module.encoder, module.head, *images, share)
                if module.teacher is not None:
                    help_evaluate(module.teacher.encoder, module.teacher.head, *images, share)
        except FullrankError:
            if writes:  # the list shows what to repair before a resume
                folders.list_bad_images(folder, train.bad.found | test.bad.found)
            raise
    if process_count() > 1:
        dist.barrier()
    if not writes:
        record = Record.load(folder)
    return Run(folder, record, recipe, *results.finished_parts(module))


def _listed(value: Any) -> tuple[Any, ...]:
    """One object or several, as a tuple."""
    return tuple(value) if isinstance(value, Iterable) else (value,)


def called(factory: OptimizerFactory) -> str:
    """The name in a recipe of an optimizer made in Python: the module and name of its function."""
    name = getattr(factory, "__qualname__", type(factory).__qualname__)
    code = getattr(factory, "__code__", None)
    # A function also gets a digest, so that two functions of one name, such as lambdas, differ.
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
        for stale in folders.checkpoints_in(folder, SGD_PROBE):  # of an encoder that is now trained again
            stale.unlink(missing_ok=True)
    if (note := engine.split_statistics(module, session.processes)) and rank == 0:
        print(note, file=sys.stderr)
    with engine.quiet_lightning(), Stop(folder) as stop, session.progress or progress_bar() as shown:
        line = ProgressLine(shown, monitor, results.chance_level(module, recipe))
        # The checkpoint comes last, since it contains the curves and probes of its epoch.
        checkpointer = Checkpointer(folder, loader, stop, recipe.engine.keep_checkpoints)
        trainer = engine.build_trainer(recipe, [*watchers, checkpointer, line], session)
        home = trainer.strategy.root_device
        if has_room(home, loader.nbytes):
            loader.to(home)  # a step then uploads only the parameters of its views
        with engine.named_out_of_memory(recipe.batch_size):
            trainer.fit(module, loader, ckpt_path=resumed, weights_only=True)
        if checkpointer.must_stop(trainer):
            remedy = f"the same command with --out {typed_path(folder)} --resume evaluates the run"
            raise stop.error(f"Stopped after the last step; {remedy}.")
