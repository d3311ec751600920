"""How an objective is called, and what every one refuses."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullrank.errors import UsageError, explained
from fullrank.processes import ALONE, Share, gather_rows, own_share

# What a training step can give to an objective beside the embeddings.
GIVEN = ("labels", "generator")
Parameters = ParamSpec("Parameters")


class GatheringLoss(nn.Module, ABC):
    """A loss that with `gather` sees the rows of all processes."""

    def __init__(self, gather: bool):
        super().__init__()
        self.gather = gather

    def gathered(self, *rows: Tensor) -> list[Tensor]:
        """The rows of all processes, with gradient; without `gather` those of this one."""
        return [gather_rows(each) for each in rows] if self.gather else list(rows)

    @property
    def share(self) -> Share:
        """What this process computes of the pairs of rows."""
        return own_share() if self.gather else ALONE

    def extra_repr(self) -> str:
        """The settings, which `print` shows."""
        own = {name: value for name, value in vars(self).items() if isinstance(value, int | float)}
        del own["training"]
        return ", ".join(f"{name}={value}" for name, value in (own | {"gather": own.pop("gather")}).items())


class PairLoss(GatheringLoss):
    """A loss of two embeddings (N, K), N of 2 or more, which are gathered first."""

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Return the loss of the two embeddings, (N, K) each."""
        check_pair(z_a, z_b)
        return self.loss(*self.gathered(z_a, z_b))

    @abstractmethod
    def loss(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss of the rows of all processes."""


def in_single(loss: Callable[Parameters, Tensor]) -> Callable[Parameters, Tensor]:
    """The loss computed in float32 at least, whatever its tensors are in, and whatever autocast would do."""

    @wraps(loss)
    def single(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Tensor:
        # Sums over a batch in 16 bits lose most of what they add, and similarities divided by a temperature
        # leave their range.
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


def unit_rows(z: Tensor) -> Tensor:
    """Rows (N, K) at unit length, in float32 at least.

    The slope at a row is 1 / its length, and a gradient in float16 ends at 65,504. So a float16 row that is
    shorter than 2**-10 is divided by 2**-10 only, and a zero row has a finite gradient.
    """
    shortest = torch.finfo(z.dtype).eps if z.dtype == torch.float16 else 1e-12  # torch's own
    return F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1, eps=shortest)


def needs_of(objective: object) -> frozenset[str]:
    """The keywords that an objective, or its class, needs beside z_a and z_b: those that it says in `needs`.

    An objective that only says `needs_labels`, as those of the first version did, needs labels.

    >>> needs_of(lambda z_a, z_b: 0)
    frozenset()
    """
    words = getattr(objective, "needs", ())
    said = frozenset([words] if isinstance(words, str) else words)
    return said | {"labels"} if getattr(objective, "needs_labels", False) else said


def check_needs(objective: object, name: str) -> None:
    """Raise UsageError for an objective that needs what no training step has."""
    if unknown := sorted(needs_of(objective) - set(GIVEN)):
        raise UsageError(
            f"The objective {name!r} needs {', '.join(unknown)}, but a training step can give it "
            f"{' and '.join(GIVEN)} only; leave the rest out of `needs`."
        )


def loss_of(
    objective: Callable[..., Tensor],
    z_a: Tensor,
    z_b: Tensor,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The loss of two embeddings (N, K), with exactly those keywords that the objective says it needs.

    Anything called as `loss(z_a, z_b)` serves: an objective that says nothing gets nothing else.

    >>> loss_of(torch.nn.MSELoss(), torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([0, 1]))
    tensor(1.)
    """
    keywords = {"labels": labels, "generator": generator}
    return objective(z_a, z_b, **{name: keywords[name] for name in needs_of(objective) & set(GIVEN)})


def chance_of(objective: object, n: int, width: int) -> float | None:
    """The loss of n images whose embeddings say nothing of them; None for an objective that does not say."""
    chance = getattr(objective, "chance", None)
    level = None if chance is None else chance(n, width)
    return None if level is None else float(level)


def temperature_of(objective: object) -> float | None:
    """The temperature of a cosine loss, also where it is trained; None for an objective that has none.

    >>> temperature_of(torch.nn.MSELoss())
    """
    temperature = getattr(objective, "temperature", None)
    return float(temperature) if isinstance(temperature, int | float | Tensor) else None


class CallableLoss(nn.Module):
    """A function of two embeddings as a module, so that it stands wherever a loss does."""

    def __init__(self, function: Callable[..., Tensor]):
        super().__init__()
        self.function = function
        self.needs = needs_of(function)

    def forward(self, z_a: Tensor, z_b: Tensor, **keywords: Any) -> Tensor:
        """Return what the function returns."""
        return self.function(z_a, z_b, **keywords)


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


def check_number(name: str, value: float, *, above: float = -math.inf, least: float = -math.inf) -> float:
    """`value` if it is finite, greater than `above` and not below `least`; otherwise UsageError."""
    if not (math.isfinite(value) and value > above and value >= least):
        limit = f"above {above:g}" if math.isfinite(above) else f"of {least:g} or more"
        raise UsageError(f"{name} must be a number {limit}, but got {value}; leave it out for the default.")
    return value


def checked_objective(built: object, name: str) -> nn.Module:
    """`built` as a module that is called with two embeddings; UsageError where it cannot be called."""
    if not callable(built):
        raise UsageError(f"The objective {name!r} is a {type(built).__name__}, which cannot be called.")
    part = built if isinstance(built, nn.Module) else CallableLoss(built)
    check_needs(part, name)
    return part


def try_objective(loss: nn.Module, name: str, width: int) -> None:
    """Raise UsageError unless a loss takes two embeddings (2, `width`) to a scalar with a gradient."""
    z_a, z_b = torch.randn(2, 2, width, requires_grad=True).unbind()
    generator = torch.Generator().manual_seed(0)
    with explained(f"The objective {name!r} fails on two embeddings (2, {width})"):
        value = loss_of(loss, z_a, z_b, torch.zeros(2, dtype=torch.int64), generator)
    if not isinstance(value, Tensor) or value.shape != () or not value.requires_grad:
        got = f"a {type(value).__name__}"
        if isinstance(value, Tensor):
            got = f"{tuple(value.shape)}{'' if value.requires_grad else ' without a gradient'}"
        raise UsageError(
            f"The objective {name!r} must give a scalar with a gradient, but gave {got}; return a tensor "
            "that is computed from both embeddings."
        )
