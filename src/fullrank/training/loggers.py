"""The loggers of a run: how they are named and resumed, and the scores that they get."""

import csv
import json
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch import loggers as theirs
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger
from pydantic import TypeAdapter, ValidationError

from fullrank.diagnosis.watch.spectrum_monitor import SpectrumMonitor
from fullrank.errors import DataError, FullrankError, FullrankWarning, UsageError, explained
from fullrank.files import write_whole
from fullrank.processes import launched_rank
from fullrank.record import RunEntry, Score
from fullrank.runs.folders import number_of, slug
from fullrank.runs.recipe import LOGGERS, RECIPE_KEYS, Recipe
from fullrank.training.callbacks.checkpoints import newest_whole
from fullrank.training.engine import quiet_lightning
from fullrank.training.session import Logging, Session, check_loggers

LOGGERS_FILE = "loggers.json"
_PROJECT = "fullrank"
_VERSIONS = TypeAdapter(dict[str, list[str]])


def hyperparameters(recipe: Recipe) -> dict[str, Any]:
    """Every key of a recipe with its value, by the names of `fullrank list recipe-keys`.

    Keys of a part that the recipe does not have (`sgd_probe`) are left out.

    >>> hyperparameters(Recipe.resolve("digits", {"optimizer.lr": 0.01}))["optimizer.lr"]
    0.01
    """
    content = recipe.model_dump()
    values = {}
    for key in RECIPE_KEYS:
        part, _, name = key.rpartition(".")
        home = content[part] if part else content
        if home is not None:
            values[key] = home[name]
    return values


def final_scores(entry: RunEntry) -> dict[str, float]:
    """The results of a finished run as flat numbers, named `final/...`; accuracies are 0 to 1.

    The results of the training are the loss, its chance level and the seconds. Each place has both probes and
    the effective rank. The chance level of the probes, the baselines, and every further score of the record
    follow.
    """
    numbers: dict[str, float | None] = {
        "loss": entry.loss,
        "chance/loss": entry.chance,
        "seconds": entry.seconds,
        "views_per_second": entry.views_per_second,
        "alarms": len(entry.findings),
    }
    for place, probe in entry.probes.items():
        numbers |= {f"linear/{place}": probe.linear, f"nearest/{place}": probe.nearest}
    numbers |= {f"effective_rank/{place}": each.effective_rank for place, each in entry.spectrum.items()}
    if entry.images is not None:
        numbers["chance/accuracy"] = entry.images.chance
    for each in entry.baselines:
        numbers |= {f"linear/{each.features}": each.linear, f"nearest/{each.features}": each.nearest}
    for score in entry.scores:
        numbers.setdefault(_name_of(score), score.value)
    named = ((re.sub(r"[^\w/. -]+", "_", name), value) for name, value in numbers.items())
    return {f"final/{name}": float(value) for name, value in named if value is not None}


def _name_of(score: Score) -> str:
    """The measure and the place of a score, and whatever differs from the default protocol."""
    usual = {"label": "label", "split": "test", "features": "raw" if score.probe == "linear" else "l2"}
    others = [f"{key} {value}" for key in usual if (value := getattr(score, key)) != usual[key]]
    return "/".join([*score.measure.split(", "), score.place, *others])


@contextmanager
def run_loggers(recipe: Recipe, folder: Path, session: Session) -> Iterator[tuple[Logger, ...]]:
    """The loggers of a run, which have its recipe. `loggers.json` stores their versions for a resume.

    Loggers that the recipe names or a function makes are closed at the end; those of the caller stay open.
    Only the first process logs.

    Args:
        recipe: The recipe of the run.
        folder: The folder of the run.
        session: The call that carries out the run.

    Raises:
        UsageError: If a logger cannot start.
    """
    first, make = launched_rank(session.processes) == 0, session.logging.make
    if not first:
        yield (*session.loggers, *([DummyLogger()] if recipe.engine.logger or make else []))
        return
    remembered = _remembered(folder)
    made = _made(recipe, folder, session.logging, remembered)
    loggers, status = (*made, *session.loggers), "failed"
    try:
        for logger in loggers:
            _begin(logger, recipe, remembered)
            write_whole(folder / LOGGERS_FILE, json.dumps(remembered, indent=1).encode())
        yield loggers
        status = "success"
    finally:
        for logger in made:
            _close(logger, status)


def log_results(
    loggers: Sequence[Logger], recipe: Recipe, entry: RunEntry, callbacks: Iterable[pl.Callback]
) -> None:
    """Log the final scores, and the number of alerts of a monitor, at the last step of the run."""
    scores = final_scores(entry)
    monitors = [each for each in callbacks if isinstance(each, SpectrumMonitor)]
    if monitors:
        scores["final/alerts"] = float(sum(len(monitor.alerts) for monitor in monitors))
    for logger in loggers:
        with _only_warned(logger, "did not take the final scores, which are in the record"):
            if isinstance(logger, theirs.TensorBoardLogger):  # it shows the recipe beside the scores
                logger.log_hyperparams(hyperparameters(recipe), scores, entry.steps - 1)
            else:
                logger.log_metrics(scores, entry.steps - 1)


def check_factory(make: object, workers: int = 1) -> None:
    """Raise UsageError unless `make` is None or a function, which the workers of a study can call too."""
    if make is None:
        return
    if not callable(make) or isinstance(make, type | Logger):
        raise UsageError(
            f"The loggers of a study must be a function of a run's recipe, but got {make!r:.60}; write "
            "loggers=lambda recipe: [WandbLogger()]."
        )
    main = sys.modules["__main__"]
    notebook = getattr(make, "__module__", "") == "__main__" and not hasattr(main, "__file__")
    try:
        pickle.dumps(make)
    except (pickle.PicklingError, AttributeError, TypeError):
        notebook = True
    if workers > 1 and notebook:
        raise UsageError(
            f"The function of loggers cannot be sent to {workers} workers; define it in a module that they "
            "can import, or use 1 worker."
        )


def open_store(recipe: Recipe, logging: Logging) -> None:
    """Create what the runs of a study share, before several of them start at once: MLflow's experiment."""
    if recipe.engine.logger == "mlflow":
        with _explained("The logger mlflow"):
            _mlflow_experiment(logging)


def _mlflow_experiment(logging: Logging) -> tuple[str, str]:
    """The address of MLflow's store, and the name of the experiment, which is created if it is missing."""
    from mlflow import MlflowClient

    default = f"sqlite:///{(logging.store or Path()).resolve() / 'mlflow.db'}"
    uri = os.environ.get("MLFLOW_TRACKING_URI") or default
    name = logging.group or os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT
    client = MlflowClient(uri)
    if client.get_experiment_by_name(name) is None:
        client.create_experiment(name)
    return uri, name


def _made(
    recipe: Recipe, folder: Path, logging: Logging, remembered: dict[str, list[str]]
) -> tuple[Logger, ...]:
    """The logger that the recipe names, and those that a function of the caller makes."""
    named: list[Logger] = []
    if (choice := recipe.engine.logger) is not None:
        kind = getattr(theirs, LOGGERS[choice])
        version = next(iter(remembered.get(kind.__name__, ())), None)
        title = logging.name or f"{recipe.head}, seed {recipe.seed}"
        with _explained(f"The logger {choice}"):
            named.append(_named(choice, kind, folder, replace(logging, name=title), version))
    if logging.make is None:
        return tuple(named)
    with explained("The function of loggers failed"):
        returned = logging.make(recipe)
        made = [returned] if isinstance(returned, Logger) else list(returned)
    check_loggers(made)
    return (*named, *made)


def _named(choice: str, kind: type[Logger], folder: Path, logging: Logging, known: str | None) -> Logger:
    """The logger that a recipe names: a new one, or the continuation of version `known`."""
    build: Callable[..., Logger] = kind
    if choice == "wandb":
        _check_no_open_run()
        project = os.environ.get("WANDB_PROJECT", _PROJECT)
        group = logging.group or None
        return build(name=logging.name, project=project, group=group, save_dir=folder, version=known)
    if choice == "mlflow":
        uri, name = _mlflow_experiment(logging if logging.store else replace(logging, store=folder))
        return build(experiment_name=name, run_name=logging.name, tracking_uri=uri, run_id=known)
    if choice in ("csv", "tensorboard"):
        # Steps that a killed run logged after its last checkpoint will be logged again.
        newest = newest_whole(folder, rank=1)  # quietly: the training itself names damaged ones
        step = 0 if newest is None else number_of(newest)
        where = {"save_dir": folder, "version": slug(logging.name)}
        if choice == "csv":
            return _csv_logger(build(**where), step)
        return build(**where, default_hp_metric=False, purge_step=step)
    return build(**{"root_dir" if choice == "litlogger" else "save_dir": folder})


def _check_no_open_run() -> None:
    import wandb

    if wandb.run is not None:
        raise UsageError(
            f"The W&B run {wandb.run.name} is open in this process and would get this run's log; call "
            "wandb.finish() first, or leave out engine.logger and give loggers=[WandbLogger()] to use it."
        )


def _csv_logger(logger: Any, before: int) -> Logger:
    """A CSV logger that keeps the rows of its file below a step; Lightning alone would delete the file."""
    path = Path(logger.log_dir) / "metrics.csv"
    rows = list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []
    for row in rows:
        if (step := int(row.pop("step"))) < before:
            logger.log_metrics({name: float(text) for name, text in row.items() if text}, step)
    return cast(Logger, logger)


def _begin(logger: Logger, recipe: Recipe, remembered: dict[str, list[str]]) -> None:
    """Log the recipe, unless this version of the logger has it already, and remember the version."""
    name = type(logger).__name__
    versions = remembered.setdefault(name, [])
    with _explained(name):
        if str(logger.version) not in versions:
            logger.log_hyperparams(hyperparameters(recipe))
        if str(logger.version) not in versions:
            if versions:
                again = f"{name}(version={versions[-1]!r}) would continue the earlier log"
                print(f"Note: {name} logs to the new version {logger.version}; {again}.", file=sys.stderr)
            versions.append(str(logger.version))


def _close(logger: Logger, status: str) -> None:
    """End the log of a run. An open W&B run would get whatever is logged next."""
    with _only_warned(logger, "was not closed"):
        logger.finalize(status)
        if isinstance(logger, theirs.WandbLogger) and logger.version is not None:
            logger.experiment.finish(exit_code=int(status != "success"))


@contextmanager
def _only_warned(logger: Logger, fault: str) -> Iterator[None]:
    """An error of a logger in the block becomes a warning, since the run itself is saved."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # of any library, over a network
        warnings.warn(f"{type(logger).__name__} {fault} ({error}).", FullrankWarning, stacklevel=4)


def _remembered(folder: Path) -> dict[str, list[str]]:
    """The versions of each class of logger that a run has used, from `loggers.json` in its folder."""
    path = folder / LOGGERS_FILE
    if not path.is_file():
        return {}
    try:
        return _VERSIONS.validate_json(path.read_bytes())
    except ValidationError:
        remedy = "delete it to log the run under a new version"
        raise DataError(f"{path} is damaged; {remedy}.") from None


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Any error of a logging library in the block becomes a UsageError."""
    try:
        with quiet_lightning():
            yield
    except FullrankError:
        raise
    except Exception as error:
        remedy = "fix that, or train without it (WANDB_MODE=offline keeps W&B on this disk)"
        raise UsageError(f"{what} cannot start: {error}; {remedy}.") from error
