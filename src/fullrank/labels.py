"""Labels as people have them, whole numbers or words, and the class numbers that they become."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fullrank.errors import DataError

UNLABELLED = -1


def plain_labels(values: Any, name: str) -> np.ndarray:
    """Labels in one of two forms: whole numbers (N,) int64, or words (N,) of text.

    None, NaN, -1 and the empty word mean "no label", and become -1 or "". Floats must be whole numbers. False
    and True are 0 and 1. Bytes are words in UTF-8.

    Args:
        values: An array or a sequence (N,).
        name: What the labels are, for messages.

    Raises:
        DataError: If a label is neither a whole number of -1 or more nor a word, or both occur.

    >>> plain_labels([3.0, float("nan"), 0], "labels")
    array([ 3, -1,  0])
    >>> plain_labels(["cat", None], "labels")
    array(['cat', ''], dtype=object)
    """
    cells = values if isinstance(values, np.ndarray) else _cells(values)
    if cells.dtype.kind in "biufSU" and cells.ndim == 1:
        return _words(cells, name) if cells.dtype.kind in "SU" else _numbers(cells, name)
    cells = _cells(cells.tolist())
    present = np.array([not _is_missing(cell) for cell in cells], bool)
    kinds = {_kind(cell) for cell in cells[present]}
    if len(kinds) > 1 or "other" in kinds:
        wrong = next((cell for cell in cells[present] if _kind(cell) == "other"), None)
        problem = "some are numbers and some are words" if wrong is None else f"one is {str(wrong)[:60]!r}"
        raise DataError(f"{name}: {problem}; give one whole number or one word for each row.")
    if kinds == {"word"}:
        return _words(np.where(present, cells, ""), name)
    numbers = np.full(len(cells), UNLABELLED)
    numbers[present] = _numbers(np.array(cells[present].tolist()), name) if present.any() else ()
    return numbers


def class_numbers(
    columns: Mapping[str, np.ndarray], name: str, first: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The class numbers (N,) int64 of several splits, and the names of the classes.

    Classes are the values that occur in any split, in order, so that a number means the same class in all.

    Args:
        columns: Split -> its `plain_labels`.
        name: What the labels are, for messages.
        first: Names of classes that have the first numbers, in this order.

    Raises:
        DataError: If the labels of one split are numbers, and those of another words.

    >>> class_numbers({"train": np.array(["dog", "cat"], object), "test": np.array(["dog", ""], object)}, "x")
    ({'train': array([1, 0]), 'test': array([ 1, -1])}, ('cat', 'dog'))
    """
    labelled = {split: column[~_unlabelled(column)].tolist() for split, column in columns.items()}
    values = {value for each in labelled.values() for value in each}
    if len({type(value) for value in values}) > 1:
        some = ", ".join(f"{split} {each[0]!r}" for split, each in labelled.items() if each)
        raise DataError(f"{name}: numbers in one split and words in another ({some}); use one of the two.")
    rows = {word: row for row, word in enumerate(first)}
    for value in sorted(values - set(rows)):
        rows[value] = len(rows)
    numbers = {
        split: np.array([rows.get(value, UNLABELLED) for value in column.tolist()], np.int64)
        for split, column in columns.items()
    }
    return numbers, tuple(map(str, rows))


def are_words(labels: Any) -> bool:
    """Whether labels (N,) include text; tensors never do.

    >>> are_words(["cat", None]), are_words(np.array([1, 2]))
    (True, False)
    """
    kind = getattr(getattr(labels, "dtype", None), "kind", None)
    if kind is None and hasattr(labels, "dtype"):
        return False
    if kind in tuple("biufcSU"):
        return kind in ("S", "U")
    return hasattr(labels, "__iter__") and any(isinstance(label, str) for label in labels)


def _cells(values: Sequence[Any]) -> np.ndarray:
    cells = np.empty(len(values), object)
    for row, value in enumerate(values):
        cells[row] = value
    return cells


def _is_missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and cell != cell)


def _kind(cell: Any) -> str:
    if isinstance(cell, str | bytes):
        return "word"
    return "number" if isinstance(cell, bool | int | float | np.number | np.bool_) else "other"


def _unlabelled(column: np.ndarray) -> np.ndarray:
    unlabelled: np.ndarray = column == (UNLABELLED if column.dtype.kind == "i" else "")
    return unlabelled


def _words(cells: np.ndarray, name: str) -> np.ndarray:
    try:
        words = [cell.decode("utf-8") if isinstance(cell, bytes) else str(cell) for cell in cells.tolist()]
    except UnicodeDecodeError:
        raise DataError(f"{name}: some bytes are not UTF-8 text; write them again.") from None
    return _cells(words)


def _numbers(cells: np.ndarray, name: str) -> np.ndarray:
    if cells.dtype.kind == "f":
        present = ~np.isnan(cells)
        whole = np.where(present, cells, UNLABELLED)
        broken = whole[(whole != np.floor(whole)) | (np.abs(whole) > 2**53)]
        if len(broken):
            raise DataError(f"{name}: {broken[0]:g} is not a class; give whole numbers or words.")
        cells = whole
    if len(cells) and int(cells.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{name}: {cells.max()} is more than 2**63 - 1; renumber the classes.")
    numbers = cells.astype(np.int64)
    if len(numbers) and numbers.min() < UNLABELLED:
        limits = f"labels are 0 or more, or {UNLABELLED} for no label"
        raise DataError(f"{name}: one is {numbers.min()}, but {limits}; renumber them.")
    return numbers
