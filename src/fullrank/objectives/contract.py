"""How an objective is called, and what every one refuses."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar, ParamSpec, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullrank.errors import UsageError
from fullrank.processes import ALONE, Share, gather_rows, own_share

# What a training step can give to an objective beside the embeddings.
GIVEN = ("labels", "generator", "progress", "global_views", "teacher")
Parameters = ParamSpec("Parameters")


class GatheringLoss(nn.Module, ABC):
    """A loss that with `gather` sees the rows of all processes.

    `trains` names the criteria of `fullrank choose` that it raises at its own z. They are void there.
    """

    trains: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, gather: bool):
        super().__init__()
        self.gather = gather

    def gathered(self, *rows: Tensor) -> list[Tensor]:
        """The rows of all processes, with gradient; without `gather` those of this one."""
        return [gather_rows(each) for each in rows] if self.gather else list(rows)

    def gathered_views(self, z: Tensor) -> Tensor:
        """Views (V, N, K) with the rows of all processes, (V, P N, K), as `gathered` gives them."""
        [rows] = self.gathered(z.transpose(0, 1))
        return rows.transpose(0, 1)

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


class SummedLoss(PairLoss):
    """A loss of two embeddings that is the sum of named parts, each with its weight."""

    def loss(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Return the sum of the parts."""
        first, *others = self.parts(z_a, z_b).values()
        return sum(others, first)

    def summands(self, z_a: Tensor, z_b: Tensor) -> dict[str, Tensor]:
        """The parts of the loss of two embeddings (N, K), by name, with their weights."""
        check_pair(z_a, z_b)
        return self.parts(*self.gathered(z_a, z_b))

    @abstractmethod
    def parts(self, z_a: Tensor, z_b: Tensor) -> dict[str, Tensor]:
        """The parts of the loss of the rows of all processes."""


@dataclass(frozen=True)
class Unguarded:
    """A part of an objective that keeps its embeddings from collapsing, and that is switched off.

    Attributes:
        name: What is missing, such as `no stop-gradient`.
        means: What it would do, as a sentence without a capital and a full stop.
        remedy: What to change, as a sentence without a capital and a full stop.
    """

    name: str
    means: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.means}"


class Teaches(Protocol):
    """What an objective with a teacher also says."""

    def momentum_at(self, progress: float) -> float:
        """The share of the teacher that a step keeps, when `progress` of the training is done."""


def cosine_momentum(start: float, progress: float) -> float:
    """Half a cosine from `start` to 1 over the training.

    >>> [round(cosine_momentum(0.996, progress), 4) for progress in (0.0, 0.5, 1.0)]
    [0.996, 0.998, 1.0]
    """
    return 1 - (1 - start) * (1 + math.cos(math.pi * progress)) / 2


class ViewsLoss(GatheringLoss):
    """A loss of V views (V, N, K), V and N of 2 or more: the global views first, then the local crops.

    It is called as `loss(z)`, with the keywords that its `needs` name:

    - `global_views`: the number of leading views that are global; by default all of them.
    - `teacher`: what a teacher makes of the global views, (G, N, P).
    - `progress`: the share of the training that is done.
    - `labels` and `generator`, as for any objective.

    A loss with several parts may have `summands(z)`, with the same keywords: the parts by name, with their
    weights, which sum to the loss. It changes no state, as it is called beside the training.

    A loss that needs a teacher also says `averaged`, the names of its own modules that the teacher averages
    and applies, in order, to its z, and has `momentum_at(progress)`, the share of the teacher that a step
    keeps.
    """

    #: The loss takes all views at once, and not two.
    takes_views: ClassVar[bool] = True
    #: The fewest views.
    least_views: ClassVar[int] = 2
    #: Its modules that a teacher averages too.
    averaged: ClassVar[tuple[str, ...]] = ()
    #: It holds a part of its embeddings constant in the gradient, so finite differences do not agree.
    detaches: bool = False

    @abstractmethod
    def forward(self, z: Tensor, **keywords: Any) -> Tensor:
        """Return the loss of the views (V, N, K)."""


def check_views(z: Tensor, least_views: int = 2, least: int = 2) -> None:
    """Raise UsageError unless z is (V, N, K) with at least `least_views` views of `least` images."""
    if z.ndim != 3:
        raise UsageError(f"Expected embeddings of several views (V, N, K), but got {tuple(z.shape)}.")
    if len(z) < least_views:
        raise UsageError(
            f"This loss needs {least_views} views or more of each image, but got {len(z)}; add views, as in "
            f"multicrop,global={least_views}."
        )
    if z.shape[1] < least:
        raise UsageError(
            f"This loss needs {least} images or more in a batch, but got {z.shape[1]}: raise the batch size."
        )


def view_pairs(views: int, global_views: int | None = None) -> list[tuple[int, int]]:
    """The pairs of views that a loss of two views is averaged over: each has a global view first.

    >>> view_pairs(3), view_pairs(4, global_views=2)
    ([(0, 1), (0, 2), (1, 2)], [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)])
    """
    first = views if global_views is None else global_views
    return [(one, other) for one in range(first) for other in range(one + 1, views)]


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
    """Rows (..., K) at unit length, in float32 at least.

    The slope at a row is 1 / its length, and a gradient in float16 ends at 65,504. So a float16 row that is
    shorter than 2**-10 is divided by 2**-10 only, and a zero row has a finite gradient.
    """
    shortest = torch.finfo(z.dtype).eps if z.dtype == torch.float16 else 1e-12  # torch's own
    return F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=-1, eps=shortest)


def needs_of(objective: object) -> frozenset[str]:
    """The keywords that an objective, or its class, needs beside z_a and z_b: those that it says in `needs`.

    An objective that only says `needs_labels`, as those of the first version did, needs labels.

    >>> needs_of(lambda z_a, z_b: 0)
    frozenset()
    """
    words = getattr(objective, "needs", ())
    said = frozenset([words] if isinstance(words, str) else words)
    return said | {"labels"} if getattr(objective, "needs_labels", False) else said


def trained_by(objective: object) -> frozenset[str]:
    """The criteria of `fullrank choose` that an objective says it trains, in `trains`; none by default.

    >>> trained_by(lambda z_a, z_b: 0)
    frozenset()
    """
    return frozenset(getattr(objective, "trains", ()))


def check_needs(objective: object, name: str) -> None:
    """Raise UsageError for an objective that needs what no training step has."""
    if unknown := sorted(needs_of(objective) - set(GIVEN)):
        raise UsageError(
            f"The objective {name!r} needs {', '.join(unknown)}, but a training step can give it "
            f"{', '.join(GIVEN)} only; leave the rest out of `needs`."
        )
    if "teacher" in needs_of(objective) and not hasattr(objective, "momentum_at"):
        raise UsageError(
            f"The objective {name!r} needs a teacher, but has no momentum_at(progress); add this method, "
            "which gives the share of the teacher that a step keeps."
        )


def loss_of(
    objective: Callable[..., Tensor],
    z_a: Tensor,
    z_b: Tensor,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
    **given: Any,
) -> Tensor:
    """The loss of two embeddings (N, K), with exactly those keywords that the objective says it needs.

    Anything called as `loss(z_a, z_b)` serves: an objective that says nothing gets nothing else.

    >>> loss_of(torch.nn.MSELoss(), torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([0, 1]))
    tensor(1.)
    """
    given |= {"labels": labels, "generator": generator}
    if getattr(objective, "takes_views", False):
        check_pair(z_a, z_b, least=1)
        return loss_of_views(objective, torch.stack([z_a, z_b]), **given)
    return objective(z_a, z_b, **_wanted(objective, given))


def loss_of_views(objective: Callable[..., Tensor], z: Tensor, **given: Any) -> Tensor:
    """The loss of V views (V, N, K), with exactly those keywords that the objective says it needs.

    An objective that takes all views gets them at once. One of two views is averaged over the pairs of views
    whose first is global (`view_pairs`), and gets the same keywords for each pair.

    Args:
        objective: The objective.
        z: The embeddings of all views, the global ones first.
        **given: What the step has: `labels`, `generator`, `progress`, `global_views`, `teacher`.

    >>> z = torch.stack([torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2, 3)])
    >>> loss_of_views(torch.nn.MSELoss(), z)  # the pairs have 1, 1 and 0
    tensor(0.6667)
    """
    keywords = _wanted(objective, given)
    if getattr(objective, "takes_views", False):
        return objective(z, **keywords)
    pairs = view_pairs(len(z), given.get("global_views"))
    losses = [objective(z[one], z[other], **keywords) for one, other in pairs]
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean()


def _wanted(objective: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """Of what is given, that which the objective needs."""
    return {name: given[name] for name in needs_of(objective) & set(GIVEN) if name in given}


@torch.no_grad()
def summands_of(objective: object, z: Tensor, **given: Any) -> dict[str, Tensor]:
    """The parts of the loss of V views (V, N, K) by name, which sum to it; empty for a loss that says none.

    Those of a loss of two views are averaged over the same pairs as the loss. There is no gradient.

    Args:
        objective: The objective.
        z: The embeddings of all views, the global ones first.
        **given: What the step has, as for `loss_of_views`.

    >>> from fullrank import VICRegLoss
    >>> list(summands_of(VICRegLoss(), torch.randn(2, 8, 4)))
    ['invariance', 'variance', 'covariance']
    """
    says = getattr(objective, "summands", None)
    if says is None:
        return {}
    keywords = _wanted(objective, given)
    if getattr(objective, "takes_views", False):
        return dict(says(z, **keywords))
    pairs = [
        says(z[one], z[other], **keywords) for one, other in view_pairs(len(z), given.get("global_views"))
    ]
    return {name: torch.stack([pair[name] for pair in pairs]).mean() for name in pairs[0]}


def chance_of(
    objective: object, n: int, width: int, global_views: int = 2, local_views: int = 0
) -> float | None:
    """The loss of n images whose embeddings say nothing of them; None for an objective that does not say."""
    chance = getattr(objective, "chance", None)
    views = (global_views, local_views) if getattr(objective, "takes_views", False) else ()
    level = None if chance is None else chance(n, width, *views)
    return None if level is None else float(level)


def levels_of(objective: object, n: int, width: int) -> dict[str, dict[str, float]]:
    """For parts of a loss of n images, named values to compare them with; empty for a loss that says none.

    >>> levels_of(torch.nn.MSELoss(), 8, 4)
    {}
    """
    says = getattr(objective, "levels", None)
    return {} if says is None else dict(says(n, width))


def unguarded_of(objective: object, head: object = None) -> tuple[Unguarded, ...]:
    """What keeps an objective from collapse and is switched off; empty for one that does not say.

    Under a head that whitens z nothing is missing, since z cannot lose its spread.

    Args:
        objective: The objective.
        head: The head that it is used with.

    >>> unguarded_of(torch.nn.MSELoss())
    ()
    """
    says = getattr(objective, "unguarded", None)
    return () if says is None or getattr(head, "whitens", False) else tuple(says())


def temperature_of(objective: object) -> float | None:
    """The temperature of a cosine loss, also where it is trained; None for an objective that has none.

    >>> temperature_of(torch.nn.MSELoss())
    """
    temperature = getattr(objective, "temperature", None)
    return float(temperature) if isinstance(temperature, int | float | Tensor) else None


def check_share(name: str, value: float) -> float:
    """`value` if it is from 0 to 1; otherwise UsageError."""
    if not 0 <= value <= 1:
        raise UsageError(
            f"{name} must be a number from 0 to 1, but got {value}; leave it out for the default."
        )
    return value


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
