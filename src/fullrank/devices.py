"""The device that does the work, and how numbers behave there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn


def accelerator() -> Literal["cuda", "cpu"]:
    """The kind of device that does the work."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def has_room(device: torch.device, nbytes: int) -> bool:
    """Whether `nbytes` may stay on a device: on a GPU at most half of its free memory, on a CPU always."""
    return device.type != "cuda" or 2 * nbytes <= torch.cuda.mem_get_info(device)[0]


@contextmanager
def on_accelerator(*modules: nn.Module) -> Iterator[None]:
    """Move modules to the device that does the work, and back afterwards."""
    homes = [first_device(module) for module in modules]
    for module in modules:
        module.to(accelerator())
    try:
        yield
    finally:
        for module, home in zip(modules, homes, strict=True):
            module.to(home)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Treat numbers below float32's normal range as 0 meanwhile, because a CPU handles them very slowly.

    The setting holds for this thread and for the threads that it starts, so it must come before the first
    parallel operation. Afterwards it is restored for this thread only: the others work only for torch.
    """
    before = float(torch.tensor(1e-38) * 0.01) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def first_device(module: nn.Module) -> torch.device:
    """The device of a module's parameters; the CPU if it has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
