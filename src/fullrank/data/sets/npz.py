"""NumPy .npz files of images and labels."""

from collections.abc import Mapping
from dataclasses import replace
from typing import final
from warnings import warn

import numpy as np

from fullrank.data.image_set import UNLABELLED, ImageSet
from fullrank.data.labelling import Labels, of_columns, one_class
from fullrank.data.selection import fixed_split
from fullrank.data.sources import Source, Split, canonical
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
    """A .npz file of images (N, H, W), (N, H, W, 1) or (N, H, W, 3), uint8, and their labels.

    The arrays have one of these sets of names:

    - train_images, train_labels, test_images (or val_images), test_labels, as in MedMNIST;
    - x_train, y_train, x_test, y_test, as in Keras;
    - images, labels; they are split 80 % and 20 %, stratified and always the same.

    Labels are whole numbers or words, (N,) or (N, 1). Classes are the values that occur in any split, in
    order. Images without labels, or with the label -1, NaN or "", are unlabelled. Columns (N, L) of 0 and 1
    are several labels an image, named "label:0", "label:1", ...; if every row has one 1, they are classes.
    Labels of another kind, such as 0.5, are not used, with a warning, since training needs none.

    Args:
        path: The file.

    Raises:
        DataError: If the file is missing or damaged, contains pickled objects (nothing is unpickled), or has
            other names, shapes or types.

    >>> NpzArchive("bloodmnist.npz").name
    'npz:bloodmnist.npz'
    """

    def __init__(self, path: str):
        super().__init__(canonical("npz", path))
        self.path = expanded(path)

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
        if images.dtype != np.uint8:
            remedy = "scale, round and cast it with .astype('uint8')"
            raise DataError(f"{self.path}: {key} must be uint8, 0 to 255, but is {images.dtype}; {remedy}.")
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.shape[3] not in (1, 3):
            shapes = "(N, H, W), (N, H, W, 1) or (N, H, W, 3)"
            raise DataError(f"{self.path}: {key} must be {shapes}, but is {images.shape}; reorder its axes.")
        return images

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
