"""The contract of a source of data."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, final, get_args

from fullrank.data.image_set import ImageSet, check_image_size
from fullrank.data.undecodable import BadImages
from fullrank.errors import DataError, UsageError

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Source(ABC):
    """Where images come from. The same source and split always give the same images in the same order.

    `name` is the spec that builds the source, `splits` are those that it has: all but a shift's, a set to
    test on, have both.
    """

    splits: tuple[Split, ...] = SPLITS

    def __init__(self, name: str):
        self.name = name

    @final
    def load(self, split: Split, image_size: int | None = None, *, bad: BadImages | None = None) -> ImageSet:
        """The images of `split`, at image_size x image_size, or at their own size if none is given.

        Streamed images have no size of their own; without one they are for encoders that see 224 x 224.
        Raises UsageError for an unknown split or a size below 1, DataError for a split that the source does
        not have and for anything wrong with the files. As many images as `bad` allows may be undecodable:
        they are noted there, and of images in memory left out, of streamed ones another stands for each
        (see `StreamedImages`).
        """
        if split not in SPLITS:
            raise UsageError(f"A split is 'train' or 'test', but got {split!r}; choose one of these.")
        if split not in self.splits:
            raise DataError(
                f"{self.name} has no training images, it is a shift to test on; write `fullrank probe RUN "
                f"--shift {self.name}`."
            )
        if image_size is not None:
            check_image_size(image_size)
        bad = bad or BadImages()
        found = self._read_despite(split, image_size, bad).despite(bad)
        return found if image_size is None else found.resized(image_size)

    @abstractmethod
    def _read(self, split: Split, image_size: int | None) -> ImageSet:
        """The images of `split`; a source whose files differ in size brings them to `image_size` itself."""

    def _read_despite(self, split: Split, image_size: int | None, bad: BadImages) -> ImageSet:
        """The images of `split`; a source that decodes its files at once leaves out what `bad` allows."""
        return self._read(split, image_size)


def check_folder(path: Path, name: str) -> None:
    """Raise DataError unless `path`, which stands in the spec `name`, is a folder."""
    if not path.is_dir():
        problem = f"{path} is a file, not a folder" if path.exists() else f"There is no {path}"
        raise DataError(f"{problem}; check the path in {name}.")


def found_archive(path: Path, names: Sequence[str]) -> Path | None:
    """The first of the archives `names` that lies in the folder `path` or beside it."""
    candidates = [folder / name for folder in (path, path.parent) for name in names]
    return next((file for file in candidates if file.is_file()), None)
