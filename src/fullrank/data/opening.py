"""Open an image file, also those that Pillow reads with fewer bits or channels."""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from fullrank.errors import UsageError

Opened = Image.Image | np.ndarray
"""A Pillow image that is not decoded yet, or pixels (H, W, C) of any type, upright."""

_SAMPLES_PER_PIXEL = 277  # a tag of TIFF


def open_image(path: Path) -> Opened:
    """Open an image file.

    Pillow opens most files. NumPy reads `.npy`, and torchvision reads PNG of 16 bits in colour. Tifffile
    reads TIFF of 16 bits in colour, or with channels that are neither colour nor transparency.

    Raises:
        UsageError: If the file needs tifffile, which is not installed.
    """
    if path.suffix.lower() == ".npy":
        return _channels_last(np.load(path, mmap_mode="r", allow_pickle=False))
    try:
        image = Image.open(path)
    except UnidentifiedImageError:
        if path.suffix.lower() not in (".tif", ".tiff"):
            raise
        return _tiff(path)
    raw = _raw_mode(image)
    if image.format == "PNG" and ";16" in raw and image.mode in ("RGB", "RGBA", "LA"):
        with image:
            return _turned(_deep_png(path), image)
    if image.format == "TIFF" and image.mode != "CMYK":
        samples = image.tag_v2.get(_SAMPLES_PER_PIXEL, 1)  # type: ignore[attr-defined]
        if samples > 4 or "X" in raw or (samples > 1 and ";16" in raw):
            with image:
                return _turned(_tiff(path), image)
    return image


def _raw_mode(image: Image.Image) -> str:
    """How the pixels are stored in the file, as Pillow names it, such as RGB;16B."""
    if not image.tile:
        return ""
    arguments = image.tile[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


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


def _deep_png(path: Path) -> np.ndarray:
    import torch
    from torchvision.io import ImageReadMode, decode_png, read_file

    pixels = decode_png(read_file(str(path)), ImageReadMode.UNCHANGED)
    array: np.ndarray = pixels.to(torch.int32).numpy().astype(np.uint16).transpose(1, 2, 0)
    return array if array.shape[2] == 3 else _opaque(array)


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
