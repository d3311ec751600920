"""What one step sees: images, and what is known about each."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One batch as it leaves the data, before any view is made.

    Shapes: images (N, C, H, W) uint8; labels (N,) int64, -1 where unlabelled; index (N,) int64, the row of
    each image in its set; layers, where the images are composites, name of a layer -> (N, C, H, W) uint8, the
    same images without it; sizes, where the images are squashed canvases, (N, 2) int64 on the CPU: the
    height and width of each original.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    layers: dict[str, Tensor] | None = None
    sizes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor) -> "Batch":
        """The images at `rows` (n,), and all that is known about them; the rows are on the images' device.

        >>> images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
        >>> batch = Batch(images, labels=torch.tensor([5, 6, 7]), index=torch.arange(3))
        >>> batch.take(torch.tensor([2, 0])).labels
        tensor([7, 5])
        """
        taken = self._each(lambda tensor: tensor[rows])
        return replace(taken, sizes=None if self.sizes is None else self.sizes[rows.cpu()])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch on `device` (the name and signature Lightning and torch look for)."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with all tensors changed but the sizes: parameters are drawn on the CPU."""
        layers = self.layers and {name: change(layer) for name, layer in self.layers.items()}
        return Batch(change(self.images), change(self.labels), change(self.index), layers, self.sizes)


def as_float(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) in 0 to 255 -> float32 in 0 to 1: the range every encoder and view works in."""
    return images.float().div_(255.0)
