"""What happens to an objective that is built from a spec: its needs are checked."""

from torch import nn

from fullrank.errors import UsageError
from fullrank.objectives.contract import CallableLoss, check_needs


def checked_objective(built: object, name: str) -> nn.Module:
    """`built` as a module that is called with two embeddings; UsageError where it cannot be called.

    >>> checked_objective(lambda z_a, z_b: (z_a - z_b).square().mean(), "distance")
    CallableLoss()
    """
    if not callable(built):
        raise UsageError(f"The objective {name!r} is a {type(built).__name__}, which cannot be called.")
    part = built if isinstance(built, nn.Module) else CallableLoss(built)
    check_needs(part, name)
    return part
