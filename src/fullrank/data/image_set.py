"""ImageSet: images with their labels, in memory or decoded on demand; every source loads one."""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from fullrank.data.classes import first_twice
from fullrank.data.decoding import bands, fit_square, joined
from fullrank.data.masks import FOREGROUND, Masks, checked_masks, layer_masks, square_mask
from fullrank.data.prefetch import ahead
from fullrank.data.selection import generator, stratified_order, stratified_share
from fullrank.data.streaming import Statistics, StreamedImages
from fullrank.data.undecodable import BadImages
from fullrank.errors import DataError, UsageError, unknown_name
from fullrank.files import printable
from fullrank.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

    from fullrank.batch import Batch
    from fullrank.processes import Share

UNLABELLED = -1
_CHUNK = 256  # images
_STATISTICS_SAMPLE = 1024


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with named labels.

    Args:
        images: An array (N, H, W, C) uint8, or StreamedImages, which are decoded on demand.
        labels: Name -> labels (N,) int64; -1 means no label. The main labels are named "label". If an image
            has several labels, each is 0 or 1 and is named "label:NAME", and "label" is -1 throughout.
        class_names: Name -> the names of the classes: label i is called `class_names[name][i]`.
        name: The name of the set, for messages.
        split: The name of the split, for messages.
        layers: For composites in memory: name of a layer -> the same images without that layer. Subsets and
            resized sets keep them.
        bad: The images that could not be decoded.
        ids: An id for each image: its file name below the source's folder, or what the source calls it. The
            default is the key of a streamed image, and the number of the row in memory. Subsets, resized and
            joined sets keep them.
        masks: Masks of the objects in each image, (N, H, W) uint8, or `Masks`: 0 is the background, 255 is
            ignored, every other value is an object. Subsets, resized and prepared sets keep them. Composites
            need none, because `object_masks` takes them from the layers.

    Raises:
        DataError: If an array has another shape or type, a label has no class name, or there is no image.

    >>> images, labels = np.zeros((2, 8, 8, 1), np.uint8), np.array([0, -1])
    >>> digits = ImageSet(images, {"label": labels}, {"label": ("zero",)})
    >>> len(digits), digits.image_shape
    (2, (8, 8, 1))
    """

    images: np.ndarray | StreamedImages
    labels: dict[str, np.ndarray]
    class_names: dict[str, tuple[str, ...]]
    name: str = "images"
    split: str = "train"
    layers: dict[str, np.ndarray] = field(default_factory=dict)
    bad: BadImages = field(default_factory=BadImages)
    ids: tuple[str, ...] = ()
    masks: Masks | np.ndarray | None = None

    def __post_init__(self) -> None:
        shape, dtype = self.images.shape, self.images.dtype
        if dtype != np.uint8:
            raise DataError(f"{self}: images must be uint8, 0 to 255, but got {dtype}; scale and cast them.")
        if len(shape) != 4 or not all(shape[1:]) or shape[1] < shape[2] == shape[3]:
            problem = f"images must have the shape (N, H, W, C), but got {shape}"
            raise DataError(f"{self}: {problem}; reorder the axes, the channels last.")
        if not shape[0]:
            raise DataError(f"{self} has 0 images, but needs 1 or more; check the path and the split.")
        if "label" not in self.labels or set(self.labels) != set(self.class_names):
            keys = f"labels ({', '.join(self.labels)}) and class names ({', '.join(self.class_names)})"
            raise DataError(f"{self}: {keys} must have the same keys, including 'label'; give all.")
        for key, labels in self.labels.items():
            self._check_labels(key, labels)
        if not self.ids:
            object.__setattr__(self, "ids", _default_ids(self.images))
        if len(self.ids) != shape[0]:
            raise DataError(f"{self} has {len(self.ids)} ids for {shape[0]} images; give one for each.")
        if self.masks is not None:
            object.__setattr__(self, "masks", checked_masks(self.masks, self.images, str(self)))
        for key, layer in self.layers.items():
            if isinstance(self.images, StreamedImages) or layer.shape != shape or layer.dtype != np.uint8:
                problem = f"the layer {key!r} must be uint8 {shape} like the images in memory"
                remedy = "give each image without that layer"
                raise DataError(f"{self}: {problem}, but got {layer.dtype} {layer.shape}; {remedy}.")

    def _check_labels(self, key: str, labels: np.ndarray) -> None:
        if labels.dtype != np.int64 or labels.shape != (len(self),):
            problem = f"{key!r} must be int64 ({len(self)},), but is {labels.dtype} {labels.shape}"
            raise DataError(f"{self}: {problem}; give one whole number for each image.")
        top = len(self.class_names[key]) - 1
        wrong = labels[(labels < UNLABELLED) | (labels > top)]
        if len(wrong):
            problem = f"{len(wrong)} of {len(self)} do not, the first is {wrong[0]}"
            limits = f"{UNLABELLED} (unlabelled) to {top}"
            raise DataError(f"{self}: {key!r} must be {limits}, but {problem}; correct or name them.")

    def __len__(self) -> int:
        return len(self.images)

    def __str__(self) -> str:
        return f"{self.name} ({self.split})"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image as encoders see it."""
        if isinstance(self.images, StreamedImages):
            return self.images.image_size, self.images.image_size, self.images.channels
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def image_size(self) -> int:
        """The height at which encoders see the images."""
        return self.image_shape[0]

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB; other images have any number."""
        return self.image_shape[2]

    @property
    def several(self) -> tuple[str, ...]:
        """The names of several labels an image, "label:NAME" each; none if each image has one class.

        >>> labels = {"label": np.array([-1, -1]), "label:cat": np.array([0, 1])}
        >>> names = {"label": (), "label:cat": ("0", "1")}
        >>> ImageSet(np.zeros((2, 8, 8, 1), np.uint8), labels, names).several
        ('label:cat',)
        """
        return tuple(name for name in self.labels if name.startswith("label:"))

    def resized(self, size: int) -> "ImageSet":
        """The set at size x size: the shorter side is resized to `size` (antialiased), the centre is kept.

        A set of this size is returned unchanged. Streamed images are decoded for encoders with this input
        size.

        Args:
            size: The height and width in pixels.

        Raises:
            UsageError: If the size is below 1.
        """
        check_image_size(size)
        if self.image_shape[:2] == (size, size):
            return self
        if isinstance(self.images, StreamedImages):
            return replace(self, images=self.images.resized(size))
        layers = {key: _fitted(layer, size) for key, layer in self.layers.items()}
        return replace(self, images=_fitted(self.images, size), layers=layers)

    def prepared(self, preprocessing: Preprocessing) -> "ImageSet":
        """The set with every image fitted to a net as `preprocessing` says, from its own full size.

        Images are fitted when they are read, also those in memory. Composites are fitted at once, with their
        layers.

        Args:
            preprocessing: The steps, which come with the weights of the net.

        Raises:
            UsageError: If the fitted image has another shape or type than `Preprocessing` promises.
        """
        images = self.images
        if not isinstance(images, StreamedImages):
            images = _streamed(images, self.ids, str(self))
        prepared = images.prepared(preprocessing)
        if not self.layers:
            return replace(self, images=prepared)
        rows = np.arange(len(self))
        layers = {
            key: _streamed(layer, self.ids, key).prepared(preprocessing) for key, layer in self.layers.items()
        }
        fitted = {key: layer.centres(rows) for key, layer in layers.items()}
        return replace(self, images=prepared.centres(rows), layers=fitted)

    def despite(self, bad: BadImages) -> "ImageSet":
        """The set with undecodable images noted in `bad` and replaced by others with the same labels.

        The replacement comes from this set, even after the set is cut to a subset.
        """
        if not isinstance(self.images, StreamedImages):
            return replace(self, bad=bad)
        alike = np.full(len(self.images.keys), -1)
        alike[self.images.originals] = _combined(list(self.labels.values()))
        return replace(self, images=replace(self.images, bad=bad, alike=alike), bad=bad)

    def limited(self, n: int, seed: int) -> "ImageSet":
        """A random subset of `n` images with every class in proportion, in the original order.

        A larger `n` contains the images of a smaller one.

        Args:
            n: Number of images.
            seed: Seed of the draw.

        Raises:
            UsageError: If `n` is outside 1 to N.
        """
        return self.subset(self.limited_rows(n, seed))

    def limited_rows(self, n: int, seed: int) -> np.ndarray:
        """Which images `limited` takes, with its arguments and errors: int64 (n,), ascending."""
        if not 1 <= n <= len(self):
            raise UsageError(f"A limit of {n} is outside 1 to {len(self)}, the size of {self}; change it.")
        return np.sort(stratified_order(self.labels["label"], seed)[:n])

    def fraction(self, share: float, seed: int) -> "ImageSet":
        """A random share of each class and of the unlabelled images, in the original order.

        Of the m images of a class, share m rounded are kept. A larger share contains the images of a smaller
        one.

        Args:
            share: The share to keep, above 0 and up to 1.
            seed: Seed of the draw.

        Raises:
            UsageError: If the share is outside 0 to 1.
            DataError: If a class would lose all its images.

        >>> from fullrank.data import source
        >>> np.bincount(source("digits").load("test").fraction(0.1, seed=0).labels["label"])
        array([5, 5, 5, 5, 5, 5, 5, 5, 5, 5])
        """
        if not 0 < share <= 1:
            raise UsageError(f"A share of {share:g} of {self} is outside 0 to 1; choose 1 for all.")
        labels = self.labels["label"]
        labelled = labels[labels != UNLABELLED] if (labels != UNLABELLED).any() else labels
        counts = np.unique(labelled, return_counts=True)[1]
        empty = int((0.5 / counts > share).sum())
        if empty:
            least = math.ceil(0.5e6 / counts.min()) / 1e6  # rounded up for the message, so that it suffices
            classes = f"{empty} of {len(counts)} classes without an image"
            raise DataError(f"A share of {share:g} of {self} leaves {classes}; choose {least} or more.")
        return self.subset(stratified_share(labels, share, seed))

    def held_out(self, share: float, seed: int) -> "tuple[ImageSet, ImageSet]":
        """Split the set into the rest and a random share of each class, both in the original order.

        Args:
            share: The share of each class to hold out.
            seed: Seed of the draw.

        Returns:
            The rest, and the share that is held out.

        Raises:
            UsageError: If the share is outside 0 to 1.
            DataError: If one of the two would lack a class.

        >>> from fullrank.data import source
        >>> rest, taken = source("digits").load("train").held_out(0.2, seed=0)
        >>> len(rest), len(taken)
        (1038, 259)
        """
        taken = self.fraction(share, seed)
        rows = stratified_share(self.labels["label"], share, seed)
        rest = np.setdiff1d(np.arange(len(self)), rows)
        if set(self.labels["label"]) != set(self.labels["label"][rest]):
            raise DataError(f"A share of {share:g} of {self} takes a whole class; choose a smaller one.")
        return self.subset(rest), taken

    def of_classes(self, names: Sequence[str], label: str = "label") -> "ImageSet":
        """The images of some classes, which are renumbered in the given order; other labels stay.

        Args:
            names: The names of the classes to keep.
            label: The name of the labels that the classes belong to.

        Raises:
            UsageError: If the set does not have the label, or a name is not a class of it or is given twice.
            DataError: If no image is left.

        >>> from fullrank.data import source
        >>> sevens = source("digits").load("test").of_classes(["7", "1"])
        >>> sevens.class_names["label"], np.unique(sevens.labels["label"]).tolist()
        (('7', '1'), [0, 1])
        """
        self.check_label(label)
        classes = self.class_names[label]
        unknown = [name for name in names if name not in classes]
        if unknown:
            near = get_close_matches(unknown[0], classes, n=3, cutoff=0.5) or classes[:3]
            problem = f"{len(unknown)} of {len(names)} names are not a {label!r} of {self}: {unknown[0]!r}"
            raise UsageError(f"{problem}; it has {len(classes)}, such as {', '.join(map(repr, near))}.")
        if twice := first_twice(names):
            raise UsageError(f"The class {twice!r} is named twice; keep one.")
        renumbered = np.full(len(classes) + 1, UNLABELLED)  # the last entry is for label -1
        renumbered[[classes.index(name) for name in names]] = np.arange(len(names))
        labels = renumbered[self.labels[label]]
        chosen = self.subset(np.flatnonzero(labels != UNLABELLED))
        return replace(
            chosen,
            labels={**chosen.labels, label: labels[labels != UNLABELLED]},
            class_names={**self.class_names, label: tuple(names)},
        )

    def subset(self, index: np.ndarray) -> "ImageSet":
        """The images at the rows `index` (n,), in that order."""
        return replace(
            self,
            images=self.images[index],
            labels={key: labels[index] for key, labels in self.labels.items()},
            layers={key: layer[index] for key, layer in self.layers.items()},
            ids=tuple(self.ids[row] for row in np.arange(len(self))[index].tolist()),
            masks=None if self.masks is None else self.masks[index],
        )

    def joined(self, other: "ImageSet") -> "ImageSet":
        """The images of this set, then those of `other`, as the split "all".

        Classes are matched by their names; those that only `other` has come last. A label that one of the two
        lacks is -1 there. If both have the same id, every id gets its split in front: `train/0`, `test/0`.

        Args:
            other: Images of the same size and channels, both in memory or both decoded on demand.

        Raises:
            DataError: If the images differ in size or channels, or are not kept in the same way.

        >>> from fullrank.data import source
        >>> both = source("digits").load("train").joined(source("digits").load("test"))
        >>> len(both), both.split
        (1797, 'all')
        """
        from fullrank.data.joining import join

        return join(self, other)

    def tensor(self) -> "Tensor":
        """A copy of the images as encoders see them: a uint8 tensor (N, C, H, W)."""
        import torch

        if isinstance(self.images, StreamedImages):
            return torch.cat(list(self.batches(_CHUNK)))
        return _channels_first(self.images)

    def batches(self, batch_size: int, share: "Share | None" = None) -> "Iterator[Tensor]":
        """The images as encoders see them, in order: uint8 tensors (n, C, H, W).

        Streamed images are decoded ahead of their use.

        Args:
            batch_size: Largest number of images in a batch.
            share: The share of one of several processes: a consecutive part of the images.

        Raises:
            UsageError: If the batch size is below 1.
        """
        if batch_size < 1:
            raise UsageError(f"The batch size must be 1 or more, but got {batch_size}; choose a larger one.")
        chunks = np.split(np.arange(len(self)), range(batch_size, len(self), batch_size))
        if share is not None:
            chunks = [chunks[number] for number in share.stretch(len(chunks))]
        images = self.images
        if isinstance(images, StreamedImages):
            return ahead(lambda rows: _channels_first(images.centres(rows)), chunks)
        return (_channels_first(images[rows]) for rows in chunks)

    def read(self, rows: np.ndarray) -> "tuple[Tensor, Tensor | None]":
        """The images at `rows` (n,) for training: uint8 (n, C, H, W), and their original sizes (n, 2) int64.

        Streamed images are squashed to square canvases. Images in memory are unchanged, and the sizes are
        None.
        """
        import torch

        if isinstance(self.images, StreamedImages):
            canvases, sizes = self.images.canvases(rows)
            return _channels_first(canvases), torch.from_numpy(sizes)
        return _channels_first(self.images[rows]), None

    def read_layers(self, rows: np.ndarray | slice) -> "dict[str, Tensor] | None":
        """The images at `rows` (n,) without each layer: name -> uint8 (n, C, H, W); None if none has any."""
        return {key: _channels_first(layer[rows]) for key, layer in self.layers.items()} or None

    def batch(self, rows: np.ndarray) -> "Batch":
        """The images at `rows` (n,) as an unlabelled batch, from which views are made.

        >>> from fullrank.data import source
        >>> source("digits").load("test").batch(np.array([3, 1])).images.shape
        torch.Size([2, 1, 8, 8])
        """
        import torch

        from fullrank.batch import Batch

        pixels, sizes = self.read(rows)
        unlabelled = torch.full((len(rows),), UNLABELLED)
        return Batch(pixels, unlabelled, torch.from_numpy(rows), self.read_layers(rows), sizes)

    @property
    def has_masks(self) -> bool:
        """Whether the objects in the images have masks."""
        return self.masks is not None or FOREGROUND in self.layers

    def object_masks(self) -> np.ndarray:
        """Masks of the objects as encoders see the images, (N, H, W) uint8: 0 background, 255 ignored.

        Those of a composite are exact: an object is where the image differs from the image without its layer.
        The foreground is object 1. Masks of files are cut and resized as their images are, by nearest
        neighbour.

        Raises:
            DataError: If the images have no masks, or a mask is missing or has another size than its image.

        >>> from fullrank.data import source
        >>> masks = source("composite:two-cues").load("test").object_masks()
        >>> masks.shape, np.unique(masks).tolist()
        ((500, 12, 12), [0, 1, 2])
        """
        if isinstance(self.masks, Masks):
            masks, (height, width, _) = self.masks, self.image_shape
            whole = (masks.read(row) for row in masks.rows.tolist())
            if height == width:
                return np.stack([square_mask(mask, self.images, height) for mask in whole])
            return np.stack(list(whole))
        if FOREGROUND in self.layers and isinstance(self.images, np.ndarray):
            return layer_masks(self.images, self.layers)
        remedy = "use a composite, or name a folder of masks (folder:PATH,masks=DIR)"
        raise DataError(f"{self} has no masks of objects; {remedy}.")

    def checksum(self) -> int:
        """CRC-32 of the pixels; for streamed images, of their number and names."""
        if isinstance(self.images, StreamedImages):
            return self.images.checksum()
        return zlib.crc32(np.ascontiguousarray(self.images).data)

    def channel_statistics(self) -> Statistics:
        """Mean and standard deviation (1/N) of each channel over all pixels, for pixels in 0 to 1.

        The sums are whole numbers and therefore exact. For streamed images these are conventional values, as
        for ImageNet, or the statistics of a fixed sample of 1024 centres.

        >>> grey = np.full((1, 2, 2, 1), 51, np.uint8)
        >>> ImageSet(grey, {"label": np.array([-1])}, {"label": ()}).channel_statistics()
        ((0.2,), (0.0,))
        """
        images = self.images
        if isinstance(images, StreamedImages):
            if images.statistics is not None:
                return images.statistics
            images = images.centres(np.sort(generator(0).permutation(len(self))[:_STATISTICS_SAMPLE]))
        pixels = images[..., 0].size
        chunks = np.array_split(images, -(-len(images) // _CHUNK))
        squares = np.sum([np.square(chunk, dtype=np.int64).sum((0, 1, 2)) for chunk in chunks], axis=0)
        mean = images.sum((0, 1, 2), dtype=np.int64) / pixels
        deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
        return tuple((mean / 255).tolist()), tuple((deviation / 255).tolist())

    def occurring(self, label: str) -> set[str]:
        """The names of the classes of a label that at least one image has."""
        numbers = np.unique(self.labels[label]).tolist()
        return {self.class_names[label][number] for number in numbers if number != UNLABELLED}

    def check_label(self, label: str) -> None:
        """Raise UsageError, with the nearest names, if the set does not have a label."""
        if label not in self.labels:
            raise unknown_name("label", label, self.labels, f"{self} has {', '.join(self.labels)}")


def _default_ids(images: np.ndarray | StreamedImages) -> tuple[str, ...]:
    if isinstance(images, StreamedImages):
        return tuple(printable(images.keys[row]) for row in images.originals.tolist())
    return tuple(map(str, range(len(images))))


def _combined(labels: Sequence[np.ndarray]) -> np.ndarray:
    """A number for each row (N,); rows with the same labels have the same number."""
    if len(labels) == 1:
        return labels[0]
    return np.unique(np.stack(labels), axis=1, return_inverse=True)[1].reshape(-1)


def _streamed(images: np.ndarray, ids: Sequence[str], name: str) -> StreamedImages:
    """Images in memory as streamed images, whose canvases have as many pixels or more."""
    side = max(images.shape[1:3])
    return StreamedImages(lambda row: images[row], ids, side, side, images.shape[3], name)


def _fitted(images: np.ndarray, size: int) -> np.ndarray:
    fitted = np.empty((len(images), size, size, images.shape[3]), np.uint8)
    for target, image in zip(fitted, images, strict=True):
        target[:] = joined(fit_square(band, size) for band in bands(image, len(image[0, 0])))
    return fitted


def _channels_first(images: np.ndarray) -> "Tensor":
    import torch

    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def check_image_size(size: int) -> None:
    """Raise UsageError if an image size is below 1."""
    if size < 1:
        raise UsageError(f"The image size must be 1 or more, but got {size}; choose a larger one.")


def count_classes(images: ImageSet, label: str) -> int:
    """Number of classes that occur among the labelled images."""
    labels = images.labels.get(label)
    return 0 if labels is None else len(np.unique(labels[labels >= 0]))
