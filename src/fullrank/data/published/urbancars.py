"""UrbanCars as folders of JPEG files, decoded on demand: cars with two correlated cues in training."""

from itertools import product
from pathlib import Path
from typing import final

import numpy as np

from fullrank.data.published.grouped import Factors, GroupedPhotographs
from fullrank.errors import DataError

VALUES = ("urban", "country")
CORRELATIONS = {"train": "bg-0.95_co_occur_obj-0.95", "val": "bg-0.5_co_occur_obj-0.5"}
"""The folder of the training images, and the folder of the other two splits."""


@final
class UrbanCars(GroupedPhotographs):
    """Streamed images of an urban or country car, with an urban or country background and object.

    The official folders are bg-0.95_co_occur_obj-0.95/train and bg-0.5_co_occur_obj-0.5/{val,test}. Each has
    the images in GROUP/*.jpg; the masks beside them are ignored. The labels are "label" (the car),
    "background", "object" and "group" (all three). A group may be empty. A split that is not loaded may be
    missing.

    Args:
        path: The folder with the official folders, with a folder urbancars that has them, or with the splits
            train, val and test.
        canvas: Side of the square canvas for training images in pixels.
        test: The official split for the test images, "test" or "val".

    Raises:
        DataError: If a split has no folder or no image.

    >>> UrbanCars("data", test="val").name
    'urbancars:data,test=val'

    Source: Li et al. 2023, "A Whac-A-Mole Dilemma", arXiv:2212.04825; the tree is that of the authors' code.
    """

    source = "urbancars"
    factors: Factors = dict.fromkeys(("label", "background", "object"), VALUES)

    def _list(self, official: str) -> tuple[Path, list[str], np.ndarray]:
        root = self._folder(official)
        files = [
            (values, f"{group_folder(*values)}/{name}")
            for values in product(range(2), repeat=3)
            for name in sorted(path.name for path in (root / group_folder(*values)).glob("[!.]*.jpg"))
        ]
        if not files:
            expected = f"{root / group_folder(0, 0, 0)}/*.jpg and seven folders like it"
            raise DataError(f"{self.name}: {root} has no image; expected {expected}.")
        return root, [key for _, key in files], np.array([values for values, _ in files], np.int64)

    def _folder(self, official: str) -> Path:
        below = Path(CORRELATIONS["train" if official == "train" else "val"], official)
        for folder in (self.path / below, self.path / "urbancars" / below, self.path / official):
            if folder.is_dir():
                return folder
        expected = self.path / below / group_folder(0, 0, 0) / "*.jpg"
        raise DataError(f"{self.name} has no {official} images; expected {expected}.")


def group_folder(car: int, background: int, thing: int) -> str:
    """The folder of a group; 0 means urban and 1 country."""
    return f"obj-{VALUES[car]}_bg-{VALUES[background]}_co_occur_obj-{VALUES[thing]}"
