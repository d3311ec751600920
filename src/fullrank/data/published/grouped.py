"""Photographs that differ in several factors; each factor is a label, and all together are a group."""

from abc import abstractmethod
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np

from fullrank.data.image_set import ImageSet
from fullrank.data.sources import Source, Split, canonical, check_folder
from fullrank.data.streaming import CANVAS, photographs
from fullrank.files import expanded

Factors = Mapping[str, tuple[str, ...]]
"""The names of the values of each factor."""

OFFICIAL_SPLITS = ("train", "val", "test")


class GroupedPhotographs(Source):
    """Streamed images with labels in two or more factors; a subclass lists the files."""

    source: str
    factors: Factors

    def __init__(self, path: str, canvas: int = CANVAS, test: str = "test"):
        super().__init__(canonical(self.source, path, canvas=canvas, test=test))
        self.path, self.canvas, self.test = expanded(path), canvas, test

    @abstractmethod
    def _list(self, official: str) -> tuple[Path, list[str], np.ndarray]:
        """The folder of an official split, the files below it, and their values (n, factors) int64."""

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`."""
        check_folder(self.path, self.name)
        folder, keys, values = self._list("train" if split == "train" else self.test)
        images = photographs(folder, keys, self.canvas, image_size, self.name)
        labels = dict(zip(self.factors, values.T.copy(), strict=True))
        return ImageSet(images, *with_groups(labels, self.factors), self.name, split)


def with_groups(
    labels: Mapping[str, np.ndarray], class_names: Factors
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """Labels (N,) and their names with the further label "group": all of them, the last varies fastest."""
    counts = [len(values) for values in class_names.values()]
    group = np.ravel_multi_index(tuple(labels[key] for key in class_names), counts).astype(np.int64)
    names = tuple("/".join(values) for values in product(*class_names.values()))
    return {**labels, "group": group}, {**class_names, "group": names}
