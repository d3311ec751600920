"""Join two sets of images: classes are matched by their names."""

import numpy as np

from fullrank.data.image_set import UNLABELLED, ImageSet
from fullrank.data.streaming import StreamedImages
from fullrank.errors import DataError


def join(first: ImageSet, second: ImageSet) -> ImageSet:
    """The images of `first`, then those of `second`; see `ImageSet.joined`."""
    labels, class_names = _labels(first, second)
    keys = [key for key in first.layers if key in second.layers]
    layers = {key: np.concatenate([first.layers[key], second.layers[key]]) for key in keys}
    images = _images(first, second)
    return ImageSet(
        images, labels, class_names, first.name, "all", layers, first.bad, joined_ids(first, second)
    )


def joined_ids(first: ImageSet, second: ImageSet) -> tuple[str, ...]:
    """The ids of both sets. If they share one, every id gets its split in front: `train/0`, `test/0`."""
    if set(first.ids).isdisjoint(second.ids):
        return (*first.ids, *second.ids)
    return tuple(f"{each.split}/{name}" for each in (first, second) for name in each.ids)


def _labels(first: ImageSet, second: ImageSet) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """The labels of both sets by the names of their classes, and the names of all classes."""
    labels, class_names = {}, {}
    for key in dict.fromkeys((*first.labels, *second.labels)):
        named = [each.class_names.get(key, ()) for each in (first, second)]
        names = tuple(dict.fromkeys((*named[0], *named[1])))
        row_of = {name: row for row, name in enumerate(names)}
        parts = []
        for each, classes in zip((first, second), named, strict=True):
            renumbered = np.array([*(row_of[name] for name in classes), UNLABELLED])  # the last is for -1
            parts.append(renumbered[each.labels.get(key, np.full(len(each), UNLABELLED))])
        labels[key], class_names[key] = np.concatenate(parts), names
    return labels, class_names


def _images(first: ImageSet, second: ImageSet) -> np.ndarray | StreamedImages:
    if first.images.shape[1:] == second.images.shape[1:] and first.image_shape == second.image_shape:
        match first.images, second.images:
            case StreamedImages(), StreamedImages():
                return first.images.joined(second.images)
            case np.ndarray(), np.ndarray():
                return np.concatenate([first.images, second.images])
    kinds = " and ".join(map(_kind, (first, second)))
    problem = f"{first} and {second} cannot be joined, since their images are {kinds}"
    raise DataError(f"{problem}; load both with one image size.")


def _kind(images: ImageSet) -> str:
    kept = "decoded on demand" if isinstance(images.images, StreamedImages) else "in memory"
    return f"{'x'.join(map(str, images.image_shape))} {kept}"
