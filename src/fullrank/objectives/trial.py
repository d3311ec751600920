"""Trials of an objective on a few rows: before a training, and to learn what it does not say."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from fullrank.errors import UsageError, explained
from fullrank.objectives.contract import loss_of_views


def trial_of(
    objective: nn.Module, z: Tensor, labels: Tensor, global_views: int | None = None
) -> dict[str, Any]:
    """What a step in the middle of a training gives to an objective, for a trial with views z (V, N, K).

    The teacher's embeddings are those of the global views, in another order of the channels.

    >>> sorted(trial_of(nn.Identity(), torch.ones(2, 3, 4), torch.zeros(3)))
    ['generator', 'global_views', 'labels', 'progress', 'teacher']
    """
    first = len(z) if global_views is None else global_views
    with torch.no_grad():
        rows = z[:first].flip(2).flatten(0, 1)
        for name in getattr(objective, "averaged", ()):
            rows = objective.get_submodule(name)(rows)
    return {
        "labels": labels,
        "generator": torch.Generator().manual_seed(0),
        "progress": 0.5,
        "global_views": first,
        "teacher": rows.reshape(first, z.shape[1], rows.shape[1]),
    }


def ignores_lengths(objective: nn.Module, width: int) -> bool:
    """Whether a loss sees only the directions of embeddings: scaled by 3 they cost the same.

    Args:
        objective: The objective, which is tried as a copy.
        width: The width K of z.

    >>> from fullrank import InfoNCELoss, VICRegLoss
    >>> ignores_lengths(InfoNCELoss(0.2), 6), ignores_lengths(VICRegLoss(), 6)
    (True, False)
    """
    z = torch.randn(2, 8, width, generator=torch.Generator().manual_seed(0))
    losses = []
    for scale in (1.0, 3.0):
        loss = copy.deepcopy(objective)
        device = next((each.device for each in loss.parameters()), z.device)
        rows = z.to(device)
        given = trial_of(loss, rows, torch.zeros(8, dtype=torch.int64, device=device))
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            losses.append(float(loss_of_views(loss, scale * rows, **given)))
    return math.isclose(*losses, rel_tol=1e-3, abs_tol=1e-6)


def try_objective(
    loss: nn.Module, name: str, width: int, global_views: int = 2, local_views: int = 0
) -> None:
    """Raise UsageError unless a copy of a loss takes views (V, 2, `width`) to a scalar with a gradient."""
    loss = copy.deepcopy(loss)  # a step may change its state
    z = torch.randn(global_views + local_views, 2, width, requires_grad=True)
    count = "two" if len(z) == 2 else str(len(z))
    with explained(f"The objective {name!r} fails on {count} embeddings (2, {width})"):
        value = loss_of_views(loss, z, **trial_of(loss, z, torch.zeros(2, dtype=torch.int64), global_views))
    if not isinstance(value, Tensor) or value.shape != () or not value.requires_grad:
        got = f"a {type(value).__name__}"
        if isinstance(value, Tensor):
            got = f"{tuple(value.shape)}{'' if value.requires_grad else ' without a gradient'}"
        raise UsageError(
            f"The objective {name!r} must give a scalar with a gradient, but gave {got}; return a tensor "
            "that is computed from the embeddings."
        )
