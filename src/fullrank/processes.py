"""Several processes: their number, the rank of this one, and the rows of all of them together."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fullrank.errors import UsageError

Part = TypeVar("Part")
# Number of rows in one message between processes.
_ROWS = 2**14


def process_count() -> int:
    """Number of processes that train together; 1 if torch's process group is not set up."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Rank of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def launched_rank(processes: int) -> int:
    """Rank of this process among `processes` before they connect, from torchrun, SLURM or Lightning."""
    started = os.environ.get("WORLD_SIZE")
    if started is not None and "TORCHELASTIC_RUN_ID" in os.environ and int(started) != processes:
        remedy = f"--devices x --nodes is {processes}; give both as to torchrun"
        raise UsageError(f"torchrun started {started} processes, but {remedy}.")
    if processes == 1:  # also if a launcher starts many runs of one process each
        return 0
    named = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((int(rank) for rank in named if rank is not None), 0)


@dataclass(frozen=True)
class Share:
    """Part `number` of the `of` parts of some work, with the methods that combine the parts."""

    number: int = 0
    of: int = 1

    def taken(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The parts that belong to this share: every `of`-th, starting at `number`."""
        return islice(parts, self.number, None, self.of)

    def stretch(self, count: int) -> range:
        """The consecutive positions of `count` items that belong to this share; processes follow in order."""
        return range(-(-count * self.number // self.of), -(-count * (self.number + 1) // self.of))

    def to_first(self, rows: Tensor) -> Tensor:
        """Collect the rows of all processes in the first process, in the order of the processes.

        Args:
            rows: This process's rows (n, ...), on the CPU and without gradient. The number may differ
                between processes; the first has at least one.

        Returns:
            All rows in the first process; `rows` itself in the others.
        """
        if self.of == 1:
            return rows
        carrier = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        counts = self.everyones(len(rows))
        if self.number > 0:
            for piece in _pieces(rows):
                dist.send(piece.to(carrier).contiguous(), 0)
            return rows
        whole = rows.new_empty(sum(counts), *rows.shape[1:])
        own, *others = whole.split(counts)  # type: ignore[no-untyped-call]
        own.copy_(rows)
        for peer, theirs in enumerate(others, start=1):
            for into in _pieces(theirs):
                piece = torch.empty_like(into, device=carrier)
                dist.recv(piece, peer)
                into.copy_(piece)
        return whole

    def everyones(self, own: Part) -> list[Part]:
        """The objects of all processes, in their order; every process gets this list."""
        if self.of == 1:
            return [own]
        everyones: list[Any] = [None] * self.of
        dist.all_gather_object(everyones, own)
        return everyones

    def follow_first(self, module: nn.Module) -> None:
        """Copy the weights and statistics of `module` from the first process, in place."""
        if self.of > 1:
            for tensor in module.state_dict().values():
                value = tensor.contiguous()
                dist.broadcast(value, 0)
                tensor.copy_(value)

    def add_up(self, *sums: Tensor) -> None:
        """Sum each of `sums` over all processes, in place."""
        if self.of > 1:
            for each in sums:
                dist.all_reduce(each)


def _pieces(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(_ROWS) if len(rows) else ()  # type: ignore[no-untyped-call]


ALONE = Share()


def own_share() -> Share:
    """This process's part of the work that all processes share."""
    return Share(process_rank(), process_count())


def gather_rows(rows: Tensor) -> Tensor:
    r"""The rows (n, ...) of all P processes, (P n, ...), in the order of the processes, with gradient.

    The gradient of a process's own rows is the sum of their gradients over all processes. If each process
    computes a loss over all rows and DistributedDataParallel averages the gradients, the result is exactly
    the gradient of one process.

    Args:
        rows: This process's rows (n, ...); every process must give the same number.

    >>> gather_rows(torch.eye(2))  # one process
    tensor([[1., 0.],
            [0., 1.]])

    Source: P1, authors' code ("all-gathered with gradient").
    """
    if process_count() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(process_count())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(process_count())[process_rank()]


def sum_over_processes(sums: Tensor) -> Tensor:
    """The sum over all processes of a tensor of one shape, with the gradient that `gather_rows` has too.

    In the backward pass each process gets the sum of the gradients of all processes. If
    DistributedDataParallel averages the gradients, the result is exactly the gradient of one process.

    Args:
        sums: This process's tensor.

    >>> sum_over_processes(torch.eye(2))  # one process
    tensor([[1., 0.],
            [0., 1.]])
    """
    if process_count() == 1:
        return sums
    total: Tensor = _SumOverProcesses.apply(sums)
    return total


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: Tensor) -> Tensor:
        total = sums.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient
