"""How a run is carried out, beside what its recipe says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from rich.progress import Progress

from fullrank.errors import UsageError

# Groups of parameters, as torch's optimizers take them -> an optimizer.
OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Session:
    """One call that carries a run out, from its beginning or from where another one stopped.

    One process runs on each of `devices` of each of `nodes`. `skip_nonfinite` is how many steps that are not
    finite may be left out. `progress` is the progress line, a new one if it is None. `profiler`, `callbacks`
    and `loggers` are Lightning's, beside our own; `optimizer` replaces the one that the recipe names.
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

    def __post_init__(self) -> None:
        if self.devices < 1 or self.nodes < 1:
            counts = f"{self.devices} and {self.nodes}"
            raise UsageError(f"devices and nodes must be 1 or more, but got {counts}; leave them out for 1.")
        for name, kind in (("callbacks", pl.Callback), ("loggers", Logger)):
            wrong = [each for each in getattr(self, name) if not isinstance(each, kind)]
            if wrong:
                raise UsageError(f"{wrong[0]!r:.60} in {name} is none of Lightning's; give its objects.")

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return self.devices * self.nodes
