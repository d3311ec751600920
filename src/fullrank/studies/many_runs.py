"""Many runs, each in a folder of its own: finished runs are kept, and several may be trained at a time."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, groupby, islice
from multiprocessing import active_children, get_context
from pathlib import Path
from types import FrameType
from typing import Protocol, TypeVar

import torch
from rich.progress import Progress

from fullrank.allocator import keep_freed_memory
from fullrank.data import ImageSet
from fullrank.devices import flushed_denormals
from fullrank.door import enter, passports
from fullrank.errors import (
    DataError,
    FullrankError,
    InterruptedRunError,
    TerminatedRunError,
    UsageError,
    count_of,
)
from fullrank.evaluation.probe import probe
from fullrank.progress import progress_bar
from fullrank.record import RECORD_FILE, CorrectionTable, ProbedImages, Record, RunEntry, Score
from fullrank.record.scores import measures_for
from fullrank.runs.build import IMAGE_KEYS, check_plan, load_data
from fullrank.runs.folders import check_folder
from fullrank.runs.recipe import RECIPE_FILE, Recipe
from fullrank.runs.run import Run
from fullrank.studies.table import ScoreKey
from fullrank.threads import set_threads, were_asked
from fullrank.training.session import Logging, Session
from fullrank.training.train import carry_out


@dataclass(frozen=True)
class PlannedRun:
    """A run of a study: its name on the screen, recipe, folder, the scores to add, and how it is logged."""

    title: str
    recipe: Recipe
    folder: Path
    scores: tuple[ScoreKey, ...] = ()
    logging: Logging = field(default_factory=Logging)

    @property
    def trained(self) -> bool:
        """Whether the folder holds its record."""
        return (self.folder / RECORD_FILE).is_file()

    @property
    def missing(self) -> list[ScoreKey]:
        """The scores that are asked for and are not in its record yet."""
        measured = {ScoreKey.of(score) for score in self.entry.scores}
        return [key for key in self.scores if key not in measured]

    @property
    def finished(self) -> bool:
        """Whether the folder holds its record, with all scores."""
        return self.trained and not self.missing

    @property
    def begun(self) -> bool:
        """Whether the folder holds its recipe: the run then continues from its last checkpoint."""
        return (self.folder / RECIPE_FILE).is_file()

    @property
    def entry(self) -> RunEntry:
        """Its entry in its record, under the name of its folder."""
        return Record.load(self.folder).runs[0].model_copy(update={"folder": self.folder.name})

    def with_scores(self, scores: Sequence[ScoreKey]) -> "PlannedRun":
        """The run, with these scores added to those asked for."""
        return replace(self, scores=tuple(dict.fromkeys((*self.scores, *scores))))


class _Titled(Protocol):
    @property
    def title(self) -> str:
        """Its name on the screen."""


Work = TypeVar("Work", bound=_Titled)


def score_of(run: RunEntry, key: ScoreKey) -> float:
    """One score of a run; DataError for one that was not measured."""
    for score in run.scores:
        if ScoreKey.of(score) == key:
            return score.value
    raise DataError(f"The record of {run.folder} has no {key}; run the study again.")


def check_parts(recipes: Mapping[str, Recipe]) -> None:
    """Raise what `check_plan` raises for any recipe, after its name; images are loaded once for all."""
    names: dict[Recipe, str] = {}
    for name, recipe in recipes.items():
        names.setdefault(Recipe.resolve(recipe, {"seed": 0}), name)
    for _, group in groupby(sorted(names, key=_images_of), _images_of):
        alike = list(group)
        with _naming(names[alike[0]]):
            train, _ = load_data(alike[0])
        for recipe in alike:
            with torch.random.fork_rng(devices=()), _naming(names[recipe]):
                check_plan(recipe, train)


@flushed_denormals()
def finish_runs(runs: Sequence[PlannedRun], workers: int = 1, *, go_on: str) -> list[RunEntry]:
    """Carry out every run that is not finished yet, and return the entries of all runs, in their order.

    A run that was stopped continues from its last checkpoint. `workers` processes share the cores. The number
    of threads of a run changes its rounding, which training amplifies as another seed would.

    Raises:
        UsageError: Before any training, for fewer than 1 worker or a folder of another recipe.
        InterruptedRunError: On Ctrl-C, after saving; `go_on` says in it how to continue. On SIGTERM it is a
            TerminatedRunError.
        FullrankError: Whatever `carry_out` raises, after the title of the run.
    """
    if workers < 1:
        raise UsageError(f"--workers must be 1 or more, but got {workers}.")
    for run in runs:
        check_folder(run.folder, run.recipe, resume=True)
    runs = [replace(run, title=f"[{i}/{len(runs)}] {run.title}") for i, run in enumerate(runs, start=1)]
    waiting = [run for run in runs if not run.finished]
    together = min(workers, len(waiting))
    with progress_bar() as progress:
        finished = [run for run in runs if run not in waiting]
        parallel = together > 1
        now = _runs_in_parallel(waiting, together, progress) if parallel else _in_turn(waiting, progress)
        try:
            for run in chain(finished, now):
                say(progress, f"{run.title}: {_summary(run.entry)}")
        except (KeyboardInterrupt, InterruptedRunError) as stopped:
            done = sum(run.finished for run in runs)
            kind = TerminatedRunError if isinstance(stopped, TerminatedRunError) else InterruptedRunError
            raise kind(
                f"Stopped with {done} of {count_of(len(runs), 'run')} finished; the others are saved, "
                f"and {go_on}."
            ) from None
    return [run.entry for run in runs]


def _in_turn(waiting: Sequence[PlannedRun], progress: Progress) -> Iterator[PlannedRun]:
    """One run after the other in this process, each with a line that counts its steps."""
    images: tuple[str, tuple[ImageSet, ImageSet]] | None = None
    durations: list[float] = []
    for number, run in enumerate(waiting):
        doing = "probing" if run.trained else "training"
        say(progress, f"{run.title}: {doing}{_time_left(durations, len(waiting) - number)}")
        started = time.perf_counter()
        with _naming(run.title):
            if not run.trained:
                if images is None or images[0] != _images_of(run.recipe):
                    images = _images_of(run.recipe), load_data(run.recipe)
                session = Session(resume=run.begun, progress=progress, logging=run.logging)
                _measure(run, carry_out(run.recipe, run.folder, *images[1], session))
            else:
                _measure(run)
        durations.append(time.perf_counter() - started)
        yield run


def _runs_in_parallel(
    waiting: Sequence[PlannedRun], workers: int, progress: Progress
) -> Iterator[PlannedRun]:
    """Several runs at a time, each in a process with its share of the cores."""
    modules = passports(origin.module for run in waiting for origin in run.recipe.imports)
    return in_parallel(waiting, _carry_out, workers, progress, modules)


def in_parallel(
    waiting: Sequence[Work],
    carry_out: Callable[[Work], None],
    workers: int,
    progress: Progress,
    modules: list[tuple[str, str]],
) -> Iterator[Work]:
    """Do several pieces of work at a time, each in a process with its share of the cores.

    Args:
        waiting: The pieces of work, begun in this order; errors of one begin with its `title`.
        carry_out: Does one, in another process, so it is found by its name.
        workers: Number of processes.
        progress: Counts what is done.
        modules: The modules of others' parts that the work needs, as `door.passports` gives them.

    Returns:
        The pieces as they are finished.
    """
    threads = max(1, torch.get_num_threads() // workers)
    task = progress.add_task("runs", total=len(waiting), status=f"{workers} at a time")
    others = set(active_children())
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_begin_work, initargs=(threads, were_asked(), modules)
    )
    # No more than the workers can begin at once: what is queued in the pool would still be carried out whole
    # after Ctrl-C.
    left = iter(waiting)
    under_way = {pool.submit(carry_out, run): run for run in islice(left, workers)}
    try:
        while under_way:
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                run = under_way.pop(future)
                with _naming(run.title):
                    future.result()
                under_way |= {pool.submit(carry_out, following): following for following in islice(left, 1)}
                progress.advance(task)
                yield run
    except BrokenProcessPool:
        raise FullrankError(
            f"One of {workers} worker processes ended by itself; finished runs are kept. Memory ran out "
            "(give fewer --workers), or a script lacks `if __name__ == '__main__':` and started again there."
        ) from None
    except (KeyboardInterrupt, InterruptedRunError) as stopped:
        say(progress, "Stopping: the unfinished runs are being saved.")
        if isinstance(stopped, TerminatedRunError):
            # Unlike a terminal's Ctrl-C it may have reached this process alone.
            for worker in set(active_children()) - others:
                worker.terminate()
        raise
    finally:
        # Those under way save themselves where Ctrl-C reached them too, as in a terminal; otherwise they end.
        pool.shutdown(cancel_futures=True)


def _begin_work(threads: int, asked: bool, modules: list[tuple[str, str]]) -> None:
    """Set up a worker process: its share of the cores, the modules of others' parts, no Ctrl-C."""
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_threads(threads, asked)
    enter(modules)


def _carry_out(run: PlannedRun) -> None:
    before = signal.signal(signal.SIGTERM, _end_work)
    try:
        with flushed_denormals(), Progress(disable=True) as silent:
            session = Session(resume=run.begun, progress=silent, logging=run.logging)
            images = () if run.trained else load_data(run.recipe)
            _measure(run, carry_out(run.recipe, run.folder, *images, session) if images else None)
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_work(signum: int, frame: FrameType | None) -> None:
    # Training has a handler of its own, which saves; a worker that died of it would break the pool.
    raise TerminatedRunError("Stopped after training; the same command continues from there.")


def _measure(run: PlannedRun, trained: Run | None = None) -> None:
    """Measure the scores that are asked for and that a trained run lacks, and add them to its record."""
    if not (missing := run.missing):
        return
    measured: list[Score] = []
    images: list[ProbedImages] = []
    tables: list[CorrectionTable] = []
    for label in dict.fromkeys(key.label for key in missing):
        keys = [key for key in missing if key.label == label]
        evaluation = probe(
            trained or run.folder,
            list(dict.fromkeys(key.place for key in keys)),
            label=label,
            measures=measures_for((key.probe, key.statistic) for key in keys),
            shots=sorted({key.shots for key in keys if key.shots is not None}),
            shifts=list(dict.fromkeys(key.split for key in keys if key.split != "test")),
        )
        measured += evaluation.scores
        images += [*([evaluation.images] if evaluation.images else []), *evaluation.shifted]
        tables += evaluation.corrections
    record = Record.load(run.folder)
    (entry,) = record.runs
    others = [each for each in dict.fromkeys((*entry.other_images, *images)) if each != entry.images]
    recorded = {ScoreKey.of(score) for score in entry.scores}
    scores = [*entry.scores, *(score for score in measured if ScoreKey.of(score) not in recorded)]
    if lacking := [key for key in missing if key not in map(ScoreKey.of, scores)]:
        raise UsageError(f"No probe measures {lacking[0]}; correct the statistic of the table's column.")
    corrections = [*entry.corrections, *(table for table in tables if table not in entry.corrections)]
    update = {"scores": scores, "other_images": others, "corrections": corrections}
    record.model_copy(update={"runs": [entry.model_copy(update=update)]}).save(run.folder)


def _images_of(recipe: Recipe) -> str:
    """The keys that decide which images a recipe has, as one text."""
    return recipe.model_dump_json(include=set(IMAGE_KEYS))


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Errors of the block begin with the name of a run or row."""
    try:
        yield
    except InterruptedRunError:
        raise
    except FullrankError as error:
        raise type(error)(f"{name}: {error}") from None


def say(progress: Progress, line: str) -> None:
    """Print a line above the progress lines."""
    progress.console.print(line, highlight=False, soft_wrap=True, markup=False)


def _time_left(durations: Sequence[float], runs: int) -> str:
    """How long `runs` more runs take, from the mean time of the runs so far."""
    if not durations:
        return ""
    minutes = sum(durations) / len(durations) * runs / 60
    return f", about {minutes:.0f} min left in all" if minutes >= 1 else ", less than a minute left in all"


def _summary(run: RunEntry) -> str:
    rank = f"rank of h {run.spectrum['h'].effective_rank:.1f}"
    scores = [f"linear on {place} {100 * probe.linear:.1f}" for place, probe in run.probes.items()]
    return ", ".join([*scores, rank, f"{run.seconds:.0f} s"])
