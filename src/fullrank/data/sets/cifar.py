"""CIFAR-10 and CIFAR-100 in both official forms; torchvision reads only one, and executes its pickles."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np

from fullrank.data.image_set import ImageSet
from fullrank.data.sets.pickles import Array, read_pickled
from fullrank.data.sources import Source, Split, canonical, check_folder, damaged, find_archive
from fullrank.errors import DataError
from fullrank.files import expanded

SIDE = 32
_PIXELS = 3 * SIDE * SIDE


@dataclass(frozen=True)
class CifarForm:
    """One form of a collection: its folder, its archive, and the ending of its files."""

    folder: str
    archive: str
    ending: str = ""


@dataclass(frozen=True)
class CifarLabel:
    """One kind of label: our name, its keys in the pickles, and its file and byte in the binary form."""

    name: str
    key: str
    names_key: str
    names_file: str
    byte: int


@dataclass(frozen=True)
class CifarCollection:
    """One published set: its files, both forms, the pickle that names its classes, its kinds of labels."""

    name: str
    files: dict[Split, tuple[str, ...]]
    pickled: CifarForm
    binary: CifarForm
    meta: str
    labels: tuple[CifarLabel, ...]

    def paths(self, form: CifarForm, folder: Path, split: Split) -> list[Path]:
        """The files of a split, in `folder`."""
        return [folder / f"{file}{form.ending}" for file in self.files[split]]


CIFAR10 = CifarCollection(
    "cifar10",
    {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
    CifarForm("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    CifarForm("cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin"),
    "batches.meta",
    (CifarLabel("label", "labels", "label_names", "batches.meta.txt", 0),),
)
CIFAR100 = CifarCollection(
    "cifar100",
    {"train": ("train",), "test": ("test",)},
    CifarForm("cifar-100-python", "cifar-100-python.tar.gz"),
    CifarForm("cifar-100-binary", "cifar-100-binary.tar.gz", ".bin"),
    "meta",
    (
        CifarLabel("label", "fine_labels", "fine_label_names", "fine_label_names.txt", 1),
        CifarLabel("coarse", "coarse_labels", "coarse_label_names", "coarse_label_names.txt", 0),
    ),
)


@final
class Cifar(Source):
    """The 32 x 32 RGB images and labels of a collection, in either official form.

    The label `label` of CIFAR-100 is the fine one, `coarse` its superclass. No code in a pickle is executed:
    it may only contain arrays of bytes, text, numbers, lists and dictionaries.

    Args:
        collection: CIFAR-10 or CIFAR-100.
        path: The unpacked folder, or the folder above it.

    Raises:
        DataError: If the folder has neither form, or a file is missing or damaged or contains anything else.

    >>> cifar10("data").name
    'cifar10:data'

    Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"; both forms as described
    on the page of the data set.
    """

    def __init__(self, collection: CifarCollection, path: str):
        super().__init__(canonical(collection.name, path))
        self.collection, self.path, self._kinds = collection, expanded(path), collection.labels

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`."""
        form, folder = self._form()
        if form is self.collection.pickled:
            read, meta = self._read_pickled, folder / self.collection.meta
            content = read_pickled(meta)
            names = {k.name: tuple(self._listed(meta, content, k.names_key, str)) for k in self._kinds}
        else:
            read = self._read_binary
            names = {k.name: read_names(folder / k.names_file, self.name) for k in self._kinds}
        parts = [read(path) for path in self.collection.paths(form, folder, split)]
        pixels, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
        labels = {kind.name: column for kind, column in zip(self._kinds, columns, strict=True)}
        images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        return ImageSet(np.ascontiguousarray(images), labels, names, self.name, split)

    def _form(self) -> tuple[CifarForm, Path]:
        check_folder(self.path, self.name)
        forms = (self.collection.pickled, self.collection.binary)
        for form in forms:
            for folder in (self.path / form.folder, self.path):
                if self.collection.paths(form, folder, "test")[0].is_file():
                    return form, folder
        tests = [self.collection.paths(form, self.path / form.folder, "test")[0] for form in forms]
        expected = " or ".join(map(str, tests))
        archive = find_archive(self.path, [form.archive for form in forms]) or forms[0].archive
        problem = f"{self.name} has no {self.collection.name}: expected {expected} and the files beside it"
        raise DataError(f"{problem}; unpack {archive} there.")

    def _read_pickled(self, path: Path) -> tuple[np.ndarray, ...]:
        """Pixels (n, 3072) and each kind of labels (n,)."""
        content = read_pickled(path)
        data = content.get("data")
        pixels = data.values if isinstance(data, Array) else None
        if pixels is None or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
            raise damaged(self.name, path, f"'data' is not an array of the shape (N, {_PIXELS})")
        columns = [self._listed(path, content, kind.key, int) for kind in self._kinds]
        for kind, labels in zip(self._kinds, columns, strict=True):
            if len(labels) != len(pixels):
                problem = f"{kind.key!r} has {len(labels)} entries for {len(pixels)} images"
                raise damaged(self.name, path, problem)
        return pixels, *(np.array(labels, np.int64) for labels in columns)

    def _listed(self, path: Path, content: dict[str, Any], key: str, member: type) -> list[Any]:
        values = content.get(key)
        if not isinstance(values, list) or not all(type(value) is member for value in values):
            what = "whole numbers" if member is int else "names"
            raise damaged(self.name, path, f"{key!r} is not a list of {what}")
        return values

    def _read_binary(self, path: Path) -> tuple[np.ndarray, ...]:
        """As `_read_pickled`."""
        record = len(self._kinds) + _PIXELS
        try:
            content = np.fromfile(path, np.uint8)
        except OSError as error:
            raise damaged(self.name, path, "it cannot be read") from error
        if len(content) % record:
            problem = f"its {len(content)} bytes are not a multiple of {record}, the bytes of an image"
            raise damaged(self.name, path, problem)
        rows = content.reshape(-1, record)
        return rows[:, len(self._kinds) :], *(rows[:, kind.byte].astype(np.int64) for kind in self._kinds)


cifar10, cifar100 = (partial(Cifar, collection) for collection in (CIFAR10, CIFAR100))


def read_names(path: Path, name: str) -> tuple[str, ...]:
    """The lines of a text file of class names, without empty ones; DataError if it cannot be read."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(name, path, "the names of the classes cannot be read") from error
    return tuple(line.strip() for line in lines if line.strip())
