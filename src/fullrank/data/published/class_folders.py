"""Streamed trees with one folder for each class, as in ImageNet and its relatives."""

from abc import abstractmethod
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np

from fullrank.data.classes import class_groups, class_list
from fullrank.data.image_files import list_folders, list_photographs
from fullrank.data.image_set import ImageSet
from fullrank.data.sources import SPLITS, Source, Split, check_folder
from fullrank.data.streaming import photographs
from fullrank.errors import DataError
from fullrank.files import expanded
from fullrank.specs import write

FOLDERS: dict[Split, str] = {"train": "train", "test": "val"}


def regroup(wnids: Iterable[str], classes: str | None, name: str) -> dict[str, str]:
    """The class of each of `wnids`, class by class: the number itself, or its group in `classes`."""
    wnids = set(wnids)
    if classes is None or not wnids:
        return {wnid: wnid for wnid in sorted(wnids)}
    check_members(wnids, class_list("imagenet-1k"), f"the 1000 that {classes} groups", name)
    groups = class_groups(classes)
    if wnids.isdisjoint(groups):
        problem = f"none of its {len(wnids)} classes, such as {min(wnids)!r}, is among the {len(groups)}"
        raise DataError(f"{name}: {problem} of {classes}; leave out classes={classes}.")
    return {wnid: group for wnid, group in groups.items() if wnid in wnids}


def check_members(folders: Collection[str], official: Collection[str], which: str, name: str) -> None:
    """Raise DataError, with the source's `name`, unless all `folders` are `official` ones."""
    wrong = sorted(set(folders) - set(official))
    if wrong:
        problem = f"{len(wrong)} of {len(folders)} class folders, such as {wrong[0]!r}, are not among {which}"
        raise DataError(
            f"{name}: {problem}; name a folder that has only folders like {next(iter(official))}."
        )


class ClassFolders(Source):
    """Streamed images below `path`, whose folders are the classes; a subclass finds these folders."""

    def __init__(self, name: str, path: str, canvas: int):
        super().__init__(name)
        self.path, self.canvas = expanded(path), canvas

    @abstractmethod
    def _find(self) -> dict[Split, dict[str, str]]:
        """Split -> {class folder, relative to `path` -> class}; empty for a missing split."""

    def folder(self, split: Split) -> str:
        """The folder of a split, relative to `path`."""
        return FOLDERS[split]

    def _list_splits(self) -> dict[Split, list[str]]:
        """The class folders of both splits; DataError if only the test images have one of them."""
        folders = {split: list_folders(self.path / self.folder(split)) for split in SPLITS}
        only_test = sorted(set(folders["test"]) - set(folders["train"]))
        if folders["train"] and only_test:
            share = f"{len(only_test)} of {len(folders['test'])} class folders of {FOLDERS['test']}"
            problem = f"{share} are not in train, the first is {only_test[0]!r}"
            remedy = "name them as in train"
            if only_test == ["images"]:  # as in Tiny ImageNet
                remedy += f", or write folder:{write(str(self.path))}, which reads val_annotations.txt"
            raise DataError(f"{self.name}: {problem}; {remedy}.")
        return folders

    @abstractmethod
    def _wrong(self, split: Split) -> DataError:
        """The error for a split without an image."""

    @cached_property
    def _class_of(self) -> dict[Split, dict[str, str]]:
        check_folder(self.path, self.name)
        return self._find()

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`."""
        class_of = self._class_of[split]
        classes = tuple(dict.fromkeys(next(filter(None, self._class_of.values()), class_of).values()))
        label_of = {name: label for label, name in enumerate(classes)}
        with ThreadPoolExecutor() as pool:
            files = pool.map(lambda folder: list_photographs(self.path / folder), class_of)
            listed = list(zip(class_of.items(), files, strict=True))
        keys = [f"{folder}/{name}" for (folder, _), names in listed for name in names]
        if not keys:
            raise self._wrong(split)
        labels = np.repeat([label_of[name] for (_, name), _ in listed], [len(names) for _, names in listed])
        images = photographs(self.path, keys, self.canvas, image_size, self.name)
        return ImageSet(images, {"label": labels.astype(np.int64)}, {"label": classes}, self.name, split)
