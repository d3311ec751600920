"""STL-10 in its official binary form."""

from pathlib import Path
from typing import final

import numpy as np

from fullrank.data.image_set import UNLABELLED, ImageSet
from fullrank.data.sets.cifar import read_names
from fullrank.data.sources import Source, Split, canonical, check_folder, damaged, find_archive, first_file
from fullrank.errors import DataError
from fullrank.files import expanded

FOLDER, ARCHIVE, NAMES = "stl10_binary", "stl10_binary.tar.gz", "class_names.txt"
SIDE = 96
_PIXELS = 3 * SIDE * SIDE


@final
class Stl10(Source):
    """96 x 96 RGB images of ten classes.

    Args:
        path: The unpacked folder, or the folder above it.
        unlabelled: Whether the 100,000 unlabelled images follow the labelled training images. Then the
            training set takes 2.7 GiB.

    Raises:
        DataError: If the folder lacks official files, or the files are damaged or do not fit together.

    >>> Stl10("data", unlabelled=False).name
    'stl10:data,unlabelled=false'

    Source: Coates, Ng, Lee 2011. The page of the data set describes the form: each image is red, green and
    blue, each column by column, and labels start at 1.
    """

    def __init__(self, path: str, unlabelled: bool = True):
        super().__init__(canonical("stl10", path, unlabelled=unlabelled))
        self.path, self.unlabelled = expanded(path), unlabelled

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`."""
        folder = self._folder()
        names = read_names(folder / NAMES, self.name)
        parts = [self._open(folder / f"{split}_X.bin")]
        labels = self._labels(folder / f"{split}_y.bin", len(parts[0]), len(names))
        if split == "train" and self.unlabelled:
            parts.append(self._open(folder / "unlabeled_X.bin"))
            labels = np.concatenate([labels, np.full(len(parts[1]), UNLABELLED)])
        images = np.empty((len(labels), SIDE, SIDE, 3), np.uint8)
        np.concatenate([part.transpose(0, 3, 2, 1) for part in parts], out=images)
        return ImageSet(images, {"label": labels}, {"label": names}, self.name, split)

    def _folder(self) -> Path:
        check_folder(self.path, self.name)
        test = first_file(folder / "test_X.bin" for folder in (self.path / FOLDER, self.path))
        if test is not None:
            return test.parent
        archive = find_archive(self.path, [ARCHIVE]) or ARCHIVE
        files = f"train_X.bin, train_y.bin, test_X.bin, test_y.bin, unlabeled_X.bin and {NAMES}"
        expected = f"expected {self.path / FOLDER} with {files}"
        raise DataError(f"{self.name} has no STL-10: {expected}; unpack {archive} there.")

    def _open(self, path: Path) -> np.ndarray:
        """The images of a file as (N, C, columns, rows), still on the disk."""
        size = self._size(path)
        if not size or size % _PIXELS:
            problem = f"its {size} bytes are not a multiple of {_PIXELS}, the bytes of an image"
            raise damaged(self.name, path, problem)
        return np.memmap(path, np.uint8, "r").reshape(-1, 3, SIDE, SIDE)

    def _labels(self, path: Path, count: int, classes: int) -> np.ndarray:
        if self._size(path) != count:
            raise damaged(self.name, path, f"it has {self._size(path)} labels for {count} images")
        labels = np.fromfile(path, np.uint8).astype(np.int64)
        if labels.min() < 1 or labels.max() > classes:
            problem = f"its labels are {labels.min()} to {labels.max()}, not 1 to {classes}"
            raise damaged(self.name, path, problem)
        return labels - 1

    def _size(self, path: Path) -> int:
        if not path.is_file():
            leave_out = " or give unlabelled=false" if path.name.startswith("unlabeled") else ""
            raise DataError(f"{self.name}: {path} does not exist; unpack {ARCHIVE} again{leave_out}.")
        return path.stat().st_size
