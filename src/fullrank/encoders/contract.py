"""The contract of an encoder."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fullrank.errors import UsageError


class Encoder(nn.Module, ABC):
    """Images (N, in_chans, H, W) in 0 to 1 -> h (N, feature_dim), with named places along the way.

    The images' mean and standard deviation are buffers, so they are saved with the weights. A standard
    deviation below one grey level (1/255) is raised to it, so that blank images also give finite numbers.

    Args:
        in_chans: Channels of the images.
        mean: The mean of each channel, or one number.
        std: The standard deviation of each channel, or one number.

    Attributes:
        spec: The spec that it was built from.
        feature_dim: The width D of h.
        places: The names of its places.

    Raises:
        UsageError: For another number of means or standard deviations.
    """

    name: str
    mean: Tensor
    std: Tensor
    feature_dim: int
    places: tuple[str, ...]
    #: The prefix of another library's net in the state_dict, such as "model."; "" for our own nets.
    library_root = ""

    def __init__(self, in_chans: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.in_chans, self.spec = in_chans, ""
        for name in ("mean", "std"):
            self.register_buffer(name, torch.zeros(1, in_chans, 1, 1))
        self.normalise_by(mean, std)

    def normalise_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and the standard deviation by which images are normalised.

        Args:
            mean: The mean of each channel, or one number.
            std: The standard deviation of each channel, or one number; raised to 1/255 if it is less.

        Raises:
            UsageError: For another number of either.
        """
        for name, values, least in (("mean", mean, -math.inf), ("std", std, 1 / 255)):
            buffer: Tensor = getattr(self, name)
            channels = buffer.shape[1]
            if len(values) not in (1, channels):
                raise UsageError(
                    f"{name} has {len(values)} numbers for {channels} channels; give 1 or {channels}."
                )
            numbers = torch.tensor([max(float(value), least) for value in values])
            buffer.copy_(numbers.reshape(1, -1, 1, 1).expand_as(buffer))

    @abstractmethod
    def features(self, x: Tensor, places: Sequence[str]) -> dict[str, Tensor]:
        """The features (N, D_p) at `h` or any of `places`, from the same pass as `forward`."""

    def of_patches(
        self, x: Tensor, places: Sequence[str], of: Callable[[str, Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """`of(place, tokens)` for the patch tokens (N, T, D) at those of `places` that pool such tokens."""
        return {}

    def has_place(self, name: str) -> bool:
        """Whether `features` takes a place."""
        return name == "h" or name in self.places

    def pooling_of(self, place: str) -> str:
        """How features at a place are pooled: mean, cls or max; "" where there is one vector per image."""
        return ""

    def library_lines(self) -> dict[str, str]:
        """Python lines that adapt the library's `model` before it loads the weights, by what they change."""
        return {}

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in 0 to 1 -> h (N, D)."""
        return self.features(x, ("h",))["h"]

    def normalised(self, x: Tensor) -> Tensor:
        """Images in 0 to 1, minus the training images' mean, divided by their standard deviation."""
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise UsageError(
                f"This encoder takes images (N, {self.in_chans}, H, W), but got {tuple(x.shape)}; "
                "give images with the channels that it was built for."
            )
        return (x - self.mean) / self.std
