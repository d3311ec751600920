"""Images in memory with their labels: what every source loads."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from fullrank.data.selection import stratified_order
from fullrank.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

UNLABELLED = -1


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images (N, H, W, C) uint8, C 1 or 3, with named labels (N,) int64, -1 where unlabelled.

    The main labels are named "label"; `class_names` has one tuple for each of `labels`, and label i is called
    `class_names[...][i]`. `name` and `split` are for messages. Anything else raises DataError.

    >>> images, labels = np.zeros((2, 8, 8, 1), np.uint8), np.array([0, -1])
    >>> digits = ImageSet(images, {"label": labels}, {"label": ("zero",)})
    >>> len(digits), digits.image_shape
    (2, (8, 8, 1))
    """

    images: np.ndarray
    labels: dict[str, np.ndarray]
    class_names: dict[str, tuple[str, ...]]
    name: str = "images"
    split: str = "train"

    def __post_init__(self) -> None:
        shape, dtype = self.images.shape, self.images.dtype
        if dtype != np.uint8:
            raise DataError(
                f"{self}: images must be uint8 from 0 to 255, but got {dtype}; scale and cast them."
            )
        if len(shape) != 4 or shape[3] not in (1, 3) or not shape[1] or not shape[2]:
            raise DataError(
                f"{self}: images must have the shape (N, H, W, C) with C 1 or 3, but got {shape}; "
                "reorder the axes and keep grey or RGB."
            )
        if not shape[0]:
            raise DataError(f"{self} has 0 images, but needs 1 or more; check the path and the split.")
        if "label" not in self.labels or set(self.labels) != set(self.class_names):
            raise DataError(
                f"{self}: labels ({', '.join(self.labels)}) and class names ({', '.join(self.class_names)}) "
                "must have the same keys, one of them 'label'; give the missing one."
            )
        for key, labels in self.labels.items():
            self._check_labels(key, labels)

    def _check_labels(self, key: str, labels: np.ndarray) -> None:
        if labels.dtype != np.int64 or labels.shape != (len(self),):
            raise DataError(
                f"{self}: {key!r} must be int64 with the shape ({len(self)},), one for each image, but got "
                f"{labels.dtype} with the shape {labels.shape}; give one whole number for each image."
            )
        top = len(self.class_names[key]) - 1
        wrong = labels[(labels < UNLABELLED) | (labels > top)]
        if len(wrong):
            raise DataError(
                f"{self}: {key!r} must lie in {UNLABELLED} (unlabelled) to {top}, but {len(wrong)} of "
                f"{len(self)} do not, the first is {wrong[0]}; correct them or name more classes."
            )

    def __len__(self) -> int:
        return len(self.images)

    def __str__(self) -> str:
        return f"{self.name} ({self.split})"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def resized(self, size: int) -> "ImageSet":
        """The set at size x size: the shorter side brought to `size` (antialiased), then the centre kept.

        A set that has this size already is returned as it is. Raises UsageError for a size below 1.
        """
        check_image_size(size)
        if self.image_shape[:2] == (size, size):
            return self
        images = np.empty((len(self), size, size, self.image_shape[2]), np.uint8)
        grey = self.image_shape[2] == 1
        for target, image in zip(images, self.images, strict=True):
            target[:] = to_array(fit_square(Image.fromarray(image[..., 0] if grey else image), size))
        return self._with(images, self.labels)

    def limited(self, n: int, seed: int) -> "ImageSet":
        """`n` of the images, drawn by `seed` with every class in proportion, in their old order.

        A larger `n` contains the smaller one's images. Raises UsageError for `n` outside 1 to N.
        """
        if not 1 <= n <= len(self):
            raise UsageError(
                f"A limit of {n} images is outside 1 to {len(self)}, the size of {self}; choose "
                f"{len(self)} or less."
            )
        return self.subset(np.sort(stratified_order(self.labels["label"], seed)[:n]))

    def subset(self, index: np.ndarray) -> "ImageSet":
        """The images at the rows `index`, in that order."""
        return self._with(self.images[index], {key: labels[index] for key, labels in self.labels.items()})

    def tensor(self) -> "Tensor":
        """A copy of the images as a uint8 tensor (N, C, H, W)."""
        import torch

        return torch.from_numpy(self.images.transpose(0, 3, 1, 2).copy())

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation (1/N) of each channel over all pixels, for pixels in 0 to 1.

        The sums are whole numbers, so nothing is lost in them.

        >>> grey = np.full((1, 2, 2, 1), 51, np.uint8)
        >>> ImageSet(grey, {"label": np.array([-1])}, {"label": ()}).channel_statistics()
        ((0.2,), (0.0,))
        """
        pixels = self.images[..., 0].size
        chunks = np.array_split(self.images, -(-len(self) // 256))
        squares = np.sum([np.square(chunk, dtype=np.int64).sum((0, 1, 2)) for chunk in chunks], axis=0)
        mean = self.images.sum((0, 1, 2), dtype=np.int64) / pixels
        deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
        return tuple((mean / 255).tolist()), tuple((deviation / 255).tolist())

    def _with(self, images: np.ndarray, labels: dict[str, np.ndarray]) -> "ImageSet":
        return ImageSet(images, labels, self.class_names, self.name, self.split)


def check_image_size(size: int) -> None:
    """Raise UsageError for an image size below 1."""
    if size < 1:
        raise UsageError(f"The image size must be 1 or more, but got {size}; choose a larger one.")


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """An 8-bit image with its shorter side at `size` (bilinear, antialiased), of which the centre is kept."""
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def to_array(image: Image.Image) -> np.ndarray:
    """A grey or RGB image as (H, W, C) uint8."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
