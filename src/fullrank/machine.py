"""Where and when a record is made."""

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from fullrank.record import Machine, Record, RunEntry


def new_record(
    kind: Literal["run", "study", "diagnosis"],
    recipe: Mapping[str, Any],
    runs: Sequence[RunEntry],
    **more: Any,
) -> Record:
    """A record made here and now; `more` are its other fields."""
    return Record(
        kind=kind,
        fullrank=version("fullrank"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=this_machine(),
        recipe=dict(recipe),
        runs=list(runs),
        **more,
    )


def this_machine() -> Machine:
    """The processor, threads, device and versions of this process."""
    return Machine(
        processor=_processor(),
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        python=platform.python_version(),
        torch=torch.__version__,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
