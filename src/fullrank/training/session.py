"""How a run is carried out, apart from the settings in its recipe."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from rich.progress import Progress

from fullrank.errors import UsageError
from fullrank.runs.recipe import Recipe

# Groups of parameters, as torch's optimizers take them -> an optimizer.
OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
# The recipe of a run -> Lightning's loggers for it, one or several.
LoggerFactory = Callable[[Recipe], Logger | Iterable[Logger]]


def check_loggers(loggers: Iterable[object]) -> None:
    """Raise UsageError for an object that is not a logger of Lightning."""
    _check("loggers", loggers, Logger)


def _check(name: str, objects: Iterable[object], kind: type) -> None:
    wrong = [each for each in objects if not isinstance(each, kind)]
    if wrong:
        class_name = f"lightning.pytorch {kind.__name__}"
        raise UsageError(f"{wrong[0]!r:.60} in {name} is not a {class_name} object; give instances.")


@dataclass(frozen=True)
class Logging:
    """The name of a run's log, and where it is stored.

    Attributes:
        name: The name of the run, by default its head and seed.
        group: The study that the run belongs to.
        store: The folder of a database that several runs share, by default that of the run.
        make: A function that makes further loggers for a run. They are closed when the run ends.
    """

    name: str = ""
    group: str = ""
    store: Path | None = None
    make: LoggerFactory | None = None


@dataclass(frozen=True)
class Session:
    """One call that carries out a run, from the start or from the point at which an earlier call stopped.

    Attributes:
        devices: Number of devices on each machine; each has one process.
        nodes: Number of machines.
        resume: Whether the folder may contain an earlier part of the run.
        skip_nonfinite: Number of non-finite steps that may be skipped.
        progress: The progress line; a new one if None.
        profiler: A profiler of Lightning.
        callbacks: Lightning's callbacks, which run in addition to ours.
        loggers: Lightning's loggers, in addition to the one in the recipe.
        optimizer: A function that replaces the optimizer of the recipe.
        logging: The name of the run in its loggers, and loggers that are made for it.
    """

    devices: int = 1
    nodes: int = 1
    resume: bool = False
    skip_nonfinite: int = 0
    progress: Progress | None = None
    profiler: Profiler | None = None
    callbacks: tuple[pl.Callback, ...] = ()
    loggers: tuple[Logger, ...] = ()
    optimizer: OptimizerFactory | None = None
    logging: Logging = Logging()

    def __post_init__(self) -> None:
        if self.devices < 1 or self.nodes < 1:
            counts = f"{self.devices} and {self.nodes}"
            raise UsageError(f"devices and nodes must be 1 or more, but got {counts}; leave them out for 1.")
        _check("callbacks", self.callbacks, pl.Callback)
        check_loggers(self.loggers)

    @property
    def processes(self) -> int:
        """Number of processes that train together."""
        return self.devices * self.nodes
