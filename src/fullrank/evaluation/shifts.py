"""Shifts: other image sets in the same form, whose classes are matched by name."""

from dataclasses import dataclass

import numpy as np

from fullrank.data import SOURCES, ImageSet, source
from fullrank.data.image_set import UNLABELLED
from fullrank.errors import DataError
from fullrank.preprocessing import Preprocessing


@dataclass(frozen=True)
class Shift:
    """Labelled images of another source, their labels (N,) in training's numbering, and the set of these."""

    images: ImageSet
    labels: np.ndarray
    classes: frozenset[int]
    narrower: bool  # training has further classes


def load_shift(spec: str, like: ImageSet, preprocessing: Preprocessing | None = None) -> tuple[str, ImageSet]:
    """The canonical spec of a source, and its test images in the form of the model's other images.

    Args:
        spec: The spec of the source.
        like: The images that the probes learn from.
        preprocessing: The preprocessing of the model's weights; None reads images at the size of `like`.

    Raises:
        UsageError: If the source is unknown.
        DataError: If the images cannot be read, or have another number of channels.
    """
    name = str(SOURCES.parse(spec))
    if preprocessing is None:
        images = source(name).load("test", like.image_size)
    else:
        images = source(name).load("test", preprocessing=preprocessing)
    if images.channels != like.channels:
        needed = "grey" if like.channels == 1 else "colour"
        raise DataError(
            f"{images} has images of {images.channels} channels, but the probes learn from images of "
            f"{like.channels}; give {needed} images."
        )
    return name, images


def matched(images: ImageSet, train: ImageSet, label: str) -> Shift:
    """The labelled images of a shift, with classes matched by name and numbered as in training.

    Args:
        images: The images of the shift.
        train: The training images.
        label: The name of the labels.

    Raises:
        UsageError: If the images do not have the label.
        DataError: If no image is labelled, fewer than two classes occur, or a class has no training image.
    """
    images.check_label(label)
    labels, names = images.labels[label], images.class_names[label]
    rows = np.flatnonzero(labels != UNLABELLED)
    number_of = {name: number for number, name in enumerate(train.class_names[label])}
    learnt = set(train.labels[label].tolist())
    occurring = [names[number] for number in np.unique(labels[rows])]
    if lacking := [name for name in occurring if number_of.get(name) not in learnt]:
        raise DataError(
            f"{len(lacking)} of the {len(occurring)} classes of {images} have no training image, the first "
            f"is {lacking[0]!r}; leave them out (classes= of some sources), or train on them."
        )
    if len(occurring) < 2:
        raise DataError(
            f"A shift needs labelled images of 2 classes, but {images} has {len(occurring)}; give more."
        )
    numbers = np.array([number_of.get(name, UNLABELLED) for name in names])[labels[rows]]
    classes = frozenset(numbers.tolist())
    return Shift(images.subset(rows), numbers, classes, len(classes) < len(learnt - {UNLABELLED}))
