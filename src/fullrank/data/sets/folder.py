"""Folders of image files."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar, final

import numpy as np
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from fullrank.data.decoding import GREY_MODES, UNREADABLE, fit_square, reason, to_array, upright
from fullrank.data.image_files import image_tree, path_order
from fullrank.data.image_set import UNLABELLED, ImageSet
from fullrank.data.selection import fixed_split
from fullrank.data.sources import SPLITS, Source, Split, canonical, check_folder
from fullrank.data.streaming import CANVAS, StreamedImages, photographs
from fullrank.data.undecodable import BadImages
from fullrank.errors import DataError, UsageError, count_of
from fullrank.files import expanded

MEMORY_LIMIT_GIB = 8
_TEST_FOLDERS = ("test", "val", "valid")
_PROGRESS_FROM = 1000  # images; fewer take too little time for a progress bar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Files:
    """The image files of each split with their labels, and the names of the classes."""

    of: dict[Split, tuple[list[str], np.ndarray]]
    class_names: tuple[str, ...]
    official: bool


@dataclass(frozen=True, slots=True)
class Header:
    """The properties of an image in its file's header, known before any pixel is decoded."""

    size: tuple[int, int]
    grey: bool


@final
class ImageFolder(Source):
    """Image files at any depth below a folder, decoded into memory or on demand.

    Splits are the folders `train` and `test` (or `val`, or `valid`) if `path` has both. Otherwise they are
    80 % and 20 %, stratified and always the same. The class is the first folder below the split's folder;
    files directly in the split's folder are unlabelled. Hidden files and folders and files without the ending
    of an image are left out.

    Images stay grey if all images of both splits are. Transparent images are put on white, and 16-bit grey is
    scaled from 0 to 65535. Only the first frame is read. The EXIF orientation is applied.

    Args:
        path: The folder.
        canvas: Side of a square in pixels. If given, images are decoded on demand as RGB, may have any size,
            and are resized to this square in training.

    Raises:
        DataError: If the folder is missing or has no images, a file cannot be decoded, or the pixels need
            more than 8 GiB.
        UsageError: If the images do not all have one square size, and no size is given.

    >>> ImageFolder("photographs", canvas=256).name
    'folder:photographs,canvas=256'
    """

    def __init__(self, path: str, canvas: int | None = None):
        super().__init__(canonical("folder", path, canvas=canvas))
        self.path, self.canvas = expanded(path), canvas

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`."""
        return self.read_despite(split, image_size, BadImages())

    @property
    def official(self) -> bool:
        """Whether the folder has folders of both splits."""
        return self._files.official

    def read_despite(self, split: Split, image_size: int | None, bad: BadImages) -> ImageSet:
        """Read the images of `split` without undecodable ones, if `bad` allows their number."""
        return self._read_files(*self._files.of[split], split, image_size, bad)

    def read_all(self, image_size: int | None, bad: BadImages) -> ImageSet:
        """Read the images of both splits, in the order of their paths if the split is ours."""
        return self._read_files(*self._names("all"), "all", image_size, bad)

    def _read_files(
        self, names: Sequence[str], labels: np.ndarray, split: str, image_size: int | None, bad: BadImages
    ) -> ImageSet:
        if self.canvas is not None:
            streamed = photographs(self.path, names, self.canvas, image_size, self.name, statistics=None)
            return self._labelled(streamed, names, labels, split)
        images, errors = self._decoded(names, image_size)
        if len(errors) == len(names) or (errors and not bad.most):
            raise self._unreadable(errors, len(names))
        for name, error in errors.items():
            bad.note(name, reason(error), self.name)
        whole = self._labelled(images, names, labels, split)
        if not errors:
            return whole
        return whole.subset(np.array([row for row, name in enumerate(names) if name not in errors]))

    def read_unfitted(self, split: Split | Literal["all"]) -> ImageSet:
        """Read the images of `split` at their own sizes, decoded on demand."""
        names, labels = self._names(split)
        canvas, channels = (self.canvas, 3) if self.canvas else (CANVAS, 1 if self._grey else 3)
        streamed = photographs(self.path, names, canvas, None, self.name, None, channels)
        return self._labelled(streamed, names, labels, split)

    def _names(self, split: Split | Literal["all"]) -> tuple[Sequence[str], np.ndarray]:
        """The files of a split, or of both, in the order of their paths if the split is ours, with labels."""
        if split != "all":
            return self._files.of[split]
        files = [file for of_split in self._files.of.values() for file in zip(*of_split, strict=True)]
        if not self.official:
            files.sort(key=lambda file: path_order(file[0]))
        names, labels = zip(*files, strict=True)
        return names, np.array(labels)

    def _labelled(
        self, images: np.ndarray | StreamedImages, names: Sequence[str], labels: np.ndarray, split: str
    ) -> ImageSet:
        class_names = {"label": self._files.class_names}
        return ImageSet(images, {"label": labels}, class_names, self.name, split, ids=tuple(names))

    def _decoded(
        self, names: Sequence[str], image_size: int | None
    ) -> tuple[np.ndarray, dict[str, Exception]]:
        """The images, and the errors of those that cannot be read, which stay empty."""
        headers = [header for header in self._headers.values() if isinstance(header, Header)]
        if not headers:
            errors = {name: error for name, error in self._headers.items() if isinstance(error, Exception)}
            raise self._unreadable(errors, len(errors))
        grey = all(header.grey for header in headers)
        size = image_size or self._shared_size(headers)
        images = self._empty(len(names), size, 1 if grey else 3)

        def decode(row: int) -> None:
            with Image.open(self.path / names[row]) as image:
                images[row] = to_array(fit_square(upright(image, grey), size))

        results = zip(names, _attempt(decode, range(len(names)), f"Reading {self.path}"), strict=True)
        return images, {name: error for name, error in results if isinstance(error, Exception)}

    @cached_property
    def _files(self) -> Files:
        check_folder(self.path, self.name)
        test = next((name for name in _TEST_FOLDERS if (self.path / name).is_dir()), None)
        train = image_tree(self.path, "train") if test and (self.path / "train").is_dir() else []
        names = [*train, *image_tree(self.path, test)] if train and test else image_tree(self.path)
        classes = [next(iter(name.split("/")[bool(train) : -1]), "") for name in names]
        class_names = tuple(sorted({*classes} - {""}))
        label_of = {"": UNLABELLED, **{name: label for label, name in enumerate(class_names)}}
        labels = np.array([label_of[name] for name in classes], np.int64)
        official = np.split(np.arange(len(names)), [len(train)])
        rows = official if train else [fixed_split(labels, split, self.name) for split in SPLITS]
        parts = [([names[row] for row in part], labels[part]) for part in rows]
        return Files(dict(zip(SPLITS, parts, strict=True)), class_names, bool(train))

    @property
    def _names(self) -> list[str]:
        return [name for names, _ in self._files.of.values() for name in names]

    @cached_property
    def _headers(self) -> dict[str, Header | Exception]:
        """The header of every file in both splits, or the error if it cannot be read."""
        headers = _attempt(self._header, self._names, f"Looking through {self.path}")
        return dict(zip(self._names, headers, strict=True))

    def _header(self, name: str) -> Header:
        with Image.open(self.path / name) as image:
            return Header(image.size, image.mode in GREY_MODES)

    @cached_property
    def _grey(self) -> bool:
        """All images are grey. The first that is not ends the search."""
        names = self._names
        parts = (names[start : start + _PROGRESS_FROM] for start in range(0, len(names), _PROGRESS_FROM))
        headers = (header for part in parts for header in _attempt(self._header, part, ""))
        return all(header.grey for header in headers if isinstance(header, Header))

    def _shared_size(self, headers: Sequence[Header]) -> int:
        sizes = sorted({header.size for header in headers})
        (width, height), last = sizes[0], sizes[-1]
        if len(sizes) > 1:
            span = f"{len(sizes)} sizes, from {width} x {height} to {last[0]} x {last[1]}"
            raise UsageError(f"{self.name} has images of {span}; give one with --image-size.")
        if width != height:
            raise UsageError(f"{self.name} has images of {width} x {height}, not square; give --image-size.")
        return width

    def _empty(self, count: int, size: int, channels: int) -> np.ndarray:
        gib = count * size * size * channels / 2**30
        if gib > MEMORY_LIMIT_GIB:
            need = f"{gib:.1f} GiB for {count} images of {size} x {size} x {channels}"
            remedy = f"write {self.name},canvas={CANVAS} to decode on demand, or give a smaller --image-size"
            raise DataError(f"{self.name} needs {need}, but the limit is {MEMORY_LIMIT_GIB} GiB; {remedy}.")
        return np.empty((count, size, size, channels), np.uint8)

    def _unreadable(self, failed: Mapping[str, Exception], count: int) -> DataError:
        first, error = next(iter(failed.items()))
        problem = f"{len(failed)} of {count_of(count, 'image')} cannot be read; the first is {first}"
        remedy = "remove or replace them"
        if len(failed) < count:
            remedy += f", or train without them with --max-bad {len(failed)}"
        return DataError(f"{self.name}: {problem} ({reason(error)}); {remedy}.")


def _attempt(
    function: Callable[[Item], Result], items: Sequence[Item], title: str
) -> list[Result | Exception]:
    """`function` of each item, in threads; if Pillow fails, the error takes the place of the result."""

    def attempt(item: Item) -> Result | Exception:
        try:
            return function(item)
        except UNREADABLE as error:
            return error

    console = Console(stderr=True)
    silent = len(items) < _PROGRESS_FROM or not console.is_terminal
    with ThreadPoolExecutor() as pool, Progress(console=console, transient=True, disable=silent) as progress:
        return list(progress.track(pool.map(attempt, items), total=len(items), description=escape(title)))
