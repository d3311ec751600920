"""Folders of image files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar, final

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from fullrank.data.decoding import GREY_MODES, UNREADABLE, fit_square, reason, to_array, upright
from fullrank.data.image_set import UNLABELLED, ImageSet
from fullrank.data.selection import fixed_split
from fullrank.data.sources import SPLITS, Source, Split, check_folder
from fullrank.data.streamed import CANVAS, IMAGE_SIZE, StreamedImages
from fullrank.errors import DataError, UsageError
from fullrank.specs import Spec, expanded

MEMORY_LIMIT_GIB = 8
_FORMATS = ("png", "jpg", "jpeg", "bmp", "webp", "tif", "tiff", "gif", "ppm", "pgm")
_TEST_FOLDERS = ("test", "val", "valid")
_PROGRESS_FROM = 1000  # images; fewer are read before a bar can be looked at

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Listed:
    """An image file, and the folder that is its class, None where it has none."""

    path: Path
    class_name: str | None


@dataclass(frozen=True)
class Header:
    """What a file says of its image before any pixel is decoded."""

    size: tuple[int, int]
    grey: bool


@final
class ImageFolder(Source):
    """Image files at any depth below `path`, decoded into memory, or when asked for if `canvas` is given.

    Splits are the folders `train` and `test` (or `val`, or `valid`) where `path` has both, otherwise 80 % and
    20 %, stratified and always the same. The class is the first folder below the split's own; files directly
    in that are unlabelled. Hidden files and folders are left out, and what no ending names as an image.

    Images stay grey if all are, in both splits. Transparency is laid on white, 16-bit grey scaled from 0 to
    65535, only the first frame taken, the EXIF orientation applied. Streamed images, those with a `canvas`,
    may be of any size, are RGB, and no file is opened before it is needed.

    Raises DataError for a folder that is missing or without images, for files that cannot be decoded, and
    above 8 GiB of pixels; UsageError where the images are not all of one square size and none is asked for.

    >>> ImageFolder("no/such/folder").load("train")
    Traceback (most recent call last):
    ...
    fullrank.errors.DataError: There is no no/such/folder; check the path in folder:no/such/folder.
    """

    def __init__(self, path: str, canvas: int | None = None):
        super().__init__(str(Spec("folder", path, () if canvas is None else (("canvas", canvas),))))
        self.path, self.canvas = expanded(path), canvas

    def _read(self, split: Split, image_size: int | None) -> ImageSet:
        paths = [file.path for file in self._files[split]]
        if self.canvas is None:
            images: np.ndarray | StreamedImages = self._decoded(paths, image_size)
        else:
            images = self._streamed(paths, self.canvas, image_size or IMAGE_SIZE)
        classes = sorted({f.class_name for files in self._files.values() for f in files if f.class_name})
        rows = {name: row for row, name in enumerate(classes)}
        labels = np.array(
            [rows.get(file.class_name or "", UNLABELLED) for file in self._files[split]], np.int64
        )
        return ImageSet(images, {"label": labels}, {"label": tuple(classes)}, self.name, split)

    def _streamed(self, paths: Sequence[Path], canvas: int, image_size: int) -> StreamedImages:
        keys = [path.relative_to(self.path).as_posix() for path in paths]
        return StreamedImages(lambda row: Image.open(paths[row]), keys, canvas, image_size, name=self.name)

    def _decoded(self, paths: Sequence[Path], image_size: int | None) -> np.ndarray:
        headers = [header for header in self._headers.values() if isinstance(header, Header)]
        if not headers:
            raise self._unreadable(self._headers)
        grey = all(header.grey for header in headers)
        size = image_size or self._shared_size(headers)
        images = self._empty(len(paths), size, 1 if grey else 3)

        def decode(row: int) -> None:
            images[row] = read_image(paths[row], size, grey)

        results = dict(zip(paths, _attempt(decode, range(len(paths)), f"Reading {self.path}"), strict=True))
        if any(results.values()):
            raise self._unreadable(results)
        return images

    @cached_property
    def _files(self) -> dict[Split, list[Listed]]:
        check_folder(self.path, self.name)
        test = next((self.path / name for name in _TEST_FOLDERS if (self.path / name).is_dir()), None)
        if test and (self.path / "train").is_dir():
            return {"train": _list_images(self.path / "train"), "test": _list_images(test)}
        files = _list_images(self.path)
        names = np.array([file.class_name or "" for file in files])
        return {split: [files[row] for row in fixed_split(names, split, self.name)] for split in SPLITS}

    @cached_property
    def _headers(self) -> dict[Path, Header | Exception]:
        """Of every file in both splits, what its header says, or why it cannot be read."""
        paths = [file.path for files in self._files.values() for file in files]
        return dict(zip(paths, _attempt(read_header, paths, f"Looking through {self.path}"), strict=True))

    def _shared_size(self, headers: Sequence[Header]) -> int:
        sizes = sorted({header.size for header in headers})
        (width, height), last = sizes[0], sizes[-1]
        if len(sizes) > 1:
            raise UsageError(
                f"{self.name} has images of {len(sizes)} sizes, from {width} x {height} to {last[0]} x "
                f"{last[1]}; give one with --image-size."
            )
        if width != height:
            raise UsageError(
                f"{self.name} has images of {width} x {height} pixels, which is not square; give "
                "--image-size."
            )
        return width

    def _empty(self, count: int, size: int, channels: int) -> np.ndarray:
        gib = count * size * size * channels / 2**30
        if gib > MEMORY_LIMIT_GIB:
            raise DataError(
                f"{self.name} needs {gib:.1f} GiB for {count} images of {size} x {size} x {channels}, but "
                f"the limit is {MEMORY_LIMIT_GIB} GiB; write {self.name},canvas={CANVAS} to decode them when "
                "they are needed, or give a smaller --image-size."
            )
        return np.empty((count, size, size, channels), np.uint8)

    def _unreadable(self, results: Mapping[Path, object]) -> DataError:
        failures = {path: error for path, error in results.items() if isinstance(error, Exception)}
        path, error = next(iter(failures.items()))
        return DataError(
            f"{self.name}: {len(failures)} of {len(results)} images cannot be read, the first is "
            f"{path.relative_to(self.path)} ({reason(error)}); remove or replace them."
        )


def read_header(path: Path) -> Header:
    """The size and greyness of an image file; raises what Pillow raises."""
    with Image.open(path) as image:
        return Header(image.size, image.mode in GREY_MODES)


def read_image(path: Path, size: int, grey: bool) -> np.ndarray:
    """The centre square of an image file as uint8 (size, size, 1) if `grey`, else (size, size, 3).

    Raises what Pillow raises, and ValueError for pixels without a known range.
    """
    with Image.open(path) as image:
        return to_array(fit_square(upright(image, grey), size))


def _list_images(root: Path) -> list[Listed]:
    try:
        files = list(_walk(root, ()))
    except OSError as error:
        raise DataError(f"{root} cannot be listed ({error}); check its permissions.") from error
    if not files:
        raise DataError(f"{root} holds no image ({', '.join(_FORMATS)}); check the path.")
    parts = [path.relative_to(root).parts for path in files]
    return [Listed(path, p[0] if len(p) > 1 else None) for path, p in zip(files, parts, strict=True)]


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Image files below `folder`, by name; a link back to a folder `above` is not followed."""
    here = folder.resolve()
    if here in above:
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, (*above, here))
        elif path.suffix[1:].lower() in _FORMATS:
            yield path


def _attempt(
    function: Callable[[Item], Result], items: Sequence[Item], title: str
) -> list[Result | Exception]:
    """`function` of each item, in threads; where Pillow fails, the error takes the result's place."""

    def attempt(item: Item) -> Result | Exception:
        try:
            return function(item)
        except UNREADABLE as error:
            return error

    console = Console(stderr=True)
    silent = len(items) < _PROGRESS_FROM or not console.is_terminal
    with ThreadPoolExecutor() as pool, Progress(console=console, transient=True, disable=silent) as progress:
        return list(progress.track(pool.map(attempt, items), total=len(items), description=title))
