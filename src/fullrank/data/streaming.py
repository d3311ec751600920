"""Images that are decoded on demand, for sets that do not fit into memory."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, final

import numpy as np
from PIL import Image

from fullrank.data.decoding import UNREADABLE, bands, centre, reason, squash
from fullrank.data.depth import SIXTEEN, Window, naming
from fullrank.data.opening import Opened, closing, open_image
from fullrank.data.undecodable import BadImages
from fullrank.errors import DataError, UsageError
from fullrank.preprocessing import NO_FLOATS, Fit, Preprocessing

IMAGE_SIZE = 224
"""The default size at which encoders see streamed images."""

CANVAS = 320
_SLOW = 2e-3  # seconds; images that take longer are decoded in several threads
_AT_ONCE = 4096  # names at a time; a set may have millions
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@final
@dataclass(frozen=True, eq=False)
class StreamedImages:
    """N images of any size, decoded on demand in a pool of threads; the images of an ImageSet.

    Training sees *canvases*: whole images squashed to a square. Evaluation sees *centres*: the square in the
    middle of each image, or what `fit` makes of the image. An image that cannot be decoded is noted in `bad`.
    If `bad` allows it, the next image of the set with the same number in `alike` replaces it; after the last
    image comes the first.

    Args:
        read: `read(i)` opens the image called `keys[i]`, with Pillow or as pixels (H, W, C).
        keys: The names of the images.
        canvas: Side of a canvas in pixels; `image_size` if that is more.
        image_size: Height and width of a centre in pixels.
        channels: 1 for grey, 3 for RGB, or the number that all images have.
        rows: The rows of `keys` that belong to the set, (N,); None means all.
        statistics: Mean and standard deviation of each channel in 0 to 1, if convention fixes them.
        name: The name of the source, for messages.
        bad: Records undecodable images and limits their number.
        alike: A number for each of `keys`; images with the same number can replace each other.
        fit: Takes a whole upright image at its own size and returns its square, in place of the centre. See
            `Preprocessing`.
        floats: `fit` returns float32, which cannot be made into views.
        window: How pixels of more than eight bits become eight bits; by default 0 to 65535 become 0 to 255.

    Raises:
        UsageError: If a size is below 1.
        DataError: In any method that decodes, if an image cannot be decoded; names the image and the source.

    >>> images = StreamedImages(lambda i: Image.new("L", (30, 20)), ["a", "b"], canvas=8, image_size=4)
    >>> images.shape, images.canvases(np.array([1]))[1].tolist(), images.centres(np.array([0, 1])).shape
    ((2, 8, 8, 3), [[20, 30]], (2, 4, 4, 3))
    """

    read: Callable[[int], Opened]
    keys: Sequence[str]
    canvas: int
    image_size: int
    channels: int = 3
    name: str = "images"
    statistics: Statistics | None = None
    rows: np.ndarray | None = None
    bad: BadImages = field(default_factory=BadImages)
    alike: np.ndarray | None = None
    fit: Fit | None = None
    floats: bool = False
    window: Window = SIXTEEN
    dtype: ClassVar = np.dtype(np.uint8)

    def __post_init__(self) -> None:
        for word, size in (("canvas", self.canvas), ("image size", self.image_size)):
            if size < 1:
                raise UsageError(f"{self.name}: the {word} must be 1 or more, but got {size}; enlarge it.")

    def __len__(self) -> int:
        return len(self.originals)

    def __getitem__(self, rows: np.ndarray) -> "StreamedImages":
        """The images at `rows` (n,), in that order, without decoding them."""
        return replace(self, rows=self.originals[rows])

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, side, side, C) of the canvases."""
        side = max(self.canvas, self.image_size)
        return len(self), side, side, self.channels

    def resized(self, size: int) -> "StreamedImages":
        """The same images for encoders whose input is size x size."""
        return replace(self, image_size=size, fit=None, floats=False)

    def prepared(self, preprocessing: Preprocessing) -> "StreamedImages":
        """The same images, each fitted by `preprocessing` when it is decoded.

        Raises:
            UsageError: If the fitted image has another shape or type than `Preprocessing` promises.
        """
        blank = Image.new("RGB" if self.channels == 3 else "L", (preprocessing.size, preprocessing.size))
        sample = preprocessing.fitted(blank)
        if self.channels not in (1, 3) and sample.shape[2] != 1:
            problem = f"makes {sample.shape[2]} channels of each of the {self.channels} channels"
            raise UsageError(f"{self.name}: the transform {problem}; let it return one for a grey image.")
        return replace(
            self,
            image_size=preprocessing.size,
            channels=self.channels if self.channels not in (1, 3) else sample.shape[2],
            statistics=(preprocessing.mean, preprocessing.std),
            fit=preprocessing.fit,
            floats=sample.dtype == np.float32,
        )

    def joined(self, other: "StreamedImages") -> "StreamedImages":
        """These images, then those of `other`, which has the same canvas, size and channels."""
        parts = [(each, row) for each in (self, other) for row in each.originals.tolist()]

        def read(row: int) -> Opened:
            images, original = parts[row]
            return images.read(original)

        keys = [images.keys[row] for images, row in parts]
        return replace(self, read=read, keys=keys, rows=None, alike=None)

    def canvases(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The canvases of the images at `rows` (n,): (n, side, side, C) uint8, and their sizes (n, 2) int64.

        A size is the height and width of the original: crops are drawn in its geometry and mapped onto the
        canvas. Resizing is bilinear and antialiased. A large JPEG is decoded at a fraction of its size.

        Raises:
            UsageError: If the images become float32 by a transform, which views cannot repeat.
        """
        if self.floats:
            raise UsageError(f"{self.name}: {NO_FLOATS}.")
        _, side, _, channels = self.shape
        images = np.empty((len(rows), side, side, channels), np.uint8)
        sizes = np.empty((len(rows), 2), np.int64)
        self._fill([images, sizes], rows, lambda image: squash(image, side, channels, self.window))
        return images, sizes

    def centres(self, rows: np.ndarray) -> np.ndarray:
        """The centres of the images at `rows` (n,) as (n, image_size, image_size, C) uint8.

        The shorter side is resized to round(image_size 256 / 224), bilinear and antialiased. With `fit`, each
        upright image of eight bits goes through it at its own size instead; float32 if `floats`.
        """
        size, channels, fit = self.image_size, self.channels, self.fit
        images = np.empty((len(rows), size, size, channels), np.float32 if self.floats else np.uint8)

        def square(image: Opened) -> tuple[np.ndarray]:
            if fit is None:
                return (centre(image, size, channels, self.window),)
            return (np.concatenate([fit(band) for band in bands(image, channels, self.window)], axis=2),)

        self._fill([images], rows, square)
        return images

    def checksum(self) -> int:
        """CRC-32 of the number of images and their keys, in order; it reads no file."""
        checksum = zlib.crc32(str(len(self)).encode())
        for rows in np.array_split(self.originals, -(-len(self) // _AT_ONCE)):
            text = "".join(f"\n{self.keys[row]}" for row in rows.tolist())
            checksum = zlib.crc32(text.encode("utf-8", "surrogateescape"), checksum)
        return checksum

    @cached_property
    def originals(self) -> np.ndarray:
        """The rows of `keys` that the images are, (N,)."""
        return np.arange(len(self.keys)) if self.rows is None else self.rows

    def _fill(
        self, targets: list[np.ndarray], rows: np.ndarray, decode: Callable[[Opened], tuple[Any, ...]]
    ) -> None:
        """Decode the images at `rows` into the rows of `targets`; large images in threads."""

        def fill(number: int) -> None:
            for target, part in zip(targets, self._decoded(rows[number], decode), strict=True):
                target[number] = part

        if not len(rows):
            return
        started = perf_counter()
        fill(0)
        if perf_counter() - started < _SLOW:
            # Threads would wait for the interpreter's lock, which small images need most of the time.
            for number in range(1, len(rows)):
                fill(number)
            return
        with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes without the interpreter's lock
            list(pool.map(fill, range(1, len(rows))))

    def _decoded(self, row: int, decode: Callable[[Opened], tuple[Any, ...]]) -> tuple[Any, ...]:
        for original in self._candidates(row):
            try:
                opened = self.read(original)
                with naming(self.keys[original], self.name), closing(opened) as image:
                    return decode(image)
            except UNREADABLE as error:
                self.bad.note(self.keys[original], reason(error), self.name)
        key = self.keys[int(self.originals[row])]
        problem = f"neither {key} nor any image with its labels can be decoded"
        raise DataError(f"{self.name}: {problem}; remove or replace them.")

    def _candidates(self, row: int) -> Iterator[int]:
        """The image at `row`, and those that can replace it: the next images of the set with its labels."""
        original = int(self.originals[row])
        yield original
        same = np.ones(len(self), bool)
        if self.alike is not None:
            same = self.alike[self.originals] == self.alike[original]
        rows = np.flatnonzero(same)
        start = np.searchsorted(rows, row, "right")
        yield from self.originals[np.concatenate([rows[start:], rows[rows < row]])].tolist()


def photographs(
    root: Path,
    keys: Sequence[str],
    canvas: int,
    image_size: int | None,
    name: str,
    statistics: Statistics | None = IMAGENET_STATISTICS,
) -> StreamedImages:
    """The image files `keys` below `root`, with ImageNet's statistics; the default size is 224."""
    size = image_size or IMAGE_SIZE
    return StreamedImages(
        lambda row: open_image(root / keys[row]), keys, canvas, size, name=name, statistics=statistics
    )
