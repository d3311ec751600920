"""Whether an objective and its terms are the same for one process and for many: loss and gradient."""

import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing import get_context
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fullrank.door import enter, passports
from fullrank.errors import UsageError, count_of
from fullrank.objectives import OBJECTIVES, auxiliary, objective
from fullrank.objectives.contract import loss_of_views
from fullrank.objectives.terms.contract import cues_of, loss_of_term
from fullrank.objectives.terms.samples import (
    PLACES,
    VIEW_DIMS,
    alternating_cues,
    random_numbers,
    step_of,
    taken,
)
from fullrank.objectives.trial import trial_of
from fullrank.processes import process_count, process_rank
from fullrank.specs import Spec

CLASSES, TOLERANCE = 10, 1e-6
_PATIENCE = timedelta(minutes=5)


@dataclass(frozen=True)
class Agreement:
    """The loss of one process and of many, and how far loss and gradient are apart, relative to the first."""

    objective: str
    processes: int
    one: float
    many: float
    loss_apart: float
    gradient_apart: float

    @property
    def agrees(self) -> bool:
        """Whether both are within `TOLERANCE`."""
        return self.loss_apart <= TOLERANCE and self.gradient_apart <= TOLERANCE


@dataclass(frozen=True)
class _Trial:
    """What is compared: an objective with its terms, on `images` of which `views` are made."""

    spec: Spec
    images: int
    width: int
    nested: tuple[int, ...]
    views: int
    local: int


def check_agreement(
    name: str,
    processes: int = 2,
    images: int = 64,
    width: int = 32,
    nested: Sequence[int] = (),
    views: int = 2,
    local: int = 0,
) -> Agreement:
    """One global batch through an objective in one process, and cut into shares in several, in float64.

    Below the objective stands a matrix W (K, K). Compared are the loss and its gradient to W and to the
    weights of the objective and its terms, each a mean over processes as DistributedDataParallel takes it.
    With `nested`, the objective is the mean over these widths of z. Of the `views`, the last `local` are
    local crops. Each process makes two steps; the second has the state that the first left, such as a queue.
    The terms get random view parameters, and the same rows as h, as z and at each of the places of a
    tiny-resnet. The processes talk by gloo, on CPUs. Raises UsageError for a `name` that is no objective's
    spec, fewer than 2 processes, or images that these do not divide.
    """
    if processes < 2 or images % processes or images < 2 * processes:
        raise UsageError(
            f"{count_of(images, 'image')} cannot be shared by --processes {processes}: 2 processes or "
            "more need as many images each, 2 or more; change --processes or --images."
        )
    if views < 2 or not 0 <= local <= views - 2:
        raise UsageError(
            f"At least 2 of the views must be global, but got --views {views} with --local {local}; raise "
            "--views."
        )
    trial = _Trial(OBJECTIVES.parse(name), images, width, tuple(nested), views, local)
    _built(trial)  # a mistake shows before any process starts
    try:
        loss, gradient = _loss_and_gradient(trial)
    except (TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(
            f"The objective {name!r} does not take two embeddings ({images}, {width}) to a loss with a "
            f"gradient ({reason}); it must be called as loss(z_a, z_b)."
        ) from None
    origins = [origin.module for part in trial.spec.nested() if (origin := OBJECTIVES.of(part).origin)]
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(
            processes,
            mp_context=get_context("spawn"),
            initializer=enter,
            initargs=(passports(origins),),
        ) as pool,
    ):
        pending = [
            pool.submit(_in_a_group, rank, processes, f"{folder}/store", trial) for rank in range(processes)
        ]
        losses, gradients = zip(*(each.result() for each in pending), strict=True)
    return Agreement(
        objective=name,
        processes=processes,
        one=loss.item(),
        many=torch.stack(losses).mean().item(),
        loss_apart=_relative(torch.stack(losses).mean(), loss),
        gradient_apart=_relative(gradients[0], gradient),
    )


def _built(trial: _Trial) -> list[nn.Module]:
    """The objective and its terms, in float64."""
    width, spec = trial.width, trial.spec
    sizes: dict[str, Any] = {"in_dim": width, "out_dim": width, "num_classes": CLASSES}
    sizes |= {"place_dims": dict.fromkeys(PLACES, width), "view_dims": VIEW_DIMS}
    terms = [auxiliary(term, **sizes) for term in spec.terms]
    loss = objective(spec.alone, in_dim=width, num_classes=CLASSES, nested=trial.nested)
    return [part.double() for part in (loss, *terms)]


def _in_a_group(rank: int, processes: int, store: str, trial: _Trial) -> tuple[Tensor, Tensor]:
    """The loss and gradient of one of several processes."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=processes, timeout=_PATIENCE
    )
    try:
        return _loss_and_gradient(trial)
    finally:
        dist.destroy_process_group()


def _loss_and_gradient(trial: _Trial) -> tuple[Tensor, Tensor]:
    """The loss of this process's share of two steps; its gradient as one vector, a mean over processes."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        parts = _built(trial)
        weight = torch.eye(trial.width, dtype=torch.float64, requires_grad=True)
        value = torch.stack([_step_loss(trial, parts, weight, number) for number in range(2)]).sum()
    weights = [weight, *(parameter for part in parts for parameter in part.parameters())]
    trained = [each for each in weights if each.requires_grad]
    slopes = torch.autograd.grad(value, trained, allow_unused=True, materialize_grads=True)
    gradient = torch.cat([slope.flatten() for slope in slopes])
    if process_count() > 1:
        dist.all_reduce(gradient)
    return value.detach(), gradient / process_count()


def _step_loss(trial: _Trial, parts: list[nn.Module], weight: Tensor, number: int) -> Tensor:
    """The loss of this process's share of one step."""
    loss, *terms = parts
    images, views, whole = trial.images, trial.views, trial.views - trial.local
    torch.manual_seed(100 + number)  # whatever the step before has drawn
    x = torch.randn(images, trial.width, dtype=torch.float64)
    x = torch.stack([x, *(x + 0.5 * torch.randn_like(x) for _ in range(views - 1))])
    labels = torch.randint(-1, CLASSES, (images,))
    numbers = random_numbers(images, views) if terms else None
    torch.manual_seed(number + 1)  # for objectives that draw
    own = torch.arange(images).chunk(process_count())[process_rank()]
    z = x[:, own] @ weight
    given = trial_of(loss, x[:, own], labels[own], whole)
    given["generator"].manual_seed(number + 1)
    value = loss_of_views(loss, z, **given)
    if numbers is not None:
        cues = {name: cue[own] for name, cue in alternating_cues(cues_of(terms), images).items()}
        rows, drawn = z.flatten(0, 1), taken(numbers, own)
        step = step_of(rows, rows, drawn, labels[own], given["generator"], cues)
        step = replace(step, view_count=views, global_count=whole)
        terms_sum = torch.stack([cast(float, term.weight) * loss_of_term(term, step) for term in terms]).sum()
        value = value + terms_sum
    return value


def _relative(measured: Tensor, expected: Tensor) -> float:
    """The distance in units of what is expected; 0 where both are 0."""
    apart = float((measured - expected).norm())
    return apart and apart / float(expected.norm())
