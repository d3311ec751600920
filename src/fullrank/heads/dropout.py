"""Dropout of the coordinates of h, before a head."""

from typing import final

import torch
from torch import Tensor, nn

from fullrank.errors import UsageError
from fullrank.processes import process_rank


@final
class Dropout(nn.Module):
    """In training, each coordinate is 0 with probability p, and otherwise divided by 1 - p.

    In eval mode nothing changes. Each call draws one number from torch's generator on the CPU, and the mask
    comes from a generator with that seed. A resumed run therefore draws the same masks, on any device. Each
    of several processes adds its rank to the seed, so they draw different masks. Those are not the masks that
    one process would draw.

    Args:
        share: The probability p, 0 or more and below 1.

    Raises:
        UsageError: `share` is outside its limits.

    >>> Dropout(0.5).eval()(torch.ones(1, 3))
    tensor([[1., 1., 1.]])

    Source: Srivastava et al. 2014 (Dropout).
    """

    def __init__(self, share: float):
        super().__init__()
        if not 0 <= share < 1:
            raise UsageError(f"dropout must be 0 or more and below 1, but got {share}; 0.5 is common.")
        self.share = share

    def forward(self, h: Tensor) -> Tensor:
        """h (N, D) -> h with coordinates set to 0 (N, D)."""
        if not self.training:
            return h
        seed = int(torch.randint(2**62, ())) + process_rank()
        generator = torch.Generator(h.device).manual_seed(seed)
        dropped = torch.rand(h.shape, generator=generator, device=h.device) < self.share
        return h.masked_fill(dropped, 0.0) / (1 - self.share)

    def extra_repr(self) -> str:
        """The probability, which `print` shows."""
        return f"share={self.share}"
