"""The images of a target: read as its weights need them."""

from dataclasses import dataclass
from typing import Any, Literal

from fullrank.data import ImageSet, Source, source
from fullrank.data.sources import Split
from fullrank.errors import DataError, UsageError
from fullrank.runs.build import GivenImages, load_data
from fullrank.runs.run import Run, input_shape
from fullrank.targets.opening import Target


@dataclass(frozen=True)
class Images:
    """The images of a target.

    Args:
        train: The images that probes learn from; None if there is only one set.
        test: The images that are looked at.
        official: Whether the data state this split. A source that draws its own split by chance does not.
    """

    train: ImageSet | None
    test: ImageSet
    official: bool = True

    @property
    def all(self) -> ImageSet:
        """All images; of a split that the data state, the test images."""
        if self.official or self.train is None:
            return self.test
        return self.train.joined(self.test)


def images_of(target: Target, data: Any = None) -> Images:
    """The training and test images for a target, prepared as its weights need them.

    Args:
        target: The target.
        data: The spec of a source, a torch Dataset, or a pair of them. None means a run's own images.

    Raises:
        UsageError: Data are missing.
        DataError: The images cannot be read, or do not fit the encoder of a run.
    """
    if data is None:
        return Images(*load_data(own_run(target).recipe))
    if isinstance(data, str | type):
        images = source(data)
        return Images(_read(target, images, "train"), _read(target, images, "test"), images.official)
    sets = GivenImages.of(data)
    if sets.test is None:
        return Images(None, fitted(target, sets.train))
    return Images(fitted(target, sets.train), fitted(target, sets.test))


def images_in(target: Target, data: Any, split: Split | Literal["all"] | None) -> ImageSet:
    """The images of one split for a target.

    Args:
        target: The target.
        data: As in `images_of`.
        split: "train", "test" or "all"; None is all if the data state no split of their own, else test.
    """
    if isinstance(data, str | type):
        whole = source(data)
        return _read(target, whole, split or ("test" if whole.official else "all"))
    images = images_of(target, data)
    if split == "all" and images.train is not None:
        return images.train.joined(images.test)
    if split == "train":
        if images.train is None:
            raise UsageError("The data have no training images; give (train, test), or leave out the split.")
        return images.train
    return images.test


def own_run(target: Target) -> Run:
    """The run that a target is; UsageError for any other target, which has no images of its own."""
    if target.run is None:
        raise UsageError(f"{target.name} is a model and needs images; give them with --data.")
    return target.run


def _read(target: Target, images: Source, split: Split | Literal["all"]) -> ImageSet:
    """The images of a source in one split."""
    if target.run is not None:
        return _checked(target.run, images.load(split, input_shape(target.run.path)[0]))
    if target.preprocessing is not None:
        return images.load(split, preprocessing=target.preprocessing)
    return images.load(split, target.image_size)


def fitted(target: Target, images: ImageSet) -> ImageSet:
    """Images that somebody else read, prepared as the weights of a target need them."""
    if target.run is not None:
        return _checked(target.run, images.resized(input_shape(target.run.path)[0]))
    if target.preprocessing is not None:
        return images.prepared(target.preprocessing)
    return images if target.image_size is None else images.resized(target.image_size)


def _checked(run: Run, images: ImageSet) -> ImageSet:
    """`images` if they have the channels that the encoder of a run takes."""
    channels = input_shape(run.path)[1]
    if images.channels != channels:
        raise DataError(
            f"{images} has images of {images.channels} channels, but the encoder in {run.path} takes "
            f"{channels}; give {'grey' if channels == 1 else 'colour'} images, or use another run."
        )
    return images
