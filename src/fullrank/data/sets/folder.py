"""Folders of image files."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar, final

import numpy as np
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from fullrank.data.decoding import GREY_MODES, UNREADABLE, fit_square, reason, to_array, upright
from fullrank.data.image_set import UNLABELLED, ImageSet
from fullrank.data.listings import Listings, Names, Piece
from fullrank.data.selection import fixed_split
from fullrank.data.sources import SPLITS, Source, Split, check_folder
from fullrank.data.streaming import CANVAS, IMAGE_SIZE, StreamedImages
from fullrank.data.undecodable import BadImages
from fullrank.errors import DataError, UsageError
from fullrank.files import expanded
from fullrank.specs import Spec

MEMORY_LIMIT_GIB = 8
_TEST_FOLDERS = ("test", "val", "valid")
_PROGRESS_FROM = 1000  # images; fewer are read before a bar can be looked at

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Files:
    """Image files by name, and the class of each: the folder that it lies in.

    The i-th of the names is of the class `class_names[class_of[i]]`, which is "" where it has none.
    """

    names: Names
    class_of: np.ndarray
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, pieces: Sequence[Piece], split: str) -> "Files":
        """All files of a walk through the folder `split`; the first folder below that is the class."""
        names = Names(pieces)
        depth = 1 if split else 0
        classes = [next(iter(folder.split("/")[depth:]), "") for folder in names.folders]
        class_names, code = np.unique(np.array(classes, object), return_inverse=True)
        return cls(names, np.repeat(code, names.counts), tuple(class_names.tolist()))

    def at(self, rows: np.ndarray) -> "Files":
        """Those at `rows`."""
        return replace(self, names=self.names.at(rows), class_of=self.class_of[rows])


@dataclass(frozen=True, slots=True)
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
    may be of any size, are RGB, and no file is opened before it is needed. What a large folder holds is kept
    in the user's cache folder (see `Listings`).

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

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`."""
        return self.read_despite(split, image_size, BadImages())

    def read_despite(self, split: Split, image_size: int | None, bad: BadImages) -> ImageSet:
        """Read the images of `split` but those that cannot be decoded, as many as `bad` allows."""
        files = self._files[split]
        if self.canvas is not None:
            images = self._streamed(files, self.canvas, image_size or IMAGE_SIZE)
            return self._labelled(images, files, split)
        decoded, failed = self._decoded(files, image_size)
        if len(failed) == len(files.names) or (failed and not bad.most):
            raise self._unreadable(failed, len(files.names))
        for image, error in failed.items():
            bad.note(image, reason(error), self.name)
        whole = self._labelled(decoded, files, split)
        kept = [row for row, name in enumerate(files.names) if name not in failed] if failed else []
        return whole.subset(np.array(kept)) if failed else whole

    def _labelled(self, images: np.ndarray | StreamedImages, files: Files, split: Split) -> ImageSet:
        classes = sorted({name for each in self._files.values() for name in each.class_names if name})
        rows = {name: row for row, name in enumerate(classes)}
        codes = np.array([rows.get(name, UNLABELLED) for name in files.class_names], np.int64)
        labels = codes[files.class_of]
        return ImageSet(images, {"label": labels}, {"label": tuple(classes)}, self.name, split)

    def _streamed(self, files: Files, canvas: int, image_size: int) -> StreamedImages:
        names, root = files.names, self.path
        return StreamedImages(
            lambda row: Image.open(root / names[row]), names, canvas, image_size, name=self.name
        )

    def _decoded(self, files: Files, image_size: int | None) -> tuple[np.ndarray, dict[str, Exception]]:
        """The images, and of those that cannot be read, which stay empty, why."""
        headers = [header for each in self._headers.values() for header in each if isinstance(header, Header)]
        if not headers:
            found = {
                key: header
                for split, each in self._headers.items()
                for key, header in zip(self._files[split].names, each, strict=True)
                if isinstance(header, Exception)
            }
            raise self._unreadable(found, len(found))
        grey = all(header.grey for header in headers)
        size = image_size or self._shared_size(headers)
        images = self._empty(len(files.names), size, 1 if grey else 3)

        def decode(row: int) -> None:
            images[row] = read_image(self.path / files.names[row], size, grey)

        results = _attempt(decode, range(len(files.names)), f"Reading {self.path}")
        wrong = {row: error for row, error in enumerate(results) if isinstance(error, Exception)}
        return images, {files.names[row]: error for row, error in wrong.items()}

    @cached_property
    def _files(self) -> dict[Split, Files]:
        check_folder(self.path, self.name)
        listings = Listings(self.path)
        test = next((name for name in _TEST_FOLDERS if (self.path / name).is_dir()), None)
        if test and (self.path / "train").is_dir():
            found: dict[Split, Files] = {
                "train": Files.of(listings.walk("train"), "train"),
                "test": Files.of(listings.walk(test), test),
            }
        else:
            files = Files.of(listings.walk(), "")
            found = {split: files.at(fixed_split(files.class_of, split, self.name)) for split in SPLITS}
        listings.save()
        return found

    @cached_property
    def _headers(self) -> dict[Split, list[Header | Exception]]:
        """Of every file in both splits, what its header says, or why it cannot be read."""
        keys = [name for files in self._files.values() for name in files.names]
        found = _attempt(lambda key: read_header(self.path / key), keys, f"Looking through {self.path}")
        first = len(self._files["train"].names)
        return {"train": found[:first], "test": found[first:]}

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

    def _unreadable(self, failed: Mapping[str, Exception], count: int) -> DataError:
        first, error = next(iter(failed.items()))
        return DataError(
            f"{self.name}: {len(failed)} of {count} images cannot be read, the first is {first} "
            f"({reason(error)}); remove or replace them."
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
        return list(progress.track(pool.map(attempt, items), total=len(items), description=escape(title)))
