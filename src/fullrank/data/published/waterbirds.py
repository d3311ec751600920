"""Waterbirds: birds on land or water, listed in one file of metadata, decoded on demand."""

import csv
from pathlib import Path
from typing import final

import numpy as np

from fullrank.data.image_set import ImageSet
from fullrank.data.joint_labels import with_groups
from fullrank.data.published.class_folders import tree_spec
from fullrank.data.sources import Source, Split, check_folder
from fullrank.data.streaming import CANVAS, photographs
from fullrank.errors import DataError
from fullrank.files import expanded

METADATA, FOLDER = "metadata.csv", "waterbird_complete95_forest2water2"
COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")
OFFICIAL_SPLITS = ("train", "val", "test")
"""In the order of their numbers in the metadata."""

_CLASS_NAMES = {"label": ("landbird", "waterbird"), "background": ("land", "water")}
_LIMITS = {"y": 1, "split": len(OFFICIAL_SPLITS) - 1, "place": 1}


@final
class Waterbirds(Source):
    """The images that metadata.csv in `path`, or in the official folder below it, lists; streamed.

    The labels are "label" (the bird, column y), "background" (column place) and "group", both; a group may
    be empty. `test` says which official split is the test images, "test" or "val".

    Raises DataError for a file that is missing, metadata that lack a column or hold another value than they
    may, and a split without an image.

    >>> Waterbirds("no/such/folder").load("train")
    Traceback (most recent call last):
    ...
    fullrank.errors.DataError: There is no no/such/folder; check the path in waterbirds:no/such/folder.

    Source: Sagawa, Koh, Hashimoto, Liang 2020, arXiv:1911.08731; the tree is that of the authors' code.
    """

    def __init__(self, path: str, canvas: int = CANVAS, test: str = "test"):
        super().__init__(tree_spec("waterbirds", path, canvas, test=None if test == "test" else test))
        self.path, self.canvas, self.test = expanded(path), canvas, test

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`."""
        file = self._metadata()
        official = "train" if split == "train" else self.test
        keys, numbers = self._listed(file, OFFICIAL_SPLITS.index(official))
        if not keys:
            raise DataError(
                f"{self.name}: {file} lists no {official} image; its column split has no "
                f"{OFFICIAL_SPLITS.index(official)}."
            )
        missing = [key for key in keys if not (file.parent / key).is_file()]
        if missing:
            raise DataError(
                f"{self.name}: {len(missing)} of {len(keys)} {official} images that {file} lists are not "
                f"there, the first is {missing[0]}; unpack the archive again."
            )
        images = photographs(file.parent, keys, self.canvas, image_size, self.name)
        labels = dict(zip(_CLASS_NAMES, numbers, strict=True))
        return ImageSet(images, *with_groups(labels, _CLASS_NAMES), self.name, split)

    def _metadata(self) -> Path:
        check_folder(self.path, self.name)
        for folder in (self.path, self.path / FOLDER):
            if (folder / METADATA).is_file():
                return folder / METADATA
        raise DataError(
            f"{self.name} holds no {METADATA}; expected {self.path / METADATA} or "
            f"{self.path / FOLDER / METADATA}."
        )

    def _listed(self, file: Path, number: int) -> tuple[list[str], np.ndarray]:
        """The files of the split of that number, and (2, n) int64 their birds and places."""
        try:
            with file.open(encoding="utf-8", newline="") as text:
                reader = csv.DictReader(text)
                columns, rows = reader.fieldnames or (), list(reader)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{self.name}: {file} cannot be read as a table; take it from the original archive again."
            ) from error
        missing = [column for column in ("img_filename", *_LIMITS) if column not in columns]
        if missing:
            raise DataError(
                f"{self.name}: {file} has no column {missing[0]!r}, but must have img_filename, "
                f"{', '.join(_LIMITS)}; take it from the original archive again."
            )
        for line, row in enumerate(rows, start=2):
            self._check(file, line, row)
        kept = [row for row in rows if row["split"] == str(number)]
        numbers = [[int(row[column]) for row in kept] for column in ("y", "place")]
        return [row["img_filename"] for row in kept], np.array(numbers, np.int64)

    def _check(self, file: Path, line: int, row: dict[str, str]) -> None:
        for column, top in _LIMITS.items():
            if row[column] not in map(str, range(top + 1)):
                raise DataError(
                    f"{self.name}: {file}, line {line}: {column} must be a whole number from 0 to {top}, but "
                    f"got {row[column]!r}; take the file from the original archive again."
                )
