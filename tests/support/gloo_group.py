"""The processes of a gloo group, forked from this one, so that they import nothing again."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def in_processes(work: Callable[[int], Any], count: int, folder: Path) -> list[Any]:
    """The tensors that `work(rank)` returns in each of `count` processes of one group, in their order."""
    workers = [
        multiprocessing.get_context("fork").Process(target=_member, args=(work, rank, count, folder))
        for rank in range(count)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * count
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _member(work: Callable[[int], Any], rank: int, count: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    torch.save(work(rank), folder / f"{rank}.pt")
    dist.destroy_process_group()
