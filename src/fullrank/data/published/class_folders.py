"""Trees whose folders are the classes, streamed: what ImageNet and its relatives have in common."""

from abc import abstractmethod
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np

from fullrank.data.classes import class_groups, class_list
from fullrank.data.image_files import list_photographs
from fullrank.data.image_set import ImageSet
from fullrank.data.sources import Source, Split, check_folder
from fullrank.data.streaming import CANVAS, photographs
from fullrank.errors import DataError
from fullrank.files import expanded
from fullrank.specs import Scalar, Spec


def tree_spec(source: str, path: str, canvas: int, **options: Scalar | None) -> str:
    """The canonical spec of a tree: options that are None and the default canvas are left out.

    >>> tree_spec("imagenet-c", "/data", CANVAS, severity=3, kind="fog", classes=None)
    'imagenet-c:/data,kind=fog,severity=3'
    """
    given = {"canvas": None if canvas == CANVAS else canvas, **options}
    kept = [(key, value) for key, value in sorted(given.items()) if value is not None]
    return str(Spec(source, path, tuple(kept)))


def regroup(wnids: Iterable[str], classes: str | None, name: str) -> dict[str, str]:
    """The class of each of `wnids`: itself, or its group in the shipped grouping `classes`, if it has one.

    They come class by class: sorted, or as the grouping has its groups. With a grouping, DataError, which
    names the source `name`, for what is no class of ImageNet, and where none of `wnids` has a group.

    >>> regroup(["n01443537", "n02085620", "n04120489"], "imagenet-9", "mine")
    {'n02085620': 'dog', 'n01443537': 'fish'}
    """
    given = set(wnids)
    if classes is None or not given:
        return {wnid: wnid for wnid in sorted(given)}
    check_members(given, class_list("imagenet-1k"), f"the 1000 that {classes} groups", name)
    groups = class_groups(classes)
    if not given & set(groups):
        raise DataError(
            f"{name}: none of its {len(given)} classes, the first is {min(given)!r}, is among the "
            f"{len(groups)} of {classes}; leave out classes={classes}."
        )
    return {wnid: group for wnid, group in groups.items() if wnid in given}


def check_members(folders: Iterable[str], known: Iterable[str], which: str, name: str) -> None:
    """Raise DataError, which names the source `name`, unless all `folders` are among the `known` ones."""
    known = tuple(known)
    found = sorted(folders)
    wrong = [folder for folder in found if folder not in set(known)]
    if wrong:
        raise DataError(
            f"{name}: {len(wrong)} of {len(found)} class folders are not among {which}, the first is "
            f"{wrong[0]!r}; name the folder that holds folders like {known[0]}, and nothing else."
        )


def check_shared(train: Iterable[str], test: Iterable[str], test_folder: str, name: str) -> None:
    """Raise DataError if class folders of `test` are not in `train`, unless there are none to train."""
    train, test = set(train), set(test)
    if train and test - train:
        raise DataError(
            f"{name}: {len(test - train)} of {len(test)} class folders of {test_folder} are not in train, "
            f"the first is {min(test - train)!r}; name them as in train."
        )


class ClassFolders(Source):
    """Images below `path` whose folder says their class, streamed; a child says which folders those are.

    Mean and spread of the channels are those that convention fixes for ImageNet.
    """

    def __init__(self, name: str, path: str, canvas: int):
        super().__init__(name)
        self.path, self.canvas = expanded(path), canvas

    @abstractmethod
    def _find(self) -> dict[Split, dict[str, str]]:
        """Of each split, class folder, relative to `path` -> class, class by class; none where it is missing.

        Where there are training images, their classes include those of the test.
        """

    @abstractmethod
    def _wrong(self, split: Split) -> DataError:
        """Why a split holds no image."""

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
