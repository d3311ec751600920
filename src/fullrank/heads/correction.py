"""A head that adds a learnt correction to each channel of h."""

from typing import cast

import torch
from torch import Tensor, nn

from fullrank.heads.contract import Head, check_positive


class CorrectionHead(Head):
    r"""Add a trained correction vector to h: z = h + w(h), where w is 0 at the start.

    .. math:: w(h) = W_2 \operatorname{ReLU}(W_1 h + b_1) + b_2, \quad W_2 = 0,\ b_2 = 0 \text{ at the start}

    Each entry of w(h) is a bonus or a penalty for one channel of h, so what the head does can be read channel
    by channel (`correction`). Shapes: (N, D) -> (N, D).

    Args:
        in_dim: The width D of h.
        hidden: The width of the hidden layer, 1 or more.

    Raises:
        UsageError: `hidden` is outside its limits.

    >>> part, h = CorrectionHead(3, hidden=4), torch.randn(2, 3)
    >>> torch.equal(part(h), h), part.correction(h).shape
    (True, torch.Size([2, 3]))

    Source: Cerrato et al. 2022 (2201.06343), the explicit form. The implicit form of 2202.03078, which maps
    one group onto another through a normalising flow, is not done.
    """

    def __init__(self, in_dim: int, hidden: int = 128):
        check_positive("hidden", hidden)
        super().__init__(in_dim, in_dim)
        self.inner = nn.Linear(in_dim, hidden)
        self.outer = nn.Linear(hidden, in_dim)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def correction(self, h: Tensor) -> Tensor:
        """The correction w(h), (N, D), of features h (N, D)."""
        return cast(Tensor, self.outer(torch.relu(self.inner(self.checked(h)))))

    def project(self, h: Tensor) -> Tensor:
        """Return z = h + w(h)."""
        return h + self.correction(h)

    def imposed_rank(self, place: str) -> None:
        """None: w may reach every channel, and h passes unchanged beside it."""
