"""The contract of a data source."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cache
from multiprocessing import parent_process
from pathlib import Path
from typing import Literal, final, get_args

from fullrank.data.classes import first_twice
from fullrank.data.depth import Window
from fullrank.data.image_set import ImageSet, check_image_size
from fullrank.data.undecodable import BadImages
from fullrank.errors import DataError, UsageError, one_line
from fullrank.files import printable
from fullrank.preprocessing import Preprocessing
from fullrank.specs import Scalar, Spec

Split = Literal["train", "test"]
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
SPLITS: tuple[Split, ...] = get_args(Split)


class Source(ABC):
    """A data source. The same source and split always give the same images in the same order.

    Derive your own source from this class and implement `read`. `splits` lists the splits that the source
    has; a shift has only test images.

    Args:
        name: The spec that builds the source.
    """

    splits: tuple[Split, ...] = SPLITS
    #: All images are grey.
    grey = False
    #: Images have layers, which views can leave out.
    layered = False

    name = ""

    def __init__(self, name: str = ""):
        self.name = name

    @property
    def window(self) -> Window | None:
        """How pixels of more than eight bits become eight bits; None if none have more."""
        return None

    @property
    def official(self) -> bool:
        """Whether the splits are part of the data; False if the source drew them itself."""
        return True

    @property
    def understood(self) -> str:
        """What the source made of files that could be read in several ways; "" if there is no choice."""
        return ""

    @final
    def load(
        self,
        split: Split | Literal["all"],
        image_size: int | None = None,
        *,
        bad: BadImages | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> ImageSet:
        """Load the images of a split.

        Args:
            split: "train", "test", or "all" for the images of both. If the source drew the splits itself,
                "all" gives the images in their own order.
            image_size: Height and width of the images. The default is their own size, or 224 for streamed
                images, which have none.
            bad: Allows some images to be undecodable, and records them. Such images are left out; streamed
                ones are replaced by others (see `StreamedImages`).
            preprocessing: How each image is fitted to a net, from its own full size and in place of
                `image_size`. See `ImageSet.prepared`.

        Raises:
            UsageError: If the split is unknown or the size is below 1.
            DataError: If the source does not have the split, an id occurs twice, or something is wrong with
                the files.
        """
        if split not in (*SPLITS, "all"):
            raise UsageError(f"A split is 'train', 'test' or 'all', but got {split!r}; choose one of these.")
        if split != "all" and split not in self.splits:
            remedy = f"it is a shift to test on; write `fullrank probe RUN --shift {self.name}`"
            raise DataError(f"{self.name} has no training images, {remedy}.")
        if image_size is not None:
            check_image_size(image_size)
            if preprocessing is not None:
                problem = f"The image size {image_size} and a preprocessing to {preprocessing.size} exclude"
                raise UsageError(f"{problem} each other; give one of them.")
        bad = bad or BadImages()
        if self.understood:
            _say(f"Reading {self.name}: {self.understood}.")
        source = self if preprocessing is None else self.unfitted()
        read = source.read_all(image_size, bad) if split == "all" else source._read(split, image_size, bad)
        if len(set(read.ids)) < len(read):
            raise DataError(f"{read} has the id {first_twice(read.ids)!r} twice; give each image its own.")
        images = read.despite(bad)
        if preprocessing is not None:
            return images.prepared(preprocessing)
        return images if image_size is None else images.resized(image_size)

    @abstractmethod
    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`; a source whose files differ in size resizes them to `image_size`."""

    def read_despite(self, split: Split, image_size: int | None, bad: BadImages) -> ImageSet:
        """Read the images of `split`; one that decodes all files at once leaves out what `bad` allows."""
        return self.read(split, image_size)

    def read_all(self, image_size: int | None, bad: BadImages) -> ImageSet:
        """Read the images of all splits; a source that drew its splits keeps the images in their order."""
        first, *others = (self._read(split, image_size, bad) for split in self.splits)
        return first.joined(*others) if others else first

    def _read(self, split: Split, image_size: int | None, bad: BadImages) -> ImageSet:
        read = self.read_despite(split, image_size, bad)
        if not isinstance(read, ImageSet):
            raise UsageError(f"{self.name}: read({split!r}) gave {type(read).__name__}; return an ImageSet.")
        return read

    def unfitted(self) -> "Source":
        """The same source with every image at its own size; sizes may differ if images are streamed."""
        return self


@cache
def _say(sentence: str) -> None:
    """Print a sentence on standard error, once, and only in the first of several processes."""
    if parent_process() is None and all(os.environ.get(rank, "0") == "0" for rank in _RANKS):
        print(one_line(sentence), file=sys.stderr)


@final
class Given(Source):
    """Images that were passed in Python: a recipe can name them, but they cannot be read again."""

    def __init__(self, name: str):
        super().__init__(f"given:{name}")

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Raise DataError."""
        remedy = "pass them again in Python (data=...), or name other images (--data)"
        raise DataError(f"The images of {self.name} were passed in Python; {remedy}.")


def check_folder(path: Path, name: str) -> None:
    """Raise DataError unless `path`, a part of the spec `name`, is a folder."""
    if not path.is_dir():
        problem = f"{path} is a file, not a folder" if path.exists() else f"There is no {path}"
        raise DataError(f"{problem}; check the path in {name}.")
    if printable(name) != name:
        raise DataError(
            f"{name} is a path with bytes that are not UTF-8, which no recipe can hold; rename it."
        )


def first_file(paths: Iterable[Path]) -> Path | None:
    """The first of `paths` that is a file."""
    return next((path for path in paths if path.is_file()), None)


def find_archive(path: Path, names: Sequence[str]) -> Path | None:
    """The first of the archives `names` in the folder `path` or beside it."""
    return first_file(folder / name for folder in (path, path.parent) for name in names)


def damaged(name: str, path: Path, problem: str) -> DataError:
    """The error for a file of the source `name` that differs from the one in its archive."""
    return DataError(f"{name}: {path}: {problem}; take it from the original archive again.")


def canonical(source: str, value: str | None, **options: Scalar | None) -> str:
    """The spec of a built-in source, without options that are None or at their default.

    >>> canonical("imagenet-c", "/data", canvas=320, severity=3, kind="fog", classes=None)
    'imagenet-c:/data,kind=fog,severity=3'
    """
    from fullrank.data import SOURCES

    defaults = {option.name: option.default for option in SOURCES[source].options}
    changed = ((key, given) for key, given in options.items() if given not in (None, defaults[key]))
    return str(Spec(source, value, tuple(sorted(changed))))


def checked_source(built: object, name: str) -> Source:
    """Return `built` if it is a source, and name it `name` if it has no name.

    Raises:
        UsageError: If it is not a source.
    """
    if not isinstance(built, Source):
        contract = "a source derives from fullrank.data.Source and has read(split, image_size)"
        raise UsageError(f"The data {name!r} is a {type(built).__name__}; {contract}.")
    built.name = built.name or name
    return built
