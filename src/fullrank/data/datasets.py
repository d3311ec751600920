"""Convert any torch Dataset of (image, label) to an ImageSet."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from fullrank.data.decoding import to_array, to_eight_bit
from fullrank.data.image_set import UNLABELLED, ImageSet
from fullrank.data.labelling import Labels, one_class, several, zero_one
from fullrank.data.streaming import CANVAS, IMAGE_SIZE, StreamedImages
from fullrank.errors import DataError
from fullrank.labels import plain_labels

_OWN = "own"
# Images of equal size that take at most this many bytes stay in memory; others are read when needed.
_HELD = 2**31


class Indexed(Protocol):
    """A map-style dataset, as in torch."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def is_dataset(candidate: object) -> bool:
    """Whether an object can be read by index, as a map-style Dataset; False for text and tuples."""
    return (
        hasattr(candidate, "__getitem__")
        and hasattr(candidate, "__len__")
        and not isinstance(candidate, (str, tuple))
    )


def image_set_of(dataset: Indexed, split: str = "train", *, like: ImageSet | None = None) -> ImageSet:
    """The images of a dataset whose items are (image, label), or unlabelled images.

    An image is a Pillow image, a uint8 array (H, W) or (H, W, C), or a tensor (C, H, W). Tensors are uint8,
    or floats in 0 to 1, which are rounded to 256 levels. Labels are whole numbers, and -1 means no label; or
    words, and None means no label; or vectors of 0 and 1, which are several labels an image, named
    "label:NAME". The names of classes and of such labels come from the dataset's `classes`; otherwise they
    are the words or numbers.

    Images of equal size stay in memory up to 2 GiB. Others are read again each time they are needed, so
    random transforms in the dataset then give other images. Every item is read once here, unless the dataset
    lists its labels in `targets` or `labels`.

    Args:
        dataset: The dataset.
        split: The name of the split, for messages.
        like: A set whose class numbers this set takes, matched by the names of the classes. A dataset without
            names has the same numbers already.

    Raises:
        DataError: If an item has another form, or the dataset has no items.

    >>> pairs = [(np.zeros((8, 8), np.uint8), 3), (np.ones((8, 8), np.uint8), 1)]
    >>> images = image_set_of(pairs)
    >>> images.image_shape, images.labels["label"], images.class_names["label"]
    ((8, 8, 1), array([3, 1]), ('0', '1', '2', '3'))
    """
    name = type(dataset).__name__
    if not len(dataset):
        raise DataError(f"{name} has 0 items; give a dataset of (image, label).")
    first = _pixels(_parts(dataset[0], name)[0], name)
    fits = len(dataset) * first.size <= _HELD
    listed = _listed_labels(dataset)
    arrays, cells = [], []
    for row in range(len(dataset)) if fits or listed is None else ():
        image, label = _parts(dataset[row], name)
        cells.append(label)
        if fits:
            arrays.append(_pixels(image, name))
    labels = _labels(dataset, cells if listed is None else listed, like, name)

    def read(row: int) -> np.ndarray:
        return _pixels(_parts(dataset[row], name)[0], name)

    images: np.ndarray | StreamedImages
    if len({array.shape for array in arrays}) == 1:
        images = np.stack(arrays)
    else:
        keys = [str(row) for row in range(len(dataset))]
        images = StreamedImages(read, keys, CANVAS, IMAGE_SIZE, channels=first.shape[-1], name=name)
    return ImageSet(images, labels.of[_OWN], labels.class_names, name, split)


def _parts(item: Any, name: str) -> tuple[Any, Any]:
    """The image and the label of an item: a number, a word, a list of several labels, or None."""
    if not isinstance(item, (tuple, list)):
        return item, None
    if len(item) != 2:
        raise DataError(f"An item of {name} has {len(item)} parts; give (image, label), or only the image.")
    image, label = item
    label = label.tolist() if hasattr(label, "tolist") else label
    if isinstance(label, list | tuple) and len(label) == 1:
        (label,) = label
    return image, label


def _labels(dataset: Indexed, cells: Sequence[Any] | np.ndarray, like: ImageSet | None, name: str) -> Labels:
    """The labels of the one split that is called `_OWN`."""
    name = f"Labels of {name}"
    named = tuple(map(str, getattr(dataset, "classes", None) or ()))
    lists = [cell for cell in cells if isinstance(cell, list | tuple)] if isinstance(cells, list) else []
    if lists:
        width = len(lists[0])
        if any(len(each) != width for each in lists):
            widths = ", ".join(map(str, sorted({len(each) for each in lists})))
            raise DataError(f"{name} have {widths} entries; give each image one value for every label.")
        names = named if len(named) == width else tuple(map(str, range(width)))
        table = [each if isinstance(each, list | tuple) else [UNLABELLED] * width for each in cells]
        return several({_OWN: zero_one(table, width, name)}, names)
    before = () if like is None else like.class_names["label"]
    plain = plain_labels(cells, name)
    if plain.dtype.kind != "i":
        return one_class({_OWN: plain}, name, before)
    top = int(plain.max(initial=UNLABELLED))
    own = named if len(named) > top else ()
    if own and before and own != before and not _are_numbers(before):
        words = np.array([*own, ""], object)[plain]  # -1 is the last, no label
        return one_class({_OWN: words}, name, before)
    classes = before or own
    classes += tuple(map(str, range(len(classes), top + 1)))
    return Labels({_OWN: {"label": plain}}, {"label": classes})


def _are_numbers(classes: tuple[str, ...]) -> bool:
    return classes == tuple(map(str, range(len(classes))))


def _pixels(image: Any, name: str) -> np.ndarray:
    """An image as (H, W, C) uint8."""
    import torch

    if isinstance(image, Image.Image):
        if image.mode[0] in "IF":
            remedy = "scale it to 8 bits in the dataset's transform"
            raise DataError(f"An image of {name} has the mode {image.mode}, more than 8 bits; {remedy}.")
        array = to_array(image if image.mode in ("L", "RGB") else to_eight_bit(image).convert("RGB"))
    elif isinstance(image, torch.Tensor):
        array = _of_tensor(image.detach().cpu(), name)
    else:
        array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    if array.dtype != np.uint8 or array.ndim != 3:
        forms = "give Pillow images, uint8 (H, W, C) or tensors (C, H, W) in 0 to 1"
        raise DataError(f"An image of {name} is {array.dtype} of shape {array.shape}; {forms}.")
    return array


def _of_tensor(image: Any, name: str) -> np.ndarray:
    if image.is_floating_point():
        low, high = float(image.min()), float(image.max())
        if low < 0 or high > 1:
            remedy = "remove the normalisation from its transform, since the encoder normalises"
            if low >= 0 and high <= 255:
                remedy = "divide them by 255, or give uint8"
            raise DataError(f"An image of {name} has values from {low:.3g} to {high:.3g}; {remedy}.")
        image = (image * 255).round().byte()
    array: np.ndarray = image.numpy()
    return array.transpose(1, 2, 0) if array.ndim == 3 else array


def _listed_labels(dataset: Indexed) -> np.ndarray | None:
    """The labels that a dataset lists, as torchvision's do, if each item has one whole number."""
    for name in ("targets", "labels"):
        listed = getattr(dataset, name, None)
        if listed is None or getattr(dataset, "target_transform", None) is not None:
            continue
        array = np.asarray(listed)
        if array.shape == (len(dataset),) and np.issubdtype(array.dtype, np.integer):
            return array.astype(np.int64)
    return None
