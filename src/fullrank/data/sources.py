"""The contract of a source of data."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, final, get_args

from fullrank.data.image_set import ImageSet, check_image_size
from fullrank.data.undecodable import BadImages
from fullrank.errors import DataError, UsageError
from fullrank.specs import Scalar, Spec

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Source(ABC):
    """Where images come from. The same source and split always give the same images in the same order.

    A source of yours derives from this class and has `read`. `name` is the spec that builds the source.
    `splits` are those that it has: all but a shift's, a set to test on, have both.
    """

    splits: tuple[Split, ...] = SPLITS
    #: All images are grey.
    grey = False
    #: Images have layers, which views can leave out.
    layered = False

    name = ""

    def __init__(self, name: str = ""):
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
            remedy = f"it is a shift to test on; write `fullrank probe RUN --shift {self.name}`"
            raise DataError(f"{self.name} has no training images, {remedy}.")
        if image_size is not None:
            check_image_size(image_size)
        bad = bad or BadImages()
        read = self.read_despite(split, image_size, bad)
        if not isinstance(read, ImageSet):
            raise UsageError(f"{self.name}: read({split!r}) gave {type(read).__name__}; give an ImageSet.")
        images = read.despite(bad)
        return images if image_size is None else images.resized(image_size)

    @abstractmethod
    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """The images of `split`; a source whose files differ in size brings them to `image_size` itself."""

    def read_despite(self, split: Split, image_size: int | None, bad: BadImages) -> ImageSet:
        """The images of `split`; a source that decodes its files at once leaves out what `bad` allows."""
        return self.read(split, image_size)


@final
class Given(Source):
    """Images that were given in Python: a recipe can name them, but nobody else can read them."""

    def __init__(self, name: str):
        super().__init__(f"given:{name}")

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Raise DataError."""
        remedy = "give them again there (data=...), or name other images (--data)"
        raise DataError(f"The images of {self.name} were given in Python; {remedy}.")


def check_folder(path: Path, name: str) -> None:
    """Raise DataError unless `path`, which stands in the spec `name`, is a folder."""
    if not path.is_dir():
        problem = f"{path} is a file, not a folder" if path.exists() else f"There is no {path}"
        raise DataError(f"{problem}; check the path in {name}.")


def first_file(paths: Iterable[Path]) -> Path | None:
    """The first of `paths` that is a file."""
    return next((path for path in paths if path.is_file()), None)


def find_archive(path: Path, names: Sequence[str]) -> Path | None:
    """The first of the archives `names` that lies in the folder `path` or beside it."""
    return first_file(folder / name for folder in (path, path.parent) for name in names)


def damaged(name: str, path: Path, problem: str) -> DataError:
    """The error for a file of the source `name` that is not what its archive held."""
    return DataError(f"{name}: {path}: {problem}; take it from the original archive again.")


def canonical(source: str, value: str | None, **options: Scalar | None) -> str:
    """The spec of a source of ours, without options that are None or at their default.

    >>> canonical("imagenet-c", "/data", canvas=320, severity=3, kind="fog", classes=None)
    'imagenet-c:/data,kind=fog,severity=3'
    """
    from fullrank.data import SOURCES

    defaults = {option.name: option.default for option in SOURCES[source].options}
    changed = ((key, given) for key, given in options.items() if given not in (None, defaults[key]))
    return str(Spec(source, value, tuple(sorted(changed))))


def checked_source(built: object, name: str) -> Source:
    """`built` if it is a source, called `name` where it has no name of its own; otherwise UsageError."""
    if not isinstance(built, Source):
        contract = "a source derives from fullrank.data.Source and has read(split, image_size)"
        raise UsageError(f"The data {name!r} is a {type(built).__name__}; {contract}.")
    built.name = built.name or name
    return built
