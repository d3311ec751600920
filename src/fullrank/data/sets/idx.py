"""MNIST and the sets in its format: IDX files, plain or gzipped."""

import gzip
import math
import zlib
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import final

import numpy as np

from fullrank.data.image_set import ImageSet
from fullrank.data.sources import Source, Split, canonical, check_folder, first_file
from fullrank.errors import DataError
from fullrank.files import expanded

_PREFIX = {"train": "train", "test": "t10k"}
_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
_IMAGES_MAGIC, _LABELS_MAGIC = 0x803, 0x801  # unsigned bytes in three dimensions and in one


@dataclass(frozen=True)
class IdxCollection:
    """One published set of IDX files: its classes and the places of its files.

    `torchvision` is the set's class in `torchvision.datasets` and the folder it writes. `packaged` is the
    folder in which the Debian package `package` puts the files.
    """

    name: str
    torchvision: str
    class_names: tuple[str, ...]
    packaged: Path | None = None
    package: str | None = None


MNIST = IdxCollection("mnist", "MNIST", tuple(map(str, range(10))))
FASHION_MNIST = IdxCollection(
    "fashion-mnist",
    "FashionMNIST",
    (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    packaged=Path("/usr/share/datasets/fashion-mnist"),
    package="dataset-fashion-mnist",
)


@final
class IdxFiles(Source):
    """The images and labels of a collection of IDX files.

    Args:
        collection: The published set.
        path: The folder of the files, or the folder above torchvision's. By default the files come from
            Debian's package, if it is installed. Otherwise torchvision downloads them into its cache when
            they are first loaded.

    Raises:
        DataError: If a file is missing, truncated or of another kind, the counts differ, or a download fails.

    Source: the format as described on LeCun's MNIST page: big-endian magic, sizes, then the bytes.
    """

    grey = True

    def __init__(self, collection: IdxCollection, path: str | None = None):
        super().__init__(canonical(collection.name, path))
        self.collection, self.path = collection, path

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`."""
        folder = self._folder()
        image_file, label_file = (self._file(folder, f"{_PREFIX[split]}-{kind}") for kind in _KINDS)
        images, labels = read_idx(image_file, _IMAGES_MAGIC), read_idx(label_file, _LABELS_MAGIC)
        if len(images) != len(labels):
            counts = f"{image_file} has {len(images)} images, but {label_file} has {len(labels)} labels"
            raise DataError(f"{counts}; take both from one download.")
        classes = self.collection.class_names
        if len(labels) and labels.max() >= len(classes):
            allowed = f"labels of {self.collection.name} are 0 to {len(classes) - 1}"
            raise DataError(f"{label_file} has the label {labels.max()}, but {allowed}; download it again.")
        labels = labels.astype(np.int64)
        return ImageSet(images[..., None], {"label": labels}, {"label": classes}, self.name, split)

    def _folder(self) -> Path:
        if self.path is not None:
            return expanded(self.path)
        if self.collection.packaged is not None and self.collection.packaged.is_dir():
            return self.collection.packaged
        return self._downloaded()

    def _downloaded(self) -> Path:
        cache = Path.home() / ".cache" / "fullrank" / self.collection.name
        raw = cache / self.collection.torchvision / "raw"
        stems = (f"{prefix}-{kind}" for prefix in _PREFIX.values() for kind in _KINDS)
        if all(first_file(_forms(stem, raw)) for stem in stems):
            return raw
        from torchvision import datasets

        try:
            getattr(datasets, self.collection.torchvision)(cache, download=True)
        except (OSError, RuntimeError, HTTPException) as error:
            install = f"`apt install {self.collection.package}`, or " if self.collection.package else ""
            name, reason = self.collection.name, " ".join(str(error).split())
            problem = f"{name} is not on this machine and cannot be downloaded ({reason})"
            remedy = f"{install}pass the folder of its IDX files as {name}:PATH"
            raise DataError(f"{problem}; {remedy}.") from error
        return raw

    def _file(self, folder: Path, stem: str) -> Path:
        written = f"{self.collection.torchvision}/raw"
        file = first_file(_forms(stem, folder, folder / "raw", folder / written))
        if file is not None:
            return file
        check_folder(folder, self.name)
        problem = f"neither {folder} nor {written} below it has {stem} or {stem}.gz"
        raise DataError(f"{self.name}: {problem}; pass the folder of the IDX files.")


mnist, fashion_mnist = (partial(IdxFiles, collection) for collection in (MNIST, FASHION_MNIST))


def _forms(stem: str, *folders: Path) -> list[Path]:
    return [folder / name for folder in folders for name in (stem, f"{stem}.gz")]


def read_idx(path: Path, magic: int) -> np.ndarray:
    """The uint8 array in an IDX file; DataError unless it starts with `magic` and has the right length."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); download it again.") from error
    dimensions = magic & 0xFF
    header = 4 * (1 + dimensions)
    if len(content) < header:
        raise DataError(f"{path} has {len(content)} bytes, but its header alone {header}; download it again.")
    first, *shape = np.frombuffer(content, ">u4", 1 + dimensions).tolist()
    if first != magic:
        expected = f"0x{magic:08x}, the start of an IDX file of {dimensions} dimensions"
        raise DataError(f"{path} starts with 0x{first:08x}, not with {expected}; download it again.")
    promised = header + math.prod(shape)
    if len(content) != promised:
        raise DataError(f"{path} has {len(content)} bytes, not {promised} as promised; download it again.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
