"""How an image becomes the input of a net: the steps that belong to its weights."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from fullrank.errors import UsageError

Fit = Callable[[Image.Image], np.ndarray]

NO_FLOATS = (
    "views need uint8 images, but the transform returns float32; do without views, or leave the "
    "normalisation out of the transform and give mean and std beside it"
)


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an image to the input of a net.

    Args:
        fit: Takes an upright image of eight bits, mode L or RGB, and returns its square (S, S, C) uint8. A
            user's own transform may return float32, which the net then takes as it is.
        size: S, the side of the square in pixels.
        mean: The mean that is subtracted from each channel of pixels in 0 to 1, or one number for all.
        std: The spread by which each channel is then divided, in the same form.
        steps: What `fit` does, in words.
        origin: Where these settings come from, in words.

    >>> grey = Image.new("L", (30, 20), 51)
    >>> own = Preprocessing(lambda image: np.asarray(image.resize((4, 4)))[..., None], 4, (0.5,), (0.25,))
    >>> own.fit(grey).shape, str(own)
    ((4, 4, 1), 'images of 4 x 4 pixels, minus 0.5, over 0.25')
    """

    fit: Fit = field(repr=False, compare=False)
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    steps: str = ""
    origin: str = ""

    def __str__(self) -> str:
        steps = f" ({self.steps})" if self.steps else ""
        origin = f", from {self.origin}" if self.origin else ""
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"images of {self.size} x {self.size} pixels{steps}, minus {mean}, over {std}{origin}"

    def fitted(self, image: Image.Image) -> np.ndarray:
        """What `fit` makes of an image, if that has the promised form.

        Args:
            image: An upright image of eight bits.

        Raises:
            UsageError: If it is not (size, size, C) uint8 or float32.
        """
        fitted = self.fit(image)
        shape, dtype = getattr(fitted, "shape", ()), getattr(fitted, "dtype", type(fitted).__name__)
        if len(shape) != 3 or shape[:2] != (self.size, self.size) or dtype not in (np.uint8, np.float32):
            needed = f"({self.size}, {self.size}, C) uint8 or float32"
            problem = f"made {dtype} of shape {tuple(shape)} of a blank image"
            raise UsageError(f"The transform {problem}; let it return {needed}.")
        return fitted

    @property
    def settings(self) -> dict[str, Any]:
        """Everything but `fit`, for a record or the metadata of a file."""
        return {
            "image_size": self.size,
            "mean": list(self.mean),
            "std": list(self.std),
            "steps": self.steps,
            "origin": self.origin,
        }
