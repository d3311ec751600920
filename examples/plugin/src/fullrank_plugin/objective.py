"""An objective that draws random directions in each step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Sliced(nn.Module):
    """Views close together, and every random slice of the embeddings with mean 0 and variance 1.

    A slice is s = z A for a unit vector A. Each call draws `slices` new ones. The loss is the mean squared
    distance of the views plus `weight` times the mean of mean(s)^2 + (1 - std(s))^2 over the slices. `needs`
    asks for the generator of the step, so that a resumed run draws the same slices.
    """

    needs = ("generator",)

    def __init__(self, weight: float = 1.0, slices: int = 16):
        super().__init__()
        self.weight, self.slices = weight, slices

    def forward(self, z_a: Tensor, z_b: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the loss of two embeddings (N, K)."""
        drawn = torch.randn(z_a.shape[1], self.slices, generator=generator)
        slices = F.normalize(drawn.to(z_a), dim=0)
        s = torch.cat([z_a, z_b]) @ slices
        spread = (s.var(0, correction=0) + 1e-4).sqrt()
        return F.mse_loss(z_a, z_b) + self.weight * (s.mean(0).square() + (1 - spread).square()).mean()
