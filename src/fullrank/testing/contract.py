"""What a part of some kind must keep, clause by clause; a broken clause raises ContractError."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fullrank.errors import ContractError, FullrankError
from fullrank.objectives.agreement import check_agreement

Part = str | Callable[..., Any]
ROWS = 8


@dataclass(frozen=True)
class Contract:
    """What a part of some kind must keep, clause by clause."""

    part: str
    kind: str

    @contextmanager
    def clause(self, clause: str) -> Iterator[None]:
        """What goes wrong meanwhile is a ContractError that names the clause; draws are always the same."""
        broken = f"'{self.part}' breaks the contract of {self.kind} ({clause})"
        try:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(0)
                yield
        except BrokenError as error:
            raise ContractError(f"{broken}: {error}.") from None
        except FullrankError as error:
            raise ContractError(f"{broken}: {error}") from error
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
            raise ContractError(f"{broken}: {type(error).__name__}: {error}.") from error


class BrokenError(Exception):
    """A clause that does not hold, and what was seen instead."""


def hold(holds: bool, instead: str) -> None:
    """Break the clause unless it `holds`; `instead` says what was seen."""
    if not holds:
        raise BrokenError(instead)


def check_processes(contract: Contract, name: str, processes: int) -> None:
    """The clause on several processes: the loss and gradient of `name` are those of one."""
    with contract.clause(f"loss and gradient are those of one process in {processes}"):
        agreement = check_agreement(name, processes)
        apart = f"{agreement.loss_apart:.1e} and {agreement.gradient_apart:.1e} (relative)"
        hold(agreement.agrees, f"apart by {apart}")


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether two tensors have one shape and agree but for rounding."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=tolerance, atol=tolerance)
