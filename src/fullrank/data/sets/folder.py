"""Folders of image files."""

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar, final

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from fullrank.data.classes import class_name
from fullrank.data.decoding import UNREADABLE, bands, fit_square, joined, reason
from fullrank.data.depth import EIGHT, Window, naming, window_option
from fullrank.data.image_files import ending_counts, image_tree, list_folders
from fullrank.data.image_set import UNLABELLED, ImageSet
from fullrank.data.masks import folder_masks
from fullrank.data.opening import closing, open_image
from fullrank.data.selection import fixed_split
from fullrank.data.sets.layouts import layout_of, sentence
from fullrank.data.sources import SPLITS, Source, Split, canonical, check_folder
from fullrank.data.streaming import CANVAS, StreamedImages, photographs
from fullrank.data.survey import Header, Survey, header_of, sampled, survey
from fullrank.data.undecodable import BadImages
from fullrank.errors import DataError, UsageError, count_of
from fullrank.files import expanded, printable

MEMORY_LIMIT_GIB = 8
_LIST = re.compile(r"(^|/)\w*annotations\.txt$").search
_PROGRESS_FROM = 1000  # images; fewer take too little time for a progress bar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Files:
    """Image files and their labels.

    Attributes:
        names: The paths of the files, relative to the folder of the source.
        labels: Name -> labels (N,).
        class_names: Name -> the names of the classes.
        rows: Split -> the rows of its files.
        official: Whether the splits are part of the data.
        understood: What the source says about them.
    """

    names: list[str]
    labels: dict[str, np.ndarray]
    class_names: dict[str, tuple[str, ...]]
    rows: dict[Split, np.ndarray]
    official: bool
    understood: str


class ImageFiles(Source):
    """Image files with labels, decoded into memory or on demand; a subclass finds them.

    Images stay grey if all images of both splits are. Transparent images are put on white. Only the first
    frame or page is read. The EXIF orientation is applied. Colour profiles (ICC) are not: colours are taken
    as sRGB.

    Pixels of more than eight bits become eight bits. Without a `given` window, they have the fewest of 8, 10,
    12, 14 and 16 bits that hold the largest value of 100 images. What was found is said and stands in
    `window`.

    Arrays `.npy` are (H, W), (H, W, C) or (C, H, W), with any number of channels. TIFF with channels that are
    neither colour nor transparency needs the extra `tiff`.
    """

    def __init__(self, name: str, path: Path, canvas: int | None, given: Window | None = None):
        super().__init__(name)
        self.path, self.canvas = path, canvas
        self._given = given
        self.streamed = canvas is not None

    @abstractmethod
    def _find(self) -> Files:
        """Find the image files below `path`."""

    @cached_property
    def _files(self) -> Files:
        return self._find()

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`."""
        return self.read_despite(split, image_size, BadImages())

    @property
    def official(self) -> bool:
        """Whether the splits are part of the data."""
        return self._files.official

    @property
    def window(self) -> Window | None:
        """How pixels of more than eight bits become eight bits; None if no image looked at has more."""
        return self._survey.window

    @property
    def understood(self) -> str:
        """The images and classes of each split, and what was left out, in one sentence."""
        return self._files.understood

    def read_despite(self, split: Split, image_size: int | None, bad: BadImages) -> ImageSet:
        """Read the images of `split` without undecodable ones, if `bad` allows their number."""
        return self._read_files(self._files.rows[split], split, image_size, bad)

    def read_all(self, image_size: int | None, bad: BadImages) -> ImageSet:
        """Read the images of both splits, in their own order if the split is ours."""
        if self.official:
            return super().read_all(image_size, bad)
        return self._read_files(np.arange(len(self._files.names)), "all", image_size, bad)

    def _read_files(self, rows: np.ndarray, split: str, image_size: int | None, bad: BadImages) -> ImageSet:
        names = [self._files.names[row] for row in rows.tolist()]
        if self.streamed:
            canvas = CANVAS if self.canvas is None else self.canvas
            plain = photographs(self.path, names, canvas, image_size, self.name, statistics=None)
            streamed = replace(plain, channels=self._channels, window=self._survey.window or EIGHT)
            return self._labelled(streamed, rows, split)
        images, errors = self._decoded(names, image_size)
        if len(errors) == len(names) or (errors and not bad.most):
            raise self._unreadable(errors, len(names))
        for name, error in errors.items():
            bad.note(name, reason(error), self.name)
        whole = self._labelled(images, rows, split)
        if not errors:
            return whole
        return whole.subset(np.array([row for row, name in enumerate(names) if name not in errors]))

    def unfitted(self) -> "ImageFiles":
        """The same files with their images decoded on demand, also without a canvas."""
        files = copy(self)
        files.streamed = True
        return files

    def _labelled(self, images: np.ndarray | StreamedImages, rows: np.ndarray, split: str) -> ImageSet:
        files = self._files
        labels = {key: each[rows] for key, each in files.labels.items()}
        ids = tuple(printable(files.names[row]) for row in rows.tolist())
        return ImageSet(images, labels, files.class_names, self.name, split, ids=ids)

    def _decoded(
        self, names: Sequence[str], image_size: int | None
    ) -> tuple[np.ndarray, dict[str, Exception]]:
        """The images, and the errors of those that cannot be read, which stay empty."""
        headers = [header for header in self._headers.values() if isinstance(header, Header)]
        if not headers:
            errors = {name: error for name, error in self._headers.items() if isinstance(error, Exception)}
            raise self._unreadable(errors, len(errors))
        size = image_size or self._shared_size(headers)
        channels, window = self._survey.channels, self._survey.window or EIGHT
        images = self._empty(len(names), size, channels)

        def decode(row: int) -> None:
            with closing(open_image(self.path / names[row])) as opened, naming(names[row], self.name):
                whole = bands(opened, channels, window)
            images[row] = joined(fit_square(band, size) for band in whole)

        results = zip(names, _attempt(decode, range(len(names)), f"Reading {self.path}"), strict=True)
        return images, {name: error for name, error in results if isinstance(error, Exception)}

    @property
    def _names(self) -> list[str]:
        return [self._files.names[row] for rows in self._files.rows.values() for row in rows.tolist()]

    @cached_property
    def _headers(self) -> dict[str, Header | Exception]:
        """The header of every file in both splits, or the error if it cannot be read."""
        return self._headers_of(self._names)

    def _headers_of(self, names: Sequence[str]) -> dict[str, Header | Exception]:
        headers = _attempt(self._header, names, f"Looking through {self.path}")
        return dict(zip(names, headers, strict=True))

    def _header(self, name: str) -> Header:
        with closing(open_image(self.path / name)) as opened:
            return header_of(opened)

    @cached_property
    def _survey(self) -> Survey:
        """What all images have in common, from a sample of them if they are decoded on demand."""
        headers = self._headers if not self.streamed else self._headers_of(sampled(self._names))
        readable = {name: header for name, header in headers.items() if isinstance(header, Header)}
        if not readable:
            return Survey(3, self._given)
        return survey(readable, lambda name: open_image(self.path / name), self._given, self.name)

    @cached_property
    def _channels(self) -> int:
        """The channels of images that are decoded on demand: 1 if all are grey and they have no canvas."""
        if self._survey.channels != 1:
            return self._survey.channels
        if self.canvas is not None:
            return 3
        names = self._names
        parts = (names[start : start + _PROGRESS_FROM] for start in range(0, len(names), _PROGRESS_FROM))
        headers = (header for part in parts for header in _attempt(self._header, part, ""))
        return 1 if all(header.channels == 1 for header in headers if isinstance(header, Header)) else 3

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


@final
class ImageFolder(ImageFiles):
    """Image files at any depth below a folder, decoded into memory or on demand.

    The splits are the folders `train` and `test`, or `val`, `dev`, `eval` and other common spellings. Without
    them, 20 % are drawn as test images, stratified and always the same. The class is the first folder below
    the split's folder; files directly in the split's folder are unlabelled. Classes of the two splits are
    matched by name. `understood` says what was found and what was left out.

    Pixels are read as in `ImageFiles`. Arrays `.npy` count as images if the folder has no other images.

    Args:
        path: The folder.
        canvas: Side of a square in pixels. If given, images are decoded on demand as RGB, may have any size,
            and are resized to this square in training. Arrays and TIFF keep other channel counts.
        bits: The bits of pixels of more than eight bits. A larger value is an error.
        low: The value that becomes black, for pixels that are negative or not whole, or need more than 16
            bits. Smaller values become black too. Images of eight bits stay as they are.
        high: The value that becomes white, and with it all larger values.
        masks: A folder with a mask for each test image: a palette or grey PNG file with the path or the stem
            of the image. Its values are the numbers of objects, 0 for the background and 255 for pixels to
            ignore, as in PASCAL VOC.

    Raises:
        DataError: If the folder is missing or has no images, its splits can be understood in two ways or
            have no class in common, a file cannot be decoded, or the pixels need more than 8 GiB. Also if
            there are masks, but not for every test image.
        UsageError: If the images do not all have one square size, and no size is given.

    >>> ImageFolder("photographs", canvas=256).name
    'folder:photographs,canvas=256'
    """

    def __init__(
        self,
        path: str,
        canvas: int | None = None,
        bits: int | None = None,
        low: float | None = None,
        high: float | None = None,
        masks: str | None = None,
    ):
        name = canonical("folder", path, bits=bits, canvas=canvas, high=high, low=low, masks=masks)
        super().__init__(name, expanded(path), canvas, window_option(bits, low, high))
        self.masks = None if masks is None else expanded(masks)

    def _find(self) -> Files:
        check_folder(self.path, self.name)
        images, others = image_tree(self.path)
        folders = list_folders(self.path)
        if self.masks is not None and self.masks.resolve().is_relative_to(self.path.resolve()):
            inside = self.masks.resolve().relative_to(self.path.resolve()).as_posix()
            images = [name for name in images if not name.startswith(f"{inside}/")]
            folders = [name for name in folders if name != inside]
        lists = {path.rpartition("/")[0]: _listed_classes(self.path / path) for path in others if _LIST(path)}
        layout = layout_of(images, folders, self.name, lists)
        files = [*layout.train, *(layout.test or ())]
        classes = tuple(sorted({each for _, each in files} - {""}))
        label_of = {"": UNLABELLED, **{name: label for label, name in enumerate(classes)}}
        labels = np.array([label_of[each] for _, each in files], np.int64)
        if layout.test is None:
            parts = [fixed_split(labels, split, self.name) for split in SPLITS]
        else:
            parts = np.split(np.arange(len(files)), [len(layout.train)])
        skipped = ending_counts(path for path in others if not _LIST(path))
        return Files(
            names=[name for name, _ in files],
            labels={"label": labels},
            class_names={"label": classes},
            rows=dict(zip(SPLITS, parts, strict=True)),
            official=layout.test is not None,
            understood=sentence(layout, len(parts[1]), skipped),
        )

    def _labelled(self, images: np.ndarray | StreamedImages, rows: np.ndarray, split: str) -> ImageSet:
        labelled = super()._labelled(images, rows, split)
        if self.masks is None:
            return labelled
        names = [self._files.names[row] for row in rows.tolist()]
        masks = folder_masks(self.masks, self.path, names, self.name, needed=split == "test")
        return replace(labelled, masks=masks)


def _listed_classes(path: Path) -> dict[str, str]:
    """File name -> class, from a list such as val_annotations.txt of Tiny ImageNet: two columns or more."""
    lines = path.read_text("utf-8-sig", "surrogateescape").splitlines()
    rows = [line.split("\t") for line in lines]
    return {row[0]: class_name(row[1]) for row in rows if len(row) > 1}


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
