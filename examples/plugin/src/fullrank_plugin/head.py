"""A head of low rank and full width. It does not describe itself, so fullrank measures its rank."""

import torch
from torch import Tensor, nn


class Projection(nn.Module):
    """z = h P P', the projection of h onto `rank` fixed random directions. Shapes: (N, D) -> (N, D).

    Any module with `in_dim` and `out_dim` is a head. The first parameter after `in_dim` is the value of the
    spec, as in `projection:4`.
    """

    def __init__(self, in_dim: int, rank: int = 8):
        super().__init__()
        if not 1 <= rank <= in_dim:
            raise ValueError(f"rank={rank} is outside 1 to {in_dim}, the width of h")
        self.in_dim = self.out_dim = in_dim
        self.register_buffer("directions", torch.linalg.qr(torch.randn(in_dim, rank)).Q)

    def forward(self, h: Tensor) -> Tensor:
        """h (N, D) -> z (N, D), of rank `rank`."""
        return h @ self.directions @ self.directions.T
