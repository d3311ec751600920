"""The contract of an encoder."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fullrank.errors import UsageError


class Encoder(nn.Module, ABC):
    """Images (N, in_chans, H, W) in 0 to 1 -> h (N, feature_dim), with named places to read along the way.

    The images' mean and spread are buffers: they travel with the weights. A spread below one grey level
    (1/255) counts as one, so that a set of blank images gives numbers too. `spec` is what it was built from.
    """

    name: str
    mean: Tensor
    std: Tensor
    feature_dim: int
    places: tuple[str, ...]
    #: Where in the state_dict the net of another library stands, as in "model."; "" where it is our own.
    library_root = ""

    def __init__(self, in_chans: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.in_chans, self.spec = in_chans, ""
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, in_chans):
                raise UsageError(
                    f"{name} has {len(values)} numbers for {in_chans} channels; give 1 or {in_chans}."
                )
            floor = 1 / 255 if name == "std" else 0.0
            column = (
                torch.tensor([max(float(v), floor) for v in values])
                .reshape(1, -1, 1, 1)
                .expand(1, in_chans, 1, 1)
            )
            self.register_buffer(name, column.clone())

    @abstractmethod
    def features(self, x: Tensor, places: Sequence[str]) -> dict[str, Tensor]:
        """The features (N, D_p) at `h` or any of `places`, from the pass that `forward` makes."""

    def library_lines(self) -> dict[str, str]:
        """Python that changes the library's own `model` before it loads the weights, by what it changes."""
        return {}

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in 0 to 1 -> h (N, D)."""
        return self.features(x, ("h",))["h"]

    def normalised(self, x: Tensor) -> Tensor:
        """Images in 0 to 1 with the training images' mean taken away, over their spread."""
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise UsageError(
                f"This encoder takes images (N, {self.in_chans}, H, W), but got {tuple(x.shape)}; "
                "give images with the channels it was built for."
            )
        return (x - self.mean) / self.std
