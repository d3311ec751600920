"""Any source with a common corruption."""

from copy import copy
from dataclasses import replace
from typing import final

import numpy as np
from PIL import Image

from fullrank.data.decoding import bands, to_array, to_image
from fullrank.data.image_set import ImageSet
from fullrank.data.made.corruptions import check_corruption, corrupt
from fullrank.data.opening import closing
from fullrank.data.selection import generator
from fullrank.data.sources import SPLITS, Source, Split, canonical
from fullrank.data.streaming import StreamedImages
from fullrank.errors import UsageError

STREAMED_SIDE = 256
"""Shorter side, in pixels, to which larger streamed images are resized before they are corrupted."""


@final
class Corrupted(Source):
    """The training and test images of another source, each with a corruption of `CORRUPTIONS`.

    The random numbers for an image depend only on `seed`, the split and the image's row, so a subset has the
    same images as the whole set. Images in memory are corrupted at their own size, then resized. Streamed
    images are corrupted when they are decoded, with a shorter side of at most 256 pixels, as in ImageNet-C.
    Labels stay; the layers of composites are dropped.

    Args:
        kind: The name of the corruption.
        data: The spec of the source.
        severity: 1 to 5.
        seed: Seed of the corruption.

    Raises:
        UsageError: If the kind is unknown, the severity is outside 1 to 5, `data` is missing, or the kind
            needs colour but the images are grey.

    >>> from fullrank.data import Digits
    >>> clean, noisy = Digits().load("test"), Corrupted("gaussian-noise", data="digits").load("test")
    >>> noisy.images.shape == clean.images.shape, bool((noisy.images == clean.images).all())
    (True, False)

    Source: in the spirit of Hendrycks and Dietterich 2019, arXiv:1903.12261; not ImageNet-C itself.
    """

    def __init__(self, kind: str, data: str | None = None, severity: int = 3, seed: int = 0):
        from fullrank.data import source

        super().__init__(canonical("corrupted", kind, data=data, seed=seed, severity=severity))
        check_corruption(kind, severity, channels=3)
        if data is None:
            raise UsageError(f"{self.name} lacks data; write corrupted:{kind},data=SPEC.")
        generator(seed)
        self.kind, self.severity, self.seed, self.data = kind, severity, seed, source(data)
        self.splits = self.data.splits

    @property
    def official(self) -> bool:
        """Whether the splits of the other source are part of its data."""
        return self.data.official

    @property
    def understood(self) -> str:
        """What the other source made of its files."""
        return self.data.understood

    def unfitted(self) -> "Corrupted":
        """The same source, also with sizes that differ."""
        unfitted = copy(self)
        unfitted.data = self.data.unfitted()
        return unfitted

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`."""
        clean = self.data.read(split, image_size)
        check_corruption(self.kind, self.severity, clean.channels)
        number = SPLITS.index(split)

        def spoilt(image: np.ndarray, row: int) -> np.ndarray:
            return corrupt(image, self.kind, self.severity, generator(self.seed, number, row))

        images = clean.images
        if not isinstance(images, StreamedImages):
            spoilt_images = np.stack([spoilt(image, row) for row, image in enumerate(images)])
            return replace(clean, images=spoilt_images, name=self.name, layers={}, masks=None)

        def read_spoilt(row: int) -> Image.Image:
            with closing(images.read(row)) as image:
                (whole,) = bands(image, images.channels, images.window)
                return to_image(spoilt(to_array(_shrunk(whole)), row))

        streamed = replace(images, read=read_spoilt, name=self.name)
        return replace(clean, images=streamed, name=self.name, layers={}, masks=None)


def _shrunk(image: Image.Image) -> Image.Image:
    shorter = min(image.size)
    if shorter <= STREAMED_SIDE:
        return image
    width, height = (round(STREAMED_SIDE * side / shorter) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)
