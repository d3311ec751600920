"""How pixels of more than eight bits become eight bits."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from fullrank.errors import DataError, UsageError

DEPTHS = (8, 10, 12, 14, 16)
_WINDOW = "give low= and high=, the values that become black and white"


class PixelError(Exception):
    """Pixels that a set cannot hold. The text follows the name of the file."""


@contextmanager
def naming(image: str, source: str) -> Iterator[None]:
    """A PixelError in the block becomes a DataError that names the image and its source."""
    try:
        yield
    except PixelError as error:
        raise DataError(f"{source}: {image} {error}.") from None


@dataclass(frozen=True)
class Window:
    """The values that become 0 and 255; those between them are mapped linearly and rounded.

        pixel = round(255 (value - low) / (high - low))

    Args:
        low: The value that becomes 0.
        high: The value that becomes 255.
        bits: The bits of whole numbers, if `high` is their largest value; a larger value is then an error.
            None for limits that a user chose; values outside are then cut to them.
        sampled: The number of images from which the bits were found, or 0 if they were given.

    >>> Window(0, 4095, bits=12).eight_bit(np.array([0, 2048, 4095], np.uint16))
    array([  0, 128, 255], dtype=uint8)
    >>> Window(-1000, 1000).eight_bit(np.array([-3000, 0, 1000], np.int16))
    array([  0, 128, 255], dtype=uint8)
    """

    low: float = 0
    high: float = 65535
    bits: int | None = None
    sampled: int = 0

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g} become 0 to 255"

    @property
    def settings(self) -> dict[str, Any]:
        """The window for a record."""
        return {"low": self.low, "high": self.high, "bits": self.bits, "sampled": self.sampled}

    def eight_bit(self, values: np.ndarray) -> np.ndarray:
        """Pixels of any whole or floating type as uint8, in the same shape; True becomes 255.

        Raises:
            PixelError: If a value is NaN, or if `bits` are given and a value needs more or is negative.
        """
        if values.dtype == np.bool_:
            return values.astype(np.uint8) * np.uint8(255)
        if self.bits is None:
            if values.dtype.kind == "f" and np.isnan(values).any():
                raise PixelError("has pixels that are NaN; replace them")
            values = values.clip(self.low, self.high)
        elif (highest := largest(values)) > self.high:
            bits = next(bits for bits in DEPTHS if highest < 2**bits)
            problem = f"has the value {highest}, but {self.bits} bits end at {self.high:g}"
            raise PixelError(f"{problem}; give bits={bits}")
        scale = (self.high - self.low) / 255
        return np.rint((values.astype(np.float64) - self.low) / scale).astype(np.uint8)


EIGHT, SIXTEEN = Window(0, 255, bits=8), Window(bits=16)


def largest(values: np.ndarray) -> int:
    """The largest of the pixels.

    Raises:
        PixelError: If they are not whole numbers of 0 to 65535.
    """
    if values.dtype.kind not in "uib":
        raise PixelError(f"has pixels of {values.dtype}, whose range is not known; {_WINDOW}")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > SIXTEEN.high:
        raise PixelError(f"has values from {low} to {high}, which are not 16 bits; {_WINDOW}")
    return high


def smallest_window(highest: int, sampled: int) -> Window:
    """The window of the fewest bits that hold `highest`, the largest value of `sampled` images.

    >>> smallest_window(700, sampled=10)
    Window(low=0, high=1023, bits=10, sampled=10)
    """
    bits = next(bits for bits in DEPTHS if highest < 2**bits)
    return Window(0, 2**bits - 1, bits, sampled)


def window_option(bits: int | None, low: float | None, high: float | None) -> Window | None:
    """The window that the options of a source name; None if they name none.

    Raises:
        UsageError: If the options exclude each other, one is missing, or one is outside its limits.
    """
    if bits is None and low is None and high is None:
        return None
    if bits is not None:
        if low is not None or high is not None:
            raise UsageError(f"bits={bits} and low= or high= exclude each other; give bits or a window.")
        if not 1 <= bits <= 16:
            raise UsageError(f"bits={bits} is outside 1 to 16; give low= and high= for other pixels.")
        return Window(0, 2**bits - 1, bits)
    if low is None or high is None:
        only = f"low={low:g}" if high is None else f"high={high:g}"
        raise UsageError(f"{only} is half of a window; give low= and high=.")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"A window from low={low:g} to high={high:g} is empty; give low below high.")
    return Window(low, high)
