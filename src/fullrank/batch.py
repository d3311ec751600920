"""The input of one training step: images, and what is known about each."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One batch as it leaves the data, before any view is made.

    Args:
        images: The images, (N, C, H, W) uint8.
        labels: The label of each image, (N,) int64; -1 if it has none.
        index: The row of each image in its set, (N,) int64.
        layers: For composites: name of a layer -> the same images without that layer, (N, C, H, W) uint8.
        sizes: For squashed canvases: height and width of each original image, (N, 2) int64 on the CPU.
        cues: Other labels that a term of the loss reads: name -> (N,) int64; -1 if an image has none.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    layers: dict[str, Tensor] | None = None
    sizes: Tensor | None = None
    cues: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor) -> "Batch":
        """The images at `rows` (n,) with everything known about them.

        Args:
            rows: Row numbers (n,) int64, on the device of the images.

        >>> images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
        >>> batch = Batch(images, labels=torch.tensor([5, 6, 7]), index=torch.arange(3))
        >>> batch.take(torch.tensor([2, 0])).labels
        tensor([7, 5])
        """
        taken = self._each(lambda tensor: tensor[rows])
        return replace(taken, sizes=None if self.sizes is None else self.sizes[rows.cpu()])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch on `device`; name and signature are those that Lightning and torch expect."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Change all tensors but the sizes, which stay on the CPU because parameters are drawn there."""
        layers, cues = (
            each and {name: change(tensor) for name, tensor in each.items()}
            for each in (self.layers, self.cues)
        )
        return Batch(change(self.images), change(self.labels), change(self.index), layers, self.sizes, cues)


def as_float(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) in 0 to 255 -> float32 in 0 to 1: the range every encoder and view works in.

    Floats stay as they are: they come from a user's own transform, which may have normalised them.
    """
    return images if images.is_floating_point() else images.float().div_(255.0)
