"""What may be done to z over the batch without a trained parameter: standardise, half of it, or whiten."""

from typing import Literal, final, get_args

import torch
from torch import Tensor, nn

from fullrank.errors import UsageError
from fullrank.heads import GROUP
from fullrank.heads.whitening import Whitening

Norm = Literal["none", "batch", "centre", "scale", "whiten"]
NORMS: tuple[Norm, ...] = get_args(Norm)


class _BatchStatistics(nn.Module):
    """Mean and variance of each channel: of the batch in training, running values in eval mode, as in torch.

    With several processes each one has its own statistics; SyncBatchNorm does not join them.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (K,) and standard deviation (K,) for z (N, K); training also updates the running ones."""
        if not self.training:
            return self.running_mean, (self.running_var + self.eps).sqrt()
        mean, variance = z.mean(0), z.var(0, correction=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * len(z) / max(len(z) - 1, 1), self.momentum)
        return mean, (variance + self.eps).sqrt()


@final
class BatchCentre(_BatchStatistics):
    """z minus its batch mean: the half of a batch norm that moves the origin."""

    def forward(self, z: Tensor) -> Tensor:
        """z (N, K) -> z - mean (N, K)."""
        return z - self.statistics(z)[0]


@final
class BatchScale(_BatchStatistics):
    """z divided by its standard deviation in the batch, mean kept: the half that equalises channels."""

    def forward(self, z: Tensor) -> Tensor:
        """z (N, K) -> z / deviation (N, K)."""
        return z / self.statistics(z)[1]


def norm_of(width: int, norm: Norm, group: int = GROUP) -> nn.Module:
    """The module for a norm, whose whitening has groups of `group`; UsageError for an unknown name."""
    if norm not in NORMS:
        raise UsageError(f"norm must be one of {', '.join(NORMS)}, but got {norm!r}.")
    if norm == "none":
        return nn.Identity()
    if norm == "batch":
        return nn.BatchNorm1d(width, affine=False)
    if norm == "whiten":
        return Whitening(width, group)
    return BatchCentre(width) if norm == "centre" else BatchScale(width)
