"""Where and when a record is made."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from fullrank.record import Machine, Record, RunEntry
from fullrank.version import __version__


def new_record(
    kind: Literal["run", "study", "diagnosis", "theory", "choice"],
    recipe: Mapping[str, Any],
    runs: Sequence[RunEntry],
    machine: Machine | None = None,
    **more: Any,
) -> Record:
    """A record made here and now, on `machine` or on `this_machine()`; `more` are its other fields."""
    return Record(
        kind=kind,
        fullrank=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine or this_machine(),
        recipe=dict(recipe),
        runs=list(runs),
        **more,
    )


def this_machine() -> Machine:
    """The processor, threads, device and versions of this process."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    own = {"threads": torch.get_num_threads(), "device": device, "torch": str(torch.__version__)}
    return machine_of_numpy().model_copy(update=own)


def machine_of_numpy() -> Machine:
    """The processor, cores and versions of a process that need not load torch."""
    versions = {"python": platform.python_version(), "torch": version("torch")}
    return Machine(processor=_processor(), threads=os.cpu_count() or 1, device="cpu", **versions)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())
