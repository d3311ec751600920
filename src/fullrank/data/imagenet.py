"""ImageNet (ILSVRC2012) as folders of JPEG files, decoded on demand."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
from PIL import Image

from fullrank.data.image_set import ImageSet
from fullrank.data.sources import SPLITS, Source, Split, check_folder
from fullrank.data.streamed import CANVAS, IMAGE_SIZE, IMAGENET_STATISTICS, StreamedImages
from fullrank.errors import DataError
from fullrank.specs import Spec

FOLDERS: dict[Split, str] = {"train": "train", "test": "val"}
_ENDINGS = (".jpeg", ".jpg", ".png")


@final
class ImageNet(Source):
    """The images in train/CLASS and val/CLASS below `path`, streamed; a class is called as its folder.

    Classes are the folders of both splits, sorted; the split that is not loaded may be missing. Mean and
    spread of the channels are those that convention fixes.

    Raises DataError for a tree of another shape.

    >>> ImageNet("no/such/folder").load("train")
    Traceback (most recent call last):
    ...
    fullrank.errors.DataError: There is no no/such/folder; check the path in imagenet:no/such/folder.

    Source: Russakovsky et al. 2015, arXiv:1409.0575; the tree is that of `torchvision.datasets.ImageNet`.
    """

    def __init__(self, path: str, canvas: int = CANVAS):
        super().__init__(str(Spec("imagenet", path, () if canvas == CANVAS else (("canvas", canvas),))))
        self.path, self.canvas = Path(path).expanduser(), canvas

    def _read(self, split: Split, image_size: int | None) -> ImageSet:
        folder = FOLDERS[split]
        classes = self._classes
        if not self._folders[split]:
            raise self._wrong(split)
        rows = {name: row for row, name in enumerate(classes)}
        paths = [self.path / folder / name for name in self._folders[split]]
        with ThreadPoolExecutor() as pool:
            files = list(pool.map(_list_files, paths))
        keys = [
            f"{folder}/{path.name}/{file}"
            for path, listed in zip(paths, files, strict=True)
            for file in listed
        ]
        labels = np.repeat([rows[path.name] for path in paths], [len(listed) for listed in files])
        if not keys:
            raise self._wrong(split)
        root = self.path
        images = StreamedImages(
            lambda row: Image.open(root / keys[row]),
            keys,
            self.canvas,
            image_size or IMAGE_SIZE,
            name=self.name,
            statistics=IMAGENET_STATISTICS,
        )
        return ImageSet(images, {"label": labels.astype(np.int64)}, {"label": classes}, self.name, split)

    @cached_property
    def _folders(self) -> dict[Split, tuple[str, ...]]:
        """The class folders of each split, sorted; none where the split is missing."""
        check_folder(self.path, self.name)
        return {split: _list_folders(self.path / FOLDERS[split]) for split in SPLITS}

    @property
    def _classes(self) -> tuple[str, ...]:
        train, test = (set(self._folders[split]) for split in SPLITS)
        if train and test - train:
            raise DataError(
                f"{self.name}: {len(test - train)} of {len(test)} class folders of val are not in train, the "
                f"first is {min(test - train)!r}; name them as in train."
            )
        return tuple(sorted(train | test))

    def _wrong(self, split: Split) -> DataError:
        folder = self.path / FOLDERS[split]
        expected = f"expected {self.path}/train/n01440764/*.JPEG and {self.path}/val/n01440764/*.JPEG"
        if not folder.is_dir():
            return DataError(f"{self.name}: there is no {folder}; {expected}.")
        flat = len(_list_files(folder))
        if flat:
            return DataError(
                f"{self.name}: {folder} holds {flat} images without class folders, but {expected}; sort "
                "them with torchvision.datasets.ImageNet(PATH, split='val'), where PATH holds "
                "ILSVRC2012_img_val.tar and the development kit."
            )
        return DataError(f"{self.name}: {folder} holds no image; {expected}.")


def _list_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    with os.scandir(folder) as entries:
        return tuple(sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir()))


def _list_files(folder: Path) -> list[str]:
    """The names of the images in `folder`, sorted, without looking at any of the files."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    return sorted(name for name in names if name.lower().endswith(_ENDINGS) and not name.startswith("."))
