"""The contract of a source of data."""

from abc import ABC, abstractmethod
from typing import Literal, final, get_args

from fullrank.data.image_set import ImageSet, check_image_size
from fullrank.errors import UsageError

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Source(ABC):
    """Where images come from. The same source and split always give the same images in the same order.

    `name` is the spec that builds the source.
    """

    def __init__(self, name: str):
        self.name = name

    @final
    def load(self, split: Split, image_size: int | None = None) -> ImageSet:
        """The images of `split`, at image_size x image_size, or at their own size if none is given.

        Raises UsageError for an unknown split or a size below 1, DataError for anything wrong with the files.
        """
        if split not in SPLITS:
            raise UsageError(f"A split is 'train' or 'test', but got {split!r}; choose one of these.")
        if image_size is None:
            return self._read(split, None)
        check_image_size(image_size)
        return self._read(split, image_size).resized(image_size)

    @abstractmethod
    def _read(self, split: Split, image_size: int | None) -> ImageSet:
        """The images of `split`; a source whose files differ in size brings them to `image_size` itself."""
