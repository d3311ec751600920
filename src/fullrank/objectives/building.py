"""What happens to an objective that is built from a spec: its needs are checked."""

import torch
from torch import Tensor, nn

from fullrank.errors import UsageError, explained
from fullrank.objectives.contract import CallableLoss, check_needs, loss_of


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
