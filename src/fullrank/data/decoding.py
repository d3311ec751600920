"""Decode one image: make it upright with eight bits, and fit it to a square."""

import io
import re
import struct
from collections.abc import Iterable

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from fullrank.data.depth import SIXTEEN, PixelError, Window
from fullrank.data.opening import Opened
from fullrank.errors import count_of

GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F")
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, MemoryError),
    *(struct.error, Image.DecompressionBombError),
)
"""The errors that Pillow raises for a file that it cannot decode."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> the operation that undoes it
_SIDEWAYS = (5, 6, 7, 8)  # the orientations that exchange height and width
_RESIZED_TO_CROP = 256 / 224
_LONGEST = 64  # times the square's side: of a longer image only the part that is kept is resized
# A file is damaged or a decompression bomb if its header claims more pixels than this, both in total and for
# each byte of the file. Deflate reaches at most 8256 pixels of one bit for each byte.
_MANY_PIXELS, _PIXELS_A_BYTE = 2**22, 10_000


def to_eight_bit(image: Image.Image, window: Window = SIXTEEN) -> Image.Image:
    """A grey image as mode L, any other as RGB, on white.

    Colour profiles (ICC) are not applied: colours are taken as sRGB.

    Args:
        image: An image of any mode.
        window: How pixels of more than eight bits become eight bits.

    Raises:
        PixelError: If the window does not hold the pixels.
    """
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if image.mode[0] in "IF":
        return Image.fromarray(window.eight_bit(np.asarray(image)))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert(mode)
    return image.convert(mode)


def bands(opened: Opened, channels: int, window: Window = SIXTEEN) -> list[Image.Image]:
    """An opened image with its EXIF orientation applied and eight bits.

    Args:
        opened: The image.
        channels: The channels of the set.
        window: How pixels of more than eight bits become eight bits.

    Returns:
        One image of mode L for 1 channel, one of mode RGB for 3, else one of mode L for each channel.

    Raises:
        PixelError: If the image has other channels, or the window does not hold its pixels.
    """
    if isinstance(opened, np.ndarray):
        pixels = opened if opened.dtype == np.uint8 else window.eight_bit(opened)
        if pixels.shape[2] == channels and channels not in (1, 3):
            return [Image.fromarray(np.ascontiguousarray(pixels[..., band])) for band in range(channels)]
        _check_channels(pixels.shape[2], channels)
        return [_eight_bit(to_image(np.ascontiguousarray(pixels)), channels, window)]
    _check_claim(opened)
    ImageOps.exif_transpose(opened, in_place=True)
    return [_eight_bit(opened, channels, window)]


def joined(images: Iterable[Image.Image]) -> np.ndarray:
    """The bands of an image as (H, W, C) uint8."""
    return np.concatenate([to_array(image) for image in images], axis=2)


def fit_square(
    image: Image.Image, size: int, how: Image.Resampling = Image.Resampling.BILINEAR
) -> Image.Image:
    """The centre of an 8-bit image whose shorter side is resized to `size` (antialiased if bilinear)."""
    return ImageOps.fit(image, (size, size), how)


def squash(
    image: Opened, canvas: int, channels: int, window: Window = SIXTEEN
) -> tuple[np.ndarray, tuple[int, int]]:
    """A whole opened image resized to (canvas, canvas, C) uint8, and its original height and width."""
    if isinstance(image, np.ndarray):
        whole = bands(image, channels, window)
        resized = joined(band.resize((canvas, canvas), Image.Resampling.BILINEAR) for band in whole)
        return resized, (image.shape[0], image.shape[1])
    _check_claim(image)
    width, height = image.size
    drafted = image.draft(None, (canvas, canvas))  # a large JPEG at a half, a quarter or an eighth
    # A fraction of the size may not be whole; the box leaves out the excess of the last row and column.
    box = drafted[1] if drafted else None
    image.load()
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    flat = _eight_bit(image, channels, window).resize((canvas, canvas), Image.Resampling.BILINEAR, box)
    squashed = flat.transpose(_TURNS[orientation]) if orientation in _TURNS else flat
    return to_array(squashed), (width, height) if orientation in _SIDEWAYS else (height, width)


def centre(image: Opened, size: int, channels: int, window: Window = SIXTEEN) -> np.ndarray:
    """The centre (size, size, C) uint8 of an opened image with its shorter side at round(size 256 / 224)."""
    return joined(centre_of(band, size) for band in bands(image, channels, window))


def centre_of(full: Image.Image, size: int, how: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
    """The centre of an image of one or three channels, see `centre`."""
    # Sides and corners are rounded as in torchvision's Resize and CenterCrop, so that accuracies compare.
    shorter = round(size * _RESIZED_TO_CROP)
    width, height = (int(shorter * side / min(full.size)) for side in full.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    if max(width, height) > _LONGEST * size:
        # A line of 1 x 60000 pixels would become an image of 256 x 15 million.
        x, y = full.width / width, full.height / height
        box = (left * x, top * y, min((left + size) * x, full.width), min((top + size) * y, full.height))
        return full.resize((size, size), how, box)
    resized = full.resize((width, height), how)
    return resized.crop((left, top, left + size, top + size))


def to_array(image: Image.Image) -> np.ndarray:
    """A grey or RGB image as (H, W, C) uint8."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def to_image(array: np.ndarray) -> Image.Image:
    """(H, W, C) uint8 as a grey or RGB image."""
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def reason(error: Exception) -> str:
    """The reason in an error, to quote in our own sentence: its first sentence, one line, no full stop."""
    if isinstance(error, UnidentifiedImageError):
        return "no image inside"
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"(?<=[.!?]) ", text)[0].rstrip(".!?")


def _check_claim(image: Image.Image) -> None:
    """Raise DecompressionBombError if a file is too small for the pixels that its header claims."""
    file = getattr(image, "fp", None)
    pixels = image.width * image.height
    if file is None or pixels <= _MANY_PIXELS:
        return
    place = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(place)
    if pixels > _PIXELS_A_BYTE * size:
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels in {size} bytes")


def _check_channels(own: int, channels: int) -> None:
    if own not in (1, 3) or channels not in (1, 3):
        problem = f"has {count_of(own, 'channel')}, but the set has {channels}"
        raise PixelError(f"{problem}; keep images of one kind")


def _eight_bit(image: Image.Image, channels: int, window: Window) -> Image.Image:
    _check_channels(1 if image.mode in GREY_MODES else 3, channels)
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode and not image.has_transparency_data:
        return image  # `convert` would copy it
    return to_eight_bit(image, window).convert(mode)
