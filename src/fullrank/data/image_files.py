"""List the folders and the image files in a folder. Torch-free."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from fullrank.errors import DataError

FORMATS = ("png", "jpg", "jpeg", "bmp", "webp", "tif", "tiff", "gif", "ppm", "pgm")
_ENDINGS = tuple(f".{ending}" for ending in FORMATS)
_PHOTOGRAPHS = (".jpeg", ".jpg", ".png")


def list_folders(folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted, without hidden ones; empty if `folder` is missing."""
    return _list(folder, lambda entry: entry.is_dir())


def list_photographs(folder: Path) -> list[str]:
    """The names of the JPEG and PNG files in `folder`, as `list_folders` lists folders."""
    return _list(folder, lambda entry: entry.name.lower().endswith(_PHOTOGRAPHS) and not entry.is_dir())


def _list(folder: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and wanted(entry))


def image_tree(root: Path, folder: str = "") -> list[str]:
    """All image files at any depth below `root`/`folder`, relative to `root`, in the order of their paths.

    Hidden files and folders are left out. A link to a folder above is not followed.

    Args:
        root: The folder to which the paths are relative.
        folder: The folder below `root` to search; the default is `root` itself.

    Raises:
        DataError: If a folder cannot be listed, or there is no image.
    """
    top = root / folder
    try:
        names = list(_walk(top, folder, ()))
    except OSError as error:
        raise DataError(f"{top} cannot be listed ({error}); check its permissions.") from error
    if not names:
        raise DataError(f"{top} has no image ({', '.join(FORMATS)}); check the path.")
    return sorted(names, key=path_order)


def path_order(name: str) -> str:
    """A key that sorts paths folder by folder."""
    return name.replace("/", "\0")


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
            elif entry.name.lower().endswith(_ENDINGS):
                yield below
