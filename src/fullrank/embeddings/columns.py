"""What stands beside features: labels, ids and splits, as numbers or words, one for each row."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullrank.errors import DataError, count_of

UNLABELLED = -1
LABEL_ENDINGS = (".npy", ".txt")
FIT, SCORE, UNUSED = "train", "test", ""
# The words of a split, in lower case. Rows of a validation split are scored if there is no test split.
_VALIDATION = "validation"
_SPLITS = {
    **dict.fromkeys(("train", "training", "trn", "fit"), FIT),
    **dict.fromkeys(("test", "testing", "tst"), SCORE),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), _VALIDATION),
    **dict.fromkeys(("", "extra", "unlabeled", "unlabelled", "none"), UNUSED),
}
SPLIT_WORDS = frozenset(word for word, split in _SPLITS.items() if split)


def numbered(labels: np.ndarray, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,) of the file `name` as int64, -1 for none, and their names if they were words.

    Fractions of 0 are whole, and NaN is none. Whole numbers beyond int64 are names.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "biufUS":
        kind = f"{labels.dtype} of the shape {labels.shape}"
        raise DataError(f"The labels of {name} must be numbers or words (N,), but are {kind}; fix them.")
    if labels.dtype.kind == "u" and len(labels) and labels.max() > np.iinfo(np.int64).max:
        labels = labels.astype(np.str_)
    if labels.dtype.kind in "US":
        return _numbered_words(labels, name)
    if labels.dtype.kind == "f":
        _check_exact(labels, float(np.finfo(labels.dtype).eps), name)
        labels = _whole(labels.astype(np.float64), name)
    numbers = labels.astype(np.int64)
    if len(numbers) and numbers.min() < UNLABELLED:
        limit = f"0 or more, or {UNLABELLED} for none"
        raise DataError(f"The labels of {name} hold {numbers.min()}, but must be {limit}; renumber them.")
    return numbers, ()


def _numbered_words(labels: np.ndarray, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    words = np.char.decode(labels, "utf-8", "replace") if labels.dtype.kind == "S" else labels
    classes = np.unique(words[words != ""])
    try:
        names = tuple(classes.tolist())
    except (SystemError, ValueError):  # NumPy and Python find numbers beyond the last letter
        raise DataError(f"The labels of {name} hold invalid text; write them again.") from None
    return np.where(words == "", UNLABELLED, np.searchsorted(classes, words)), names


def _whole(labels: np.ndarray, name: str) -> np.ndarray:
    """Labels (N,) without a fraction, -1 for NaN."""
    labels = np.where(np.isnan(labels), UNLABELLED, labels)
    if (broken := labels != np.rint(labels)).any():
        row = int(broken.argmax())
        where = f"{labels[row]:g} in row {row} (from 0)"
        raise DataError(f"The labels of {name} hold {where}, but must be whole numbers; round them.")
    return labels


def read_labels(path: Path) -> np.ndarray:
    """The labels in a file of lines: whole numbers if all are, otherwise words."""
    try:
        words = np.array([line.strip() for line in read_lines(path)], dtype=np.str_)
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; write one label per line.") from None
    for kind in (np.int64, np.float64):
        try:
            return words.astype(kind)
        except (ValueError, OverflowError):
            continue
    return words


def read_lines(path: Path, errors: str = "strict") -> list[str]:
    """The lines of a text file in UTF-8, with or without a byte-order mark."""
    lines = re.split("\r\n|\n|\r", path.read_text(encoding="utf-8-sig", errors=errors))
    return lines[:-1] if lines[-1] == "" else lines


def array_of(values: np.ndarray | Tensor, name: str) -> np.ndarray:
    """An array, or a tensor of any type, which NumPy may not know, as one."""
    if not isinstance(values, Tensor):
        return values
    try:
        return values.numpy()
    except TypeError:  # bfloat16, or floating-point numbers of 8 bits
        wide = values.double().numpy()
        _check_exact(wide, torch.finfo(values.dtype).eps, name)
        return wide


def _check_exact(labels: np.ndarray, eps: float, name: str) -> None:
    """Raise DataError for labels at which floating-point numbers of precision `eps` skip whole numbers."""
    if (np.abs(labels) >= 2 / eps).any():
        limit = f"numbers of this type are whole only below {2 / eps:g}"
        raise DataError(
            f"The labels of {name} reach {np.nanmax(np.abs(labels)):g}, but {limit}; write integers."
        )


def labels_of_column(column: Any, name: str) -> np.ndarray:
    """An Arrow column of labels, an empty cell as -1, NaN or an empty word."""
    import pyarrow as pa

    column = _plain(column)
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), UNLABELLED)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        try:
            whole = column.cast(pa.int64()).fill_null(UNLABELLED)
        except pa.ArrowInvalid:  # beyond int64, so it is a name
            return words_of_column(column, name)
        return np.asarray(whole.to_numpy(zero_copy_only=False))
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
    return words_of_column(column, name)


def words_of_column(column: Any, name: str) -> np.ndarray:
    """An Arrow column of texts, numbers or dates as words, an empty cell as an empty word."""
    import pyarrow as pa

    column = _plain(column)
    kind = column.type
    if str(kind) in ("binary", "large_binary", "binary_view") or pa.types.is_fixed_size_binary(kind):
        return np.array([(cell or b"").decode("utf-8", "replace") for cell in column.to_pylist()], np.str_)
    try:
        return np.array(column.cast(pa.string()).fill_null("").to_pylist(), dtype=np.str_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(f"{name} must hold numbers or words, but holds {kind}; write one per row.") from None


def _plain(column: Any) -> Any:
    """A column in one piece, without a dictionary."""
    import pyarrow as pa

    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def joined(parts: Sequence[np.ndarray | None], lengths: Sequence[int]) -> np.ndarray | None:
    """Labels of several pieces as one array; a piece without labels has none. None if no piece has any."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    words = any(part.dtype.kind in "US" for part in known)
    empty = np.array("") if words else np.array(UNLABELLED)
    filled = [np.full(n, empty) if part is None else part for part, n in zip(parts, lengths, strict=True)]
    if words:
        filled = [as_words(part) for part in filled]
    return np.concatenate(filled)


def as_words(values: np.ndarray) -> np.ndarray:
    """Ids or splits (N,) or (N, 1) as words."""
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    return np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values.astype(np.str_)


def split_of(words: np.ndarray, name: str) -> tuple[np.ndarray, str]:
    """The words of a split column (N,) as "train", "test" or "", and a sentence about it.

    Raises:
        DataError: For a word that names no split, or if nothing is left to learn from or to score.
    """
    lower = np.char.lower(np.char.strip(words))
    present = {word: int((lower == word).sum()) for word in np.unique(lower).tolist()}
    if unknown := [word for word in present if word not in _SPLITS]:
        first = f"{len(unknown)} unknown word{'s' * (len(unknown) > 1)}, the first {unknown[0]!r}"
        raise DataError(f"The split of {name} has {first}; use train, validation and test, or rename it.")
    meanings = {_SPLITS[word] for word in present}
    scored = SCORE if SCORE in meanings else _VALIDATION
    if not {FIT, scored} <= meanings:
        listed = ", ".join(map(repr, present))
        raise DataError(f"The split of {name} holds {listed}; it needs rows to train on and rows to test on.")
    parts = {split: [w for w in present if _SPLITS[w] == split] for split in (FIT, scored)}
    counts = [
        f"{count_of(sum(present[w] for w in words), 'row')} of {' and '.join(map(repr, words))}"
        for words in parts.values()
    ]
    split = np.full(len(words), UNUSED, dtype="<U5")
    for meaning, own in ((FIT, parts[FIT]), (SCORE, parts[scored])):
        split[np.isin(lower, own)] = meaning
    rest = int((split == UNUSED).sum())
    left = f", and {count_of(rest, 'row')} are not used" if rest else ""
    return split, f"The split of {name}: probes learn from {counts[0]} and are scored on {counts[1]}{left}."
