"""How an objective is called, and what every one refuses."""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor

from fullrank.errors import UsageError
from fullrank.processes import gather_rows

UNLABELLED = -1
Parameters = ParamSpec("Parameters")


def in_single(loss: Callable[Parameters, Tensor]) -> Callable[Parameters, Tensor]:
    """The loss computed in float32 at least, whatever its tensors are in, and whatever autocast would do.

    Sums over a batch in 16 bits lose most of what they add, and similarities divided by a temperature leave
    their range.

    >>> import torch
    >>> in_single(lambda z: z.sum())(torch.ones(3, dtype=torch.bfloat16)).dtype
    torch.float32
    """

    @wraps(loss)
    def single(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Tensor:
        raised = [
            arg.to(torch.promote_types(arg.dtype, torch.float32))
            if isinstance(arg, Tensor) and arg.is_floating_point()
            else arg
            for arg in args
        ]
        device = next((arg.device.type for arg in args if isinstance(arg, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            return loss(*raised, **kwargs)  # type: ignore[arg-type]

    return single


def loss_of(objective: Callable[..., Tensor], z_a: Tensor, z_b: Tensor, labels: Tensor) -> Tensor:
    """The loss of two embeddings (N, K), with labels (N,) where the objective says `needs_labels`.

    Anything called as `loss(z_a, z_b)` serves: who does not say so gets no labels.

    >>> import torch
    >>> loss_of(torch.nn.MSELoss(), torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([0, 1]))
    tensor(1.)
    """
    if getattr(objective, "needs_labels", False):
        return objective(z_a, z_b, labels)
    return objective(z_a, z_b)


def check_pair(z_a: Tensor, z_b: Tensor, least: int = 2) -> None:
    """Raise UsageError unless both are (N, K) of one shape, with N of `least` or more."""
    if z_a.shape != z_b.shape or z_a.ndim != 2:
        raise UsageError(
            f"Expected two embeddings (N, K) of one shape, but got {tuple(z_a.shape)} and {tuple(z_b.shape)}."
        )
    if len(z_a) < least:
        raise UsageError(
            f"This loss needs {least} images or more in a batch, but got {len(z_a)}: raise the batch size."
        )


def labelled_views(
    z_a: Tensor, z_b: Tensor | None, labels: Tensor, *, gather: bool, least: int = 1
) -> tuple[Sequence[Tensor], Tensor]:
    """One or two views (N, K) and their labels (N,) as int64, with `gather` of all processes.

    Raises UsageError for other shapes, and for fewer rows than `least`.
    """
    check_pair(z_a, z_a if z_b is None else z_b, least)
    if labels.shape != z_a.shape[:1] or labels.is_floating_point():
        raise UsageError(
            f"Labels must be {len(z_a)} whole numbers, one for each image and -1 where there is none, but "
            f"got {tuple(labels.shape)} of {labels.dtype}."
        )
    views, labels = [z_a] if z_b is None else [z_a, z_b], labels.long()
    if gather:
        return [gather_rows(z) for z in views], gather_rows(labels)
    return views, labels


def check_number(name: str, value: float, *, above: float = -math.inf, least: float = -math.inf) -> float:
    """`value` if it is finite, greater than `above` and not below `least`; otherwise UsageError."""
    if not (math.isfinite(value) and value > above and value >= least):
        limit = f"above {above:g}" if math.isfinite(above) else f"of {least:g} or more"
        raise UsageError(f"{name} must be a number {limit}, but got {value}; leave it out for the default.")
    return value
