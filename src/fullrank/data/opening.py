"""Open an image file, also those that Pillow reads with fewer bits or channels."""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from fullrank.errors import UsageError

Opened = Image.Image | np.ndarray
"""A Pillow image that is not decoded yet, or pixels (H, W, C) of any type, upright."""

_BITS, _SAMPLES, _PLANES = 258, 277, 284  # tags of TIFF
_APART = 2  # of _PLANES: each colour stands alone
# NumPy parses the header of a file as Python, which can fail in CPython 3.11 where two threads do it at once.
_ONE_HEADER = Lock()


def closing(opened: Opened) -> AbstractContextManager[Opened]:
    """The opened image, whose file is closed after the block."""
    return nullcontext(opened) if isinstance(opened, np.ndarray) else opened


def open_image(path: Path) -> Opened:
    """Open an image file.

    Pillow opens most files, and NumPy reads `.npy`. Tifffile reads TIFF with channels that are neither colour
    nor transparency, and TIFF of 16 bits whose colours are stored apart.

    Raises:
        UsageError: If the file needs tifffile, which is not installed.
    """
    if path.suffix.lower() == ".npy":
        with _ONE_HEADER:
            return _channels_last(np.load(path, mmap_mode="r", allow_pickle=False))
    try:
        image = Image.open(path)
    except UnidentifiedImageError:
        if path.suffix.lower() not in (".tif", ".tiff"):
            raise
        return _tiff(path)
    raw = {_raw_mode(tile.args) for tile in image.tile}
    if image.format == "TIFF" and _needs_tifffile(image, raw):
        with image:
            return _turned(_tiff(path), image)
    if image.mode in ("RGB", "RGBA", "LA") and any(";16" in mode for mode in raw):
        with image:
            return _turned(_deep(image, path), image)
    return image


def _raw_mode(arguments: object) -> str:
    """How the pixels of a tile are stored, as Pillow names it, such as RGB;16B."""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _needs_tifffile(image: Image.Image, raw: set[str]) -> bool:
    """Whether Pillow would leave out channels of a TIFF, or take parts of its values for whole ones."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    several = tags.get(_SAMPLES, 1) > 1
    apart = several and tags.get(_PLANES) == _APART and max(tags.get(_BITS, (1,))) > 8
    return apart or tags.get(_SAMPLES, 1) > 4 or (image.mode != "CMYK" and any("X" in mode for mode in raw))


def _channels_last(array: np.ndarray) -> np.ndarray:
    """Pixels (H, W), (H, W, C) or (C, H, W) as (H, W, C).

    The channels come first if the other two axes are equal, or if the first axis is the shortest.
    """
    if array.ndim == 2:
        return array[..., None]
    if array.ndim != 3 or not array.size or array.dtype.kind not in "uifb":
        shapes = "numbers (H, W), (H, W, C) or (C, H, W)"
        raise ValueError(f"it holds {array.dtype} of shape {array.shape}, not {shapes}")
    first, middle, last = array.shape
    if first != middle and (middle == last or first < min(middle, last)):
        return np.moveaxis(array, 0, 2)
    return array


def _deep(image: Image.Image, path: Path) -> np.ndarray:
    """Colours of 16 bits. Pillow keeps the high byte, or the low one if it takes the bytes in other order."""
    high = np.asarray(image).astype(np.uint16) << 8
    with Image.open(path) as other:
        other.tile = [tile._replace(args=_swapped(tile.args)) for tile in other.tile]
        pixels: np.ndarray = high | np.asarray(other)
    return pixels if pixels.shape[2] == 3 else _opaque(pixels)


def _swapped(arguments: Any) -> Any:
    """The arguments of a tile with its two bytes in other order; N is the order of this machine."""
    raw = _raw_mode(arguments)
    last = "B" if raw[-1] == "L" or (raw[-1] == "N" and sys.byteorder == "little") else "L"
    return (raw[:-1] + last, *arguments[1:]) if isinstance(arguments, tuple) else raw[:-1] + last


def _tiff(path: Path) -> np.ndarray:
    try:
        from tifffile import TiffFile
    except ImportError as error:
        install = "pip install 'fullrank[tiff]'"
        raise UsageError(f"{path} has channels or bits that only tifffile reads; {install}.") from error
    with TiffFile(path) as file:
        page = file.pages.first
        array = np.asarray(page.asarray())
        if page.axes not in ("YX", "YXS", "SYX"):
            raise ValueError(f"its axes are {page.axes}, not height, width and channels")
        array = np.moveaxis(array, 0, 2) if page.axes == "SYX" else array.reshape(*array.shape[:2], -1)
        transparent = array.shape[2] in (2, 4) and page.extrasamples in ((1,), (2,))
    return _opaque(array) if transparent else array


def _opaque(array: np.ndarray) -> np.ndarray:
    """Pixels without their last channel, the opacity, which must be full."""
    if (array[..., -1] != np.iinfo(array.dtype).max).any():
        raise ValueError("it has 16 bits and transparency; lay it on a background, or save it with 8 bits")
    return array[..., :-1]


def _turned(array: np.ndarray, image: Image.Image) -> np.ndarray:
    """Pixels as the EXIF orientation of the file says."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation >= 5:
        array = array.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array[:, ::-1] if orientation in (2, 3, 6, 7) else array
