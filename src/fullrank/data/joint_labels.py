"""Labels made of labels: the groups of images that differ in several factors."""

from collections.abc import Mapping
from itertools import product

import numpy as np


def with_groups(
    labels: Mapping[str, np.ndarray], class_names: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """Labels (N,) from 0 on and their names, with one more, "group": all of them together, the last fastest.

    A group that no image belongs to has its number all the same, so that splits agree.

    >>> names = {"label": ("landbird", "waterbird"), "background": ("land", "water")}
    >>> labels, names = with_groups({"label": np.array([0, 1]), "background": np.array([1, 1])}, names)
    >>> labels["group"], names["group"][1]
    (array([1, 3]), 'landbird/water')
    """
    counts = [len(values) for values in class_names.values()]
    group = np.ravel_multi_index(tuple(labels[key] for key in class_names), counts).astype(np.int64)
    names = tuple("/".join(values) for values in product(*class_names.values()))
    return {**labels, "group": group}, {**class_names, "group": names}
