"""Functions in processes of their own, forked from one that has imported torch, Lightning and fullrank."""

import inspect
import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["fullrank.training.train", "fullrank.cli.commands", "timm", "lightning.pytorch"]
)


def start(
    output: Path, function: Callable[..., int | None], *args: object, **environment: str
) -> BaseProcess:
    """`function`, of the top level of a file, in a process that writes what it prints to `output`."""
    file = inspect.getsourcefile(function)
    process = _SERVER.Process(target=_child, args=(output, file, function.__name__, args, environment))
    process.start()
    return process


def launched(ranks: int) -> list[dict[str, str]]:
    """The environment of each of so many processes, as torchrun gives it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": port, "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def finish(processes: Sequence[BaseProcess], seconds: float = 200) -> list[int | None]:
    """The exit status of each, None for one that had to be killed."""
    for process in processes:
        process.join(seconds)
    statuses = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return statuses


def _child(output: Path, file: str, name: str, args: Sequence[object], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with output.open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    import torch

    torch.set_num_threads(1)
    sys.exit(runpy.run_path(file)[name](*args))
