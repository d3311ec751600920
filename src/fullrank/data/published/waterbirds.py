"""Waterbirds: birds on land or water, listed in one file of metadata, decoded on demand."""

import csv
from pathlib import Path
from typing import final

import numpy as np

from fullrank.data.published.grouped import OFFICIAL_SPLITS, Factors, GroupedPhotographs
from fullrank.data.sources import damaged, first_file
from fullrank.errors import DataError

METADATA, FOLDER = "metadata.csv", "waterbird_complete95_forest2water2"
COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")
_FACTORS: Factors = {"label": ("landbird", "waterbird"), "background": ("land", "water")}
_LIMITS = {"y": 1, "split": len(OFFICIAL_SPLITS) - 1, "place": 1}


@final
class Waterbirds(GroupedPhotographs):
    """The streamed images that metadata.csv lists.

    The labels are "label" (the bird, column y), "background" (column place) and "group" (both). A group may
    be empty.

    Args:
        path: The folder of metadata.csv, or the folder above it.
        canvas: Side of the square canvas for training images in pixels.
        test: The official split for the test images, "test" or "val".

    Raises:
        DataError: If a file is missing, the metadata lack a column or have an invalid value, or a split has
            no image.

    >>> Waterbirds("data", test="val").name
    'waterbirds:data,test=val'

    Source: Sagawa, Koh, Hashimoto, Liang 2020, arXiv:1911.08731; the tree is that of the authors' code.
    """

    source = "waterbirds"
    factors = _FACTORS

    def _list(self, official: str) -> tuple[Path, list[str], np.ndarray]:
        candidates = [folder / METADATA for folder in (self.path, self.path / FOLDER)]
        file = first_file(candidates)
        if file is None:
            raise DataError(f"{self.name} has no {METADATA}; expected {candidates[0]} or {candidates[1]}.")
        number = str(OFFICIAL_SPLITS.index(official))
        rows = [row for row in self._rows(file) if row["split"] == number]
        if not rows:
            raise DataError(f"{self.name}: {file} lists no {official} image (split {number}); unpack again.")
        keys = [row["img_filename"] for row in rows]
        missing = [key for key in keys if not (file.parent / key).is_file()]
        if missing:
            problem = f"{len(missing)} of {len(keys)} {official} images that {file} lists are missing"
            raise DataError(f"{self.name}: {problem}, the first is {missing[0]}; unpack the archive again.")
        return file.parent, keys, np.array([[int(row["y"]), int(row["place"])] for row in rows], np.int64)

    def _rows(self, file: Path) -> list[dict[str, str]]:
        """The lines of the metadata, checked."""
        try:
            with file.open(encoding="utf-8", newline="") as text:
                reader = csv.DictReader(text)
                columns, rows = reader.fieldnames or (), list(reader)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise damaged(self.name, file, "it cannot be read as a table") from error
        missing = [column for column in ("img_filename", *_LIMITS) if column not in columns]
        if missing:
            required = f"img_filename, {', '.join(_LIMITS)}"
            raise damaged(self.name, file, f"it has no column {missing[0]!r}, but must have {required}")
        for line, row in enumerate(rows, start=2):
            for column, top in _LIMITS.items():
                if row[column] not in map(str, range(top + 1)):
                    problem = f"must be a whole number from 0 to {top}, but got {row[column]!r}"
                    raise damaged(self.name, file, f"line {line}: {column} {problem}")
        return rows
