"""What happens to a head that is built from a spec: its norm is set, and somebody else's is checked."""

from typing import cast

import torch
from torch import Tensor, nn

from fullrank.errors import UsageError, explained
from fullrank.heads.contract import Head, NormedHead
from fullrank.heads.norms import Norm
from fullrank.places import evaluating


def normed(part: nn.Module, norm: Norm) -> Head:
    """A head with its norm set; a module that knows no norms gets one behind it."""
    if isinstance(part, Head):
        part.set_norm(norm)
        return part
    return cast(Head, part) if norm == "none" else NormedHead(part, norm)


def checked_head(built: object, name: str, in_dim: int) -> nn.Module:
    """`built` if it is a head for width `in_dim`; otherwise UsageError says what is missing."""
    if not isinstance(built, nn.Module):
        raise UsageError(f"The head {name!r} is a {type(built).__name__}; a head must be an nn.Module.")
    for attribute in ("out_dim", "in_dim"):
        if type(getattr(built, attribute, None)) is not int:
            raise UsageError(
                f"The head {name!r} has no whole number {attribute}; set in_dim and out_dim in its __init__."
            )
    if built.in_dim != in_dim:
        raise UsageError(
            f"The head {name!r} was built for in_dim={in_dim}, but says in_dim={built.in_dim}; keep what its "
            "__init__ gets."
        )
    # Two rows without a trace: no random number is drawn, no statistic kept.
    parameter = next(built.parameters(), torch.empty(0))
    with (
        torch.no_grad(),
        torch.random.fork_rng(devices=()),
        evaluating(built),
        explained(f"The head {name!r} cannot map features (2, {in_dim})"),
    ):
        z = built(torch.randn(2, in_dim, dtype=parameter.dtype, device=parameter.device))
    width = getattr(built, "eval_dim", built.out_dim)
    if not isinstance(z, Tensor) or z.shape != (2, width):
        got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise UsageError(
            f"The head {name!r} says out_dim={built.out_dim}, but maps (2, {in_dim}) to {got} in eval mode; "
            f"it must give (2, {width})."
        )
    return built
