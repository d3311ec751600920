"""The contract of a head."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from fullrank.errors import UsageError
from fullrank.heads.norms import Norm, batch_norm_of

# A square matrix of this side takes 4 GiB: beyond, a number is a slip of the hand.
WIDEST = 2**15


class Head(nn.Module, ABC):
    """A map from h (N, in_dim) to z (N, out_dim), called once on both views stacked.

    With `norm="batch"` each channel of z is standardised over the batch (both views in training, running
    statistics in eval) without any trained parameter; in this a head differs from one that ends in an
    affine batch norm. `norm="centre"` only takes the mean away, `norm="scale"` only divides by the deviation.

    `layers` are the head's layers in order: `head.1` ... `head.L` are places where features can be read.
    """

    layers: nn.ModuleList

    def __init__(self, in_dim: int, out_dim: int, norm: Norm = "none"):
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
        self.layers = nn.ModuleList()
        self.norm = batch_norm_of(out_dim, norm)

    @abstractmethod
    def project(self, h: Tensor) -> Tensor:
        """h (N, in_dim) -> z before any standardisation (N, out_dim)."""

    def forward(self, h: Tensor) -> Tensor:
        """h (N, in_dim) -> z (N, out_dim); raises UsageError for features of another shape."""
        z: Tensor = self.norm(self.project(self.checked(h)))
        return z

    def checked(self, h: Tensor) -> Tensor:
        """`h` if it is (N, in_dim); a head that slices would else take part of something else."""
        if h.ndim != 2 or h.shape[1] != self.in_dim:
            raise UsageError(
                f"This head takes features (N, {self.in_dim}), but got {tuple(h.shape)}; build it with "
                "in_dim as wide as the encoder's output."
            )
        return h


def check_width(name: str, value: int, in_dim: int) -> int:
    """`value` if it is between 1 and `in_dim`; otherwise UsageError names both and the remedy."""
    if not 1 <= value <= in_dim:
        raise UsageError(
            f"{name}={value} is outside 1 to {in_dim}, the width of h; choose {in_dim} or less, or a wider "
            "encoder."
        )
    return value


def check_positive(name: str, value: int, most: int = WIDEST) -> int:
    """`value` if it is between 1 and `most`; otherwise UsageError."""
    if not 1 <= value <= most:
        raise UsageError(f"{name} must lie in 1 to {most}, but got {value}; choose another.")
    return value
