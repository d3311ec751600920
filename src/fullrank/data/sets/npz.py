"""NumPy .npz files of images and labels."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import final
from warnings import warn

import numpy as np

from fullrank.data.depth import SIXTEEN, Window, largest, naming, window_option
from fullrank.data.image_set import UNLABELLED, ImageSet
from fullrank.data.labelling import Labels, of_columns, one_class
from fullrank.data.selection import fixed_split
from fullrank.data.sources import Source, Split, canonical
from fullrank.data.survey import found_window
from fullrank.data.undecodable import BadImages
from fullrank.errors import DataError, FullrankWarning
from fullrank.files import DAMAGED_ARRAYS, expanded

Layout = dict[Split, tuple[str, str]]
"""Split -> the names of its arrays of images and labels."""

_SPLIT_LAYOUTS: tuple[Layout, ...] = (
    {"train": ("train_images", "train_labels"), "test": ("test_images", "test_labels")},
    {"train": ("train_images", "train_labels"), "test": ("val_images", "val_labels")},
    {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")},
)
_POOLED: Layout = {"train": ("images", "labels"), "test": ("images", "labels")}


@final
class NpzArchive(Source):
    """A .npz file of images (N, H, W) or (N, H, W, C), and their labels.

    The arrays have one of these sets of names:

    - train_images, train_labels, test_images (or val_images), test_labels, as in MedMNIST;
    - x_train, y_train, x_test, y_test, as in Keras;
    - images, labels; they are split 80 % and 20 %, stratified and always the same.

    Labels are whole numbers or words, (N,) or (N, 1). Classes are the values that occur in any split, in
    order. Images without labels, or with the label -1, NaN or "", are unlabelled. Columns (N, L) of 0 and 1
    are several labels an image, named "label:0", "label:1", ...; if every row has one 1, they are classes.
    Labels of another kind, such as 0.5, are not used, with a warning, since training needs none.

    Images that are not uint8 become eight bits. Without `bits`, they have the fewest of 8, 10, 12, 14 and 16
    bits that hold the largest value of all arrays. What was found is said and stands in `window`.

    Args:
        path: The file.
        bits: The bits of pixels that are not uint8. A larger value is an error.
        low: The value that becomes black, for pixels that are negative or not whole, or need more than 16
            bits. Smaller values become black too.
        high: The value that becomes white, and with it all larger values.

    Raises:
        DataError: If the file is missing or damaged, contains pickled objects (nothing is unpickled), or has
            other names, shapes or types.
        UsageError: If the bits or the window are outside their limits.

    >>> NpzArchive("bloodmnist.npz").name
    'npz:bloodmnist.npz'
    """

    def __init__(
        self, path: str, bits: int | None = None, low: float | None = None, high: float | None = None
    ):
        super().__init__(canonical("npz", path, bits=bits, high=high, low=low))
        self._given = window_option(bits, low, high)
        self.path = expanded(path)

    @cached_property
    def window(self) -> Window | None:
        """How pixels of another type than uint8 become eight bits; None if all are uint8."""
        with self._opened() as file:
            keys = dict.fromkeys(key for key, _ in self._layout(file.files).values())
            arrays = {key: self._array(file, key) for key in keys}
        deep = {key: array for key, array in arrays.items() if array.dtype not in (np.uint8, np.bool_)}
        if self._given or not deep:
            return self._given
        highest = 0
        for key, array in deep.items():
            with naming(key, self.name):
                highest = max(highest, largest(array))
        return found_window(highest, sum(map(len, deep.values())), self.name)

    @property
    def official(self) -> bool:
        """Whether the file has arrays of two splits."""
        with self._opened() as file:
            return self._layout(file.files) is not _POOLED

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`."""
        images = self._arrays(split)
        if self.official:
            return images
        return images.subset(fixed_split(images.labels["label"], split, self.name))

    def read_all(self, image_size: int | None, bad: BadImages) -> ImageSet:
        """Read the images of both splits, in the order of the file if they share one array."""
        if self.official:
            return super().read_all(image_size, bad)
        return replace(self._arrays("train"), split="all")

    def _opened(self) -> np.lib.npyio.NpzFile:
        if not self.path.is_file():
            raise DataError(f"The file {self.path} does not exist; check the path in {self.name}.")
        try:
            file = np.load(self.path, allow_pickle=False)
        except DAMAGED_ARRAYS as error:
            raise DataError(f"{self.path} is not a complete .npz file; save it with numpy.savez.") from error
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError(f"{self.path} is a single array, not a .npz file; save it with numpy.savez.")
        return file

    def _arrays(self, split: Split) -> ImageSet:
        """The images in the arrays of `split`; both splits share them if there is only one array."""
        with self._opened() as file:
            layout = self._layout(file.files)
            images = self._images(file, layout[split][0])
            arrays = {s: self._array(file, key) for s, (_, key) in layout.items() if key in file.files}
        if split in arrays and len(arrays[split]) != len(images):
            image, label = layout[split]
            lengths = f"{image} has {len(images)} rows, but {label} has {len(arrays[split])}"
            raise DataError(f"{self.path}: {lengths}; give one row of labels for each image.")
        labels = self._labels(arrays, layout)
        own = labels.of.get(split) or {key: np.full(len(images), UNLABELLED) for key in labels.class_names}
        return ImageSet(images, own, labels.class_names, self.name, split)

    def _layout(self, names: list[str]) -> Layout:
        for layout in (*_SPLIT_LAYOUTS, _POOLED):
            if all(images in names for images, _ in layout.values()):
                return layout
        needed = "train_images and test_images, or x_train and x_test, or images"
        held = ", ".join(names) or "nothing"
        raise DataError(f"{self.path} has {held}, but needs {needed}; rename its arrays.")

    def _images(self, file: Mapping[str, np.ndarray], key: str) -> np.ndarray:
        images = self._array(file, key)
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.dtype.kind not in "uifb":
            problem = f"{key} must be numbers (N, H, W) or (N, H, W, C), but is {images.dtype} {images.shape}"
            raise DataError(f"{self.path}: {problem}; save it in this form.")
        if images.dtype == np.uint8:
            return images
        window, pixels = self.window or SIXTEEN, np.empty(images.shape, np.uint8)
        with naming(key, self.name):
            for row, image in enumerate(images):
                pixels[row] = window.eight_bit(image)
        return pixels

    def _labels(self, arrays: Mapping[Split, np.ndarray], layout: Layout) -> Labels:
        """The labels of all splits; unlabelled, with a warning, where they are of no known kind."""
        key = " and ".join(dict.fromkeys(layout[split][1] for split in arrays))
        name = f"{self.path}: {key}"
        columns = {
            str(s): each[:, 0] if each.ndim == 2 and each.shape[1] == 1 else each
            for s, each in arrays.items()
        }
        shapes = {each.shape[1:] for each in columns.values()}
        try:
            if shapes <= {()}:
                return one_class(columns, name)
            if len(shapes) == 1 and len(shape := shapes.pop()) == 1:
                return of_columns(columns, [str(column) for column in range(shape[0])], name)
            got = ", ".join(str(each.shape) for each in arrays.values())
            raise DataError(
                f"{name}: labels are (N,), (N, 1) or alike (N, L), but these are {got}; reshape them."
            )
        except DataError as error:
            warn(f"{error} Until then, the images count as unlabelled.", FullrankWarning, stacklevel=2)
            return Labels({}, {"label": ()})

    def _array(self, file: Mapping[str, np.ndarray], key: str) -> np.ndarray:
        try:
            return np.asarray(file[key])
        except DAMAGED_ARRAYS as error:
            problem = f"{key} cannot be read ({' '.join(str(error).split())})"
            raise DataError(f"{self.path}: {problem}; save plain arrays with numpy.savez.") from error
