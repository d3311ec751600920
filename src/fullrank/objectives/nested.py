"""One objective for each of several nested widths of z, and their mean (Matryoshka)."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, final

import torch
from torch import Tensor, nn

from fullrank.errors import UsageError
from fullrank.objectives.contract import (
    Unguarded,
    chance_of,
    needs_of,
    summands_of,
    temperature_of,
    unguarded_of,
)
from fullrank.specs import write


@final
class NestedLoss(nn.Module):
    r"""The mean of an objective over the first k coordinates of z, for several widths k.

    .. math:: L = \frac1{|M|} \sum_{k \in M} L_k\big(z_a^{[1..k]}, z_b^{[1..k]}\big)

    Each width has an objective of its own, so an objective with trained weights has those of that width.
    `objective(spec, nested=...)` builds them. Shapes: (N, K), (N, K) -> scalar, K of the largest k or more.
    If the objective takes all views, so does this one: (V, N, K) -> scalar.

    Args:
        losses: The objectives, one for each width.
        nested: The widths k, each 1 or more.

    Raises:
        UsageError: There is no width, one is below 1, z is narrower than one, or the numbers of widths and
            objectives differ.

    >>> from fullrank import InfoNCELoss
    >>> loss = NestedLoss([InfoNCELoss(0.2), InfoNCELoss(0.2)], (2, 4))
    >>> z_a, z_b = torch.randn(2, 8, 6)
    >>> by_hand = (InfoNCELoss(0.2)(z_a[:, :2], z_b[:, :2]) + InfoNCELoss(0.2)(z_a[:, :4], z_b[:, :4])) / 2
    >>> torch.equal(loss(z_a, z_b), by_hand)
    True

    Source: Kusupati et al. 2022 (Matryoshka, 2205.13147), with equal weights.
    """

    def __init__(self, losses: Sequence[nn.Module], nested: Sequence[int]):
        super().__init__()
        if not nested or min(nested) < 1 or len(nested) != len(losses):
            raise UsageError(
                f"A nested objective needs one objective for each width of 1 or more, but got {len(losses)} "
                f"for the widths '{write(tuple(nested))}'; write objective(..., nested=(8, 16))."
            )
        self.losses, self.nested = nn.ModuleList(losses), tuple(nested)
        self.needs = needs_of(losses[0])
        self.takes_views: bool = getattr(losses[0], "takes_views", False)
        if "teacher" in self.needs:
            raise UsageError(
                f"{type(losses[0]).__name__} needs a teacher, which a head with the nested widths "
                f"{write(tuple(nested))} cannot have; choose a head such as mlp, or another objective."
            )

    def forward(self, *z: Tensor, **keywords: Any) -> Tensor:
        """Return the mean over the widths of z_a and z_b, or of all views; with what the objective needs."""
        if z[0].shape[-1] < max(self.nested):
            raise UsageError(
                f"The nested widths {write(self.nested)} need z of width {max(self.nested)} or more, but got "
                f"{z[0].shape[-1]}; take smaller widths, or a wider head."
            )
        pairs = zip(self.losses, self.nested, strict=True)
        return torch.stack([part(*(each[..., :k] for each in z), **keywords) for part, k in pairs]).mean()

    def summands(self, *z: Tensor, **keywords: Any) -> dict[str, Tensor]:
        """The mean over the widths of each part that the objective says."""
        views = z[0] if self.takes_views else torch.stack(z)
        pairs = zip(self.losses, self.nested, strict=True)
        parts = [summands_of(part, views[..., :k], **keywords) for part, k in pairs]
        return {name: torch.stack([each[name] for each in parts]).mean() for name in parts[0]}

    def unguarded(self) -> tuple[Unguarded, ...]:
        """What the objective says."""
        return unguarded_of(self.losses[0])

    @property
    def temperature(self) -> float | None:
        """The mean temperature of the objectives; None for objectives without one."""
        values = [value for part in self.losses if (value := temperature_of(part)) is not None]
        return fmean(values) if values else None

    def chance(self, n: int, width: int | None = None, *views: int) -> float | None:
        """The mean of the chance levels, each at its own width; None where one is unknown."""
        levels = [chance_of(part, n, k, *views) for part, k in zip(self.losses, self.nested, strict=True)]
        known = [level for level in levels if level is not None]
        return fmean(known) if len(known) == len(levels) else None

    def collapsed(self, n: int, width: int, *views: int) -> dict[str, float]:
        """The mean of the values at each kind of collapse that the objective knows."""
        states = [
            part.collapsed(n, k, *views) if hasattr(part, "collapsed") else {}  # type: ignore[operator]  # a method
            for part, k in zip(self.losses, self.nested, strict=True)
        ]
        return {kind: fmean(state[kind] for state in states) for kind in states[0]}
