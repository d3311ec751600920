"""UrbanCars as folders of JPEG files, decoded on demand: cars with two cues that follow them in training."""

from itertools import product
from pathlib import Path
from typing import final

import numpy as np

from fullrank.data.image_set import ImageSet
from fullrank.data.joint_labels import with_groups
from fullrank.data.published.class_folders import tree_spec
from fullrank.data.sources import Source, Split, check_folder
from fullrank.data.streaming import CANVAS, photographs
from fullrank.errors import DataError
from fullrank.files import expanded

VALUES = ("urban", "country")
FACTORS = ("label", "background", "object")
CORRELATIONS = {"train": "bg-0.95_co_occur_obj-0.95", "val": "bg-0.5_co_occur_obj-0.5"}
"""The folder of the training images, and that of both others."""

_PARENT = "urbancars"


@final
class UrbanCars(Source):
    """Cars that are urban or country, before such a background, beside such an object; streamed.

    `path` holds bg-0.95_co_occur_obj-0.95/train and bg-0.5_co_occur_obj-0.5/{val,test}, or a folder
    urbancars with these, or train, val and test themselves; below are GROUP/*.jpg, and the masks beside the
    images are left alone. The labels are "label" (the car), "background", "object" and "group", all three.
    A group may be empty; a split that is not loaded may be missing. `test` says which official split is the
    test images, "test" or "val".

    Raises DataError for a split without a folder or without any image.

    >>> UrbanCars("no/such/folder").load("train")
    Traceback (most recent call last):
    ...
    fullrank.errors.DataError: There is no no/such/folder; check the path in urbancars:no/such/folder.

    Source: Li et al. 2023, "A Whac-A-Mole Dilemma", arXiv:2212.04825; the tree is that of the authors' code.
    """

    def __init__(self, path: str, canvas: int = CANVAS, test: str = "test"):
        super().__init__(tree_spec("urbancars", path, canvas, test=None if test == "test" else test))
        self.path, self.canvas, self.test = expanded(path), canvas, test

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`."""
        root = self._folder("train" if split == "train" else self.test)
        files = {values: _list_files(root / group_folder(*values)) for values in product(range(2), repeat=3)}
        keys = [f"{group_folder(*values)}/{file}" for values, listed in files.items() for file in listed]
        if not keys:
            raise DataError(
                f"{self.name}: {root} holds no image; expected {root / group_folder(0, 0, 0)}/*.jpg and "
                "seven folders like it."
            )
        rows = np.array([values for values, listed in files.items() for _ in listed], np.int64)
        images = photographs(root, keys, self.canvas, image_size, self.name)
        labels = dict(zip(FACTORS, rows.T.copy(), strict=True))
        return ImageSet(images, *with_groups(labels, dict.fromkeys(FACTORS, VALUES)), self.name, split)

    def _folder(self, official: str) -> Path:
        check_folder(self.path, self.name)
        below = Path(CORRELATIONS["train" if official == "train" else "val"], official)
        for folder in (self.path / below, self.path / _PARENT / below, self.path / official):
            if folder.is_dir():
                return folder
        raise DataError(
            f"{self.name} has no {official} images; expected {self.path / below}/"
            f"{group_folder(0, 0, 0)}/*.jpg."
        )


def group_folder(car: int, background: int, thing: int) -> str:
    """The folder of a group, 0 for urban and 1 for country.

    >>> group_folder(0, 1, 0)
    'obj-urban_bg-country_co_occur_obj-urban'
    """
    return f"obj-{VALUES[car]}_bg-{VALUES[background]}_co_occur_obj-{VALUES[thing]}"


def _list_files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.jpg") if not file.name.startswith("."))
