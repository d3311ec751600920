"""Look through the headers of image files: their channels, their bits, and what is left out."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fullrank.data.decoding import GREY_MODES
from fullrank.data.depth import Window, largest, naming, smallest_window
from fullrank.data.opening import Opened, closing
from fullrank.data.selection import generator
from fullrank.errors import DataError, FullrankWarning, count_of

_SAMPLE = 100  # images


@dataclass(frozen=True, slots=True)
class Header:
    """The properties of an image that are known before any pixel is decoded.

    Args:
        size: Width and height in pixels.
        channels: 1 for grey, 3 for colour, or the number of channels of an array.
        deep: The pixels have more than eight bits.
        frames: There are several frames or pages.
    """

    size: tuple[int, int]
    channels: int
    deep: bool = False
    frames: bool = False


@dataclass(frozen=True)
class Survey:
    """What the images of a set have in common: their channels, and how their pixels become eight bits."""

    channels: int
    window: Window | None


def survey(
    headers: Mapping[str, Header], read: Callable[[str], Opened], given: Window | None, source: str
) -> Survey:
    """Look through the images of a set, and say once what was found or is left out.

    Args:
        headers: Name -> header of all images, or of a sample; at least one.
        read: Opens the image of a name.
        given: The window that the user gave.
        source: The name of the source, for messages.

    Raises:
        DataError: If the images have unlike channel counts, or pixels that no bits hold.
    """
    several = [name for name, header in headers.items() if header.frames]
    if several:
        which = f"{len(several)} of {count_of(len(headers), 'image')} have several frames or pages"
        message = f"{source}: {which}, such as {several[0]}; only the first of each is read."
        warnings.warn(message, FullrankWarning, stacklevel=2)
    return Survey(shared_channels(headers, source), window_of(headers, read, given, source))


def header_of(opened: Opened) -> Header:
    """The header of an opened image.

    >>> header_of(np.zeros((6, 8, 1), np.uint16))
    Header(size=(8, 6), channels=1, deep=True, frames=False)
    """
    if isinstance(opened, np.ndarray):
        height, width, channels = opened.shape
        return Header((width, height), channels, opened.dtype not in (np.uint8, np.bool_))
    several = opened.format != "MPO" and getattr(opened, "is_animated", False)
    grey = opened.mode in GREY_MODES
    return Header(opened.size, 1 if grey else 3, opened.mode[0] in "IF", several)


def sampled(names: list[str]) -> list[str]:
    """At most 100 of the names, always the same, in their order."""
    rows = generator(0).permutation(len(names))[:_SAMPLE]
    return [names[row] for row in np.sort(rows)]


def shared_channels(headers: Mapping[str, Header], source: str) -> int:
    """The channels of a set: 1 if all images are grey, 3 for grey and colour, or the number that all have.

    Raises:
        DataError: If the images have other channel counts, and not all the same.
    """
    first: dict[int, str] = {}
    for name, header in headers.items():
        first.setdefault(header.channels, name)
    if set(first) <= {1, 3}:
        return max(first)
    if len(first) == 1:
        return next(iter(first))
    channels = [header.channels for header in headers.values()]
    each = ", ".join(
        f"{count_of(channels.count(number), 'image')} of {count_of(number, 'channel')} (the first is {name})"
        for number, name in sorted(first.items())
    )
    raise DataError(f"{source} has {each}; keep images of one kind, or write a folder for each.")


def window_of(
    headers: Mapping[str, Header], read: Callable[[str], Opened], given: Window | None, source: str
) -> Window | None:
    """How the pixels of a set become eight bits, found from a sample unless it is given.

    What was found is said once, as a warning.

    Args:
        headers: Name -> header of all images, or of a sample.
        read: Opens the image of a name.
        given: The window that the user gave.
        source: The name of the source, for messages.

    Returns:
        The window; None if all these images have eight bits.

    Raises:
        DataError: If a sampled image has pixels that are not whole numbers of 0 to 65535.
    """
    deep = sampled([name for name, header in headers.items() if header.deep])
    if given is not None or not deep:
        return given
    highest = 0
    for name in deep:
        with closing(read(name)) as opened, naming(name, source):
            highest = max(highest, largest(np.asarray(opened)))
    return found_window(highest, len(deep), source)


def found_window(highest: int, count: int, source: str) -> Window:
    """The window of the fewest bits that hold `highest`, the largest value in `count` images; says so."""
    window = smallest_window(highest, count)
    found = f"the largest value in {count_of(count, 'image')} of more than 8 bits is {highest}"
    message = f"{source}: {found}, so {window.bits} bits are read ({window}); bits= says otherwise."
    warnings.warn(message, FullrankWarning, stacklevel=2)
    return window
