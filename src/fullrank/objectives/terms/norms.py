"""A batch norm for the small nets inside a term, whose statistics are those of all processes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullrank.processes import gather_rows, process_count

_EPS = 1e-5


class SharedBatchNorm(nn.Module):
    """A batch norm over the rows of all processes, with an exact gradient.

    It has no running statistics, because a term is computed in training only. torch's SyncBatchNorm does the
    same on GPUs; this one also works on CPUs. Shapes: (N, K) -> (N, K); each process has the same N.

    Args:
        width: The number of channels K.
        affine: Whether a trained scale `weight` and shift `bias` follow, as in torch.

    >>> SharedBatchNorm(1)(torch.tensor([[1.0], [3.0]])).detach().round(decimals=3).tolist()
    [[-1.0], [1.0]]
    """

    def __init__(self, width: int, affine: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def forward(self, rows: Tensor) -> Tensor:
        """(N, K) -> (N, K)."""
        if process_count() == 1:
            return F.batch_norm(rows, None, None, self.weight, self.bias, training=True, eps=_EPS)
        own = torch.stack([rows.mean(0), rows.var(0, correction=0)])
        means, variances = gather_rows(own[None]).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        normed = (rows - mean) * (variance + _EPS).rsqrt()
        if self.weight is None or self.bias is None:
            return normed
        return normed * self.weight + self.bias
