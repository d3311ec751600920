"""List the folders and the image files in a folder. Torch-free."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath

from fullrank.errors import DataError
from fullrank.files import printable

# Pillow only recognises these, or starts other programs to read them.
_NOT_DECODED = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
ARRAYS = (".npy",)
_OF_THE_SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")


@cache
def endings() -> tuple[str, ...]:
    """The endings of the image files that Pillow decodes, in small letters, such as `.png`."""
    from PIL import Image

    known = Image.registered_extensions().items()
    return tuple(sorted(ending for ending, kind in known if kind in Image.OPEN and kind not in _NOT_DECODED))


def list_folders(folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted, without hidden ones; empty if `folder` is missing."""
    return _list(folder, lambda entry: entry.is_dir())


def list_photographs(folder: Path) -> list[str]:
    """The names of the image files in `folder`, as `list_folders` lists folders."""
    return _list(folder, lambda entry: entry.name.lower().endswith(endings()) and not entry.is_dir())


def _list(folder: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and wanted(entry))


def image_tree(root: Path) -> tuple[list[str], list[str]]:
    """All image files at any depth below `root`, and all other files, relative to `root`.

    Both are in the order of their paths. Hidden files and folders are left out, and so are files in which
    systems keep thumbnails. Arrays (`.npy`) are images if there are no others. A link to a folder above is
    not followed.

    Args:
        root: The folder to search.

    Raises:
        DataError: If a folder cannot be listed, or there is no image.
    """
    try:
        names = sorted(_walk(root, "", ()), key=lambda name: name.replace("/", "\0"))  # folder by folder
    except OSError as error:
        raise DataError(f"{root} cannot be listed ({error}); check its permissions.") from error
    readable = endings() if any(name.lower().endswith(endings()) for name in names) else ARRAYS
    images = [name for name in names if name.lower().endswith(readable)]
    others = [name for name in names if not name.lower().endswith(readable)]
    if not images:
        held = f", but files that end in {', '.join([*ending_counts(others)][:6])}" if others else ""
        raise DataError(f"{root} has no image that can be read (png, jpg, tiff, ...){held}; check the path.")
    return images, others


def ending_counts(names: Iterable[str]) -> dict[str, int]:
    """Ending -> number of files, the most frequent first.

    >>> ending_counts(["a/1.txt", "b.csv", "a/2.TXT", "README"])
    {'.txt': 2, '.csv': 1, 'no ending': 1}
    """
    suffixes = (PurePosixPath(name).suffix.lower() for name in names)
    return dict(Counter(printable(suffix) or "no ending" for suffix in suffixes).most_common())


def _walk(folder: Path, name: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    status = folder.stat()
    here = status.st_dev, status.st_ino
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            below = f"{name}/{entry.name}" if name else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(folder / entry.name, below, (*above, here))
            elif entry.name.lower() not in _OF_THE_SYSTEM:
                yield below
