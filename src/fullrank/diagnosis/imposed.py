"""The rank that a head imposes by its form: stated by the head, or measured on a new copy of it."""

from collections.abc import Callable

import torch
from torch import nn

from fullrank.diagnosis.shape import Shape, low_rank_of, measure
from fullrank.errors import UsageError
from fullrank.heads.contract import narrowest, unfolded
from fullrank.places import Place, head_places, read_head
from fullrank.statistics import live_dimensions

# Eigenvalues below this share of the largest are rounding of float64.
_ROUNDING = 1e-12
# Rows per channel of h: enough that the spectrum of Gaussian rows has no sharp drop by itself.
_ROWS_PER_CHANNEL, _MORE_ROWS = 4, 64


def imposed_rank(
    head: nn.Module, place: str = "z", fresh: Callable[[], nn.Module] | None = None
) -> int | None:
    """The rank that the form of a head, not its training, imposes at a place. None if it imposes none.

    - A head with a method `imposed_rank(place)` states it.
    - For any other head, `measured_rank` of a new copy is used, so that what training lost is never excused.
    - Without `fresh`, consecutive linear layers show it by their form. Of any other head it is unknown.

    A place of the encoder, and h, have no imposed rank.

    Args:
        head: The head.
        place: The name of the place.
        fresh: Builds a new copy of the head.

    >>> from fullrank import head
    >>> [imposed_rank(head(spec, in_dim=96)) for spec in ("subvector:24", "linear:128", "linear:64", "none")]
    [24, 96, None, None]
    """
    parsed = Place.parse(place)
    if parsed.name != "z" and parsed.name not in head_places(head):
        return None
    says: Callable[[str], int | None] | None = getattr(head, "imposed_rank", None)
    if callable(says):
        rank = says(parsed.name)
        if rank is not None and (type(rank) is not int or rank < 1):
            stated = f"{type(head).__name__} returns imposed_rank({parsed.name!r}) = {rank!r}"
            raise UsageError(f"The head {stated}; it must be a whole number of 1 or more, or None.")
    elif fresh is not None:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            rank = measured_rank(fresh(), parsed.name)
    else:
        rank = narrowest(unfolded(head)) if parsed.name == "z" else None
    return rank if rank is None or parsed.width is None else min(rank, parsed.width)


@torch.no_grad()
def measured_rank(head: nn.Module, place: str = "z") -> int | None:
    """The rank at a place of a head for Gaussian h (4 D + 64, D), float64, in eval mode. None if it is full.

    It ends where the spectrum of the centred covariance drops sharply, or else where its values are rounding.

    Args:
        head: The head.
        place: The name of the place.

    >>> class Projection(nn.Module):
    ...     in_dim = out_dim = 8
    ...     def forward(self, h):
    ...         return h @ torch.diag(torch.tensor([1.0] * 3 + [0.0] * 5, dtype=h.dtype))
    >>> measured_rank(Projection())
    3
    """
    shape = _gaussian_shape(head, place)
    if (cut := low_rank_of(shape.eigenvalues)) is not None:
        return cut.rank
    rank = live_dimensions(shape.eigenvalues.numpy(), _ROUNDING)
    return rank if 0 < rank < shape.width else None


@torch.no_grad()
def exact_rank(head: nn.Module, place: str = "z") -> int:
    """The rank at a place of a head for the same rows, limited only by the rounding of float64."""
    return live_dimensions(_gaussian_shape(head, place).eigenvalues.numpy(), _ROUNDING)


def _gaussian_shape(head: nn.Module, place: str) -> Shape:
    width = int(getattr(head, "in_dim"))  # noqa: B009  # nn.Module's own attributes are tensors or modules
    h = torch.randn(_ROWS_PER_CHANNEL * width + _MORE_ROWS, width, dtype=torch.float64)
    return measure(read_head(head.double().eval(), h)[place])
