"""The device that work is done on, and how numbers behave there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn


def accelerator() -> Literal["cuda", "cpu"]:
    """The kind of device that work is done on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def has_room(device: torch.device, nbytes: int) -> bool:
    """Whether so many bytes may stay on a device: at most half of what a GPU has free, and any on a CPU."""
    return device.type != "cuda" or 2 * nbytes <= torch.cuda.mem_get_info(device)[0]


@contextmanager
def on_accelerator(*modules: nn.Module) -> Iterator[None]:
    """Modules on the device that work is done on; they go back to where they were."""
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
    """Numbers too small for float32's normal range count as 0 meanwhile: on a CPU they are very slow.

    The setting belongs to this thread and to those that start from it, so it must come before the first
    parallel operation. Only this thread's is put back: the others work for torch alone.
    """
    before = float(torch.tensor(1e-38) * 0.01) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def first_device(module: nn.Module) -> torch.device:
    """Where a module's parameters are; the CPU without any."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
