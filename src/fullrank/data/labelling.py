"""The labels of all splits of a source as an `ImageSet` takes them: one class an image, or several labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fullrank.errors import DataError
from fullrank.labels import UNLABELLED, class_numbers, plain_labels

ZERO_ONE = ("0", "1")


@dataclass(frozen=True)
class Labels:
    """Labels of every split, and the names of their classes.

    Attributes:
        of: Split -> name -> labels (N,).
        class_names: Name -> the names of the classes.
    """

    of: dict[str, dict[str, np.ndarray]]
    class_names: dict[str, tuple[str, ...]]


def one_class(columns: Mapping[str, Any], name: str, first: Sequence[str] = ()) -> Labels:
    """Labels of one class an image; classes of the splits are matched by their names.

    Args:
        columns: Split -> labels (N,), whole numbers or words (see `plain_labels`).
        name: What the labels are, for messages.
        first: Names of classes that have the first numbers.
    """
    plain = {split: plain_labels(column, name) for split, column in columns.items()}
    numbers, classes = class_numbers(plain, name, first)
    return Labels({split: {"label": each} for split, each in numbers.items()}, {"label": classes})


def several(tables: Mapping[str, np.ndarray], names: Sequence[str]) -> Labels:
    """Several labels an image, each with a name.

    Args:
        tables: Split -> labels (N, L) of 0, 1 and -1.
        names: The names of the L labels.
    """
    keys = [f"label:{name}" for name in names]
    return Labels(
        {
            split: {
                "label": np.full(len(table), UNLABELLED),
                **{key: np.ascontiguousarray(table[:, i]) for i, key in enumerate(keys)},
            }
            for split, table in tables.items()
        },
        {"label": (), **dict.fromkeys(keys, ZERO_ONE)},
    )


def of_columns(tables: Mapping[str, Any], names: Sequence[str], name: str) -> Labels:
    """Several columns of 0 and 1. If every row with labels has exactly one 1, they are one-hot classes.

    Args:
        tables: Split -> an array or sequence (N, L).
        names: The names of the L columns.
        name: What the labels are, for messages.

    Raises:
        DataError: If a value is not 0, 1 or -1 (no label), or no number.

    >>> of_columns({"train": [[0, 1], [1, 0]]}, ["cat", "dog"], "x").of["train"]
    {'label': array([1, 0])}
    >>> of_columns({"train": [[1, 1], [0, 0]]}, ["cat", "dog"], "x").of["train"]["label:dog"]
    array([1, 0])
    """
    return _classes_or_several({s: zero_one(table, len(names), name) for s, table in tables.items()}, names)


def of_lists(lists: Mapping[str, Sequence[Any]], name: str, classes: Sequence[str] = ()) -> Labels:
    """Lists of labels: those that the image has, or 0 and 1 for each label there is.

    If every list holds one label, the labels are classes.

    Lists of equal length that hold only 0 and 1, and one of which repeats a value, are 0 and 1 for each
    label. An image without a list (None) has no labels; one with an empty list has none of them.

    Args:
        lists: Split -> a list for each image, of whole numbers or words.
        name: What the labels are, for messages.
        classes: Names of labels that come first, in this order; others follow as they sort.

    >>> lists = of_lists({"train": [["cat", "dog"], [], ["dog"], None]}, "x").of["train"]
    >>> lists["label:cat"], lists["label:dog"]
    (array([ 1,  0,  0, -1]), array([ 1,  0,  1, -1]))
    """
    present = [each for split in lists.values() for each in split if each is not None]
    widths = {len(each) for each in present}
    binary = all(type(value) in (int, bool, float) and value in (0, 1) for each in present for value in each)
    if not classes and len(widths) == 1 and binary and any(len(set(each)) < len(each) for each in present):
        width = widths.pop()
        rows = {s: [[-1] * width if e is None else e for e in split] for s, split in lists.items()}
        return of_columns(rows, [str(column) for column in range(width)], name)
    flat = {
        split: plain_labels([v for each in own for v in each or ()], name) for split, own in lists.items()
    }
    numbers, names = class_numbers(flat, name, classes)
    tables = {}
    for split, own in lists.items():
        sizes = [len(each or ()) for each in own]
        owners, columns = np.repeat(np.arange(len(own)), sizes), numbers[split]
        tables[split] = np.zeros((len(own), len(names)), np.int64)
        tables[split][owners[columns >= 0], columns[columns >= 0]] = 1
        tables[split][[each is None for each in own]] = UNLABELLED
    return _classes_or_several(tables, names)


def _classes_or_several(tables: Mapping[str, np.ndarray], names: Sequence[str]) -> Labels:
    """Classes if every row with labels has a single 1 and no -1; else several labels."""
    rows = np.concatenate(list(tables.values()))
    rows = rows[(rows != UNLABELLED).any(1)]
    if not len(rows) or ((rows == 1).sum(1) != 1).any() or rows.min() < 0:
        return several(tables, names)
    numbers = {s: np.where(table.max(1) == 1, table.argmax(1), UNLABELLED) for s, table in tables.items()}
    return Labels({split: {"label": each} for split, each in numbers.items()}, {"label": tuple(names)})


def zero_one(table: Any, width: int, name: str) -> np.ndarray:
    """Columns (N, L) of 0, 1 and -1, int64; DataError for other values."""
    cells = table if isinstance(table, np.ndarray) else np.array([list(row) for row in table], object)
    numbers = plain_labels(cells.reshape(-1), name)
    if numbers.dtype.kind != "i" or not np.isin(numbers, (-1, 0, 1)).all():
        wrong = next(value for value in numbers.tolist() if value not in (-1, 0, 1))
        problem = f"{width} columns must be 0, 1 or {UNLABELLED} (no label), but one value is {wrong!r}"
        raise DataError(f"{name}: {problem}; keep one column of classes, or write 0 and 1.")
    return numbers.reshape(len(cells), width)
