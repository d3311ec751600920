"""What one step sees: images, and what is known about each."""

from dataclasses import dataclass

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
        return Batch(
            self.images[rows],
            self.labels[rows],
            self.index[rows],
            self.layers and {name: layer[rows] for name, layer in self.layers.items()},
            None if self.sizes is None else self.sizes[rows.cpu()],
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch on `device` (the name and signature Lightning and torch look for)."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return Batch(
            moved(self.images),
            moved(self.labels),
            moved(self.index),
            self.layers and {name: moved(layer) for name, layer in self.layers.items()},
            self.sizes,  # parameters are drawn on the CPU
        )


def as_float(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) in 0 to 255 -> float32 in 0 to 1: the range every encoder and view works in.

    >>> as_float(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([0., 1.])
    """
    return images.float().div_(255.0)
