"""Which rows of two files of embeddings belong together: by their ids, or else by their order."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fullrank.embeddings.columns import UNLABELLED
from fullrank.embeddings.files import EmbeddingFile
from fullrank.embeddings.matching import common_rows
from fullrank.embeddings.matrices import ArrayMatrix, Matrix, ReorderedMatrix
from fullrank.errors import DataError, FullDiskError, UsageError, count_of, disk_is_full, one_line

# So many ids are named as examples.
_NAMED = 3
# Labels of both files may contradict each other in this share of the rows before it is said.
_FEW = 0.01
# CKA without bias needs so many rows.
_LEAST = 4
# What to do where rows cannot be matched.
_AS_SETS = "to compare them as two sets, diagnose the other alone and give its record to --baseline"


@dataclass(frozen=True, eq=False)
class MatchedRows:
    """Which rows of two files belong together.

    Attributes:
        how: `id`, or `order` where a file has no ids; `none` where the order shows no relation.
        now: The number in its file of each matched row of this target, (N,).
        before: The number in its file of the row of the other target that belongs to it, (N,).
        only_now: How many rows only this target has.
        only_before: How many rows only the other target has.
        notes: Sentences on how rows were matched and which have no partner.
    """

    how: Literal["id", "order", "none"]
    now: np.ndarray
    before: np.ndarray
    only_now: int = 0
    only_before: int = 0
    notes: tuple[str, ...] = ()


def match_rows(now: EmbeddingFile, before: EmbeddingFile) -> MatchedRows:
    """Match the rows of two files: by id if both have ids, else by their order.

    An id that names several rows is matched in their order, the first with the first. An empty id names no
    row. Rows that only one file has are counted.

    Raises:
        UsageError: The files have no id in common, or without ids unlike numbers of rows.
    """
    this, other = now.name, before.name
    if now.all_ids is None or before.all_ids is None:
        rows = [file.matrix.shape[0] for file in (now, before)]
        lacking = [name for name, file in ((this, now), (other, before)) if file.all_ids is None]
        without = f"{' and '.join(lacking)} {'have' if len(lacking) > 1 else 'has'} no ids"
        if rows[0] != rows[1]:
            raise UsageError(
                f"{this} has {count_of(rows[0], 'row')} and {other} has {rows[1]}, and {without} to match "
                f"them by; give ids in both files. Or {_AS_SETS}."
            )
        every = np.arange(rows[0])
        return MatchedRows("order", every, every, notes=(f"Rows were matched by their order: {without}.",))
    ids = now.all_ids, before.all_ids
    numbers = common_rows(*ids)
    if not len(numbers[0]):
        examples = [_examples(values[values != ""]) for values in ids]
        raise UsageError(
            f"{this} and {other} have no id in common: {this} has {examples[0]}, {other} has {examples[1]}; "
            f"give files of the same rows. Or {_AS_SETS}."
        )
    missing = [np.delete(values, own) for values, own in zip(ids, numbers, strict=True)]
    notes = [f"Rows were matched by id: {count_of(len(numbers[0]), 'row')}."]
    for values, name in zip(missing, (this, other), strict=True):
        if len(values):
            notes.append(f"Only {name} has {count_of(len(values), 'row')}, such as {_examples(values)}.")
    if repeated := len(numbers[0]) - len(np.unique(ids[0][numbers[0]])):
        notes.append(
            f"Of these, {count_of(repeated, 'row')} have the id of an earlier row. Rows of one id were "
            "matched in their order."
        )
    return MatchedRows("id", *numbers, len(missing[0]), len(missing[1]), tuple(notes))


def share_labels(
    matched: MatchedRows, now: EmbeddingFile, before: EmbeddingFile
) -> tuple[EmbeddingFile, EmbeddingFile, list[str]]:
    """Both files, where one without labels has those of the matched rows of the other; a sentence says it."""
    files, rows, notes = [now, before], (matched.now, matched.before), []
    for own in (0, 1):
        file, other = files[own], files[1 - own]
        if file.all_labels is None and other.all_labels is not None and len(rows[own]):
            labels = _spread(other.all_labels[rows[1 - own]], rows[own], file.matrix.shape[0], UNLABELLED)
            files[own] = replace(file, all_labels=labels, classes=other.classes)
            notes.append(f"Only {other.name} has labels; they are used for both.")
    return files[0], files[1], notes


def named_apart(now: EmbeddingFile, before: EmbeddingFile) -> tuple[EmbeddingFile, EmbeddingFile]:
    """Two files under names that a sentence can tell apart."""
    if now.name != before.name:
        return now, before
    return replace(now, name=f"{now.name} (diagnosed)"), replace(before, name=f"{before.name} (against)")


def _examples(values: np.ndarray) -> str:
    named = ", ".join(repr(one_line(str(value), 40)) for value in values[:_NAMED])
    return named or "none"


@dataclass(frozen=True, eq=False)
class RowByRow:
    """Two files with row i of one beside row i of the other. Both have the same labels and the same split.

    Attributes:
        now: This target.
        before: The other target.
        labels: The labels that each file has itself, (N,), in the same numbers; None without labels.
        notes: Sentences on rows that were left out, and on labels.
    """

    now: EmbeddingFile
    before: EmbeddingFile
    labels: tuple[np.ndarray | None, np.ndarray | None]
    notes: tuple[str, ...]


def row_by_row(matched: MatchedRows, now: EmbeddingFile, before: EmbeddingFile) -> RowByRow:
    """Both files row by row, without the rows that either has dropped.

    Both have the labels and the split of `now`, or else those of `before`. If their rows are in another
    order, a file that reads by row is read in the order of the other one. If neither does, `before` is first
    written to a temporary file.

    Args:
        matched: The rows that belong together.
        now: The file of this target.
        before: The file of the other target, with labels in the same numbers (`same_numbers`).
    """
    stays = ~(np.isin(matched.now, now.dropped) | np.isin(matched.before, before.dropped))
    numbers = [matched.now[stays], matched.before[stays]]
    notes = []
    if count := len(stays) - len(numbers[0]):
        notes.append(f"Rows left out, as not finite or zero in one of the files: {count}.")
    if len(numbers[0]) < _LEAST:
        left = f"{count_of(len(numbers[0]), 'row')} of {len(stays)} that were matched"
        raise DataError(f"Of {now.name} and {before.name} {left} can be compared; give {_LEAST} or more.")
    if not _ascending(numbers[1]) and not before.matrix.by_row:
        if now.matrix.by_row:
            order = np.argsort(numbers[1])
            numbers = [side[order] for side in numbers]
        else:
            before = replace(before, matrix=_spooled(before))
    labels = [
        None if file.all_labels is None else file.all_labels[rows]
        for file, rows in zip((now, before), numbers, strict=True)
    ]
    splits = [
        file.all_splits[rows]
        for file, rows in zip((now, before), numbers, strict=True)
        if file.all_splits is not None
    ]
    common = next((each for each in labels if each is not None), None)
    first, second = (
        _of_rows(file, rows, common, splits[0] if splits else None)
        for file, rows in zip((now, before), numbers, strict=True)
    )
    return RowByRow(first, second, (labels[0], labels[1]), (*notes, *_about_labels(now, before, labels)))


def same_numbers(now: EmbeddingFile, before: EmbeddingFile) -> tuple[EmbeddingFile, EmbeddingFile, list[str]]:
    """Both files with their labels in the same numbers, and a sentence where that cannot be.

    Labels that are words in one file and numbers in the other cannot be compared: those of `before` are left
    out.
    """
    if now.all_labels is None or before.all_labels is None:
        return now, before, []
    if bool(now.classes) != bool(before.classes):
        words = f"The labels of {now.name} and {before.name} are words in one and numbers in the other"
        without = replace(before, all_labels=None, classes=())
        return now, without, [f"{words}; those of {now.name} are used for both."]
    if not now.classes:
        return now, before, []
    table = {name: number for number, name in enumerate(now.classes)}
    codes = np.array([*(table.setdefault(name, len(table)) for name in before.classes), UNLABELLED])
    classes = tuple(table)
    return (
        replace(now, classes=classes),
        replace(before, all_labels=codes[before.all_labels], classes=classes),
        [],
    )


def _about_labels(
    now: EmbeddingFile, before: EmbeddingFile, labels: Sequence[np.ndarray | None]
) -> Iterator[str]:
    """A sentence where the labels of both contradict each other."""
    first, second = labels
    if first is None or second is None:
        return
    both = (first != UNLABELLED) & (second != UNLABELLED)
    unlike = int((first[both] != second[both]).sum())
    if unlike > max(1, _FEW * both.sum()):
        share = f"{unlike} of {count_of(int(both.sum()), 'matched row')}"
        yield (
            f"The labels of {now.name} and {before.name} contradict each other in {share}; the rows may be "
            "in another order."
        )


def _ascending(rows: np.ndarray) -> bool:
    return bool((np.diff(rows) > 0).all())


def _of_rows(
    file: EmbeddingFile, rows: np.ndarray, labels: np.ndarray | None, splits: np.ndarray | None
) -> EmbeddingFile:
    """These rows of the file in this order, with labels and splits (N,)."""
    matrix, total = file.matrix, file.matrix.shape[0]
    dropped = np.delete(np.arange(total), rows)
    if not _ascending(rows):
        matrix, dropped, total = ReorderedMatrix(matrix, rows), dropped[:0], len(rows)
        rows = np.arange(total)
    return EmbeddingFile(
        file.name,
        matrix,
        dropped,
        all_labels=_spread(labels, rows, total, UNLABELLED),
        classes=file.classes,
        all_splits=_spread(splits, rows, total, ""),
    )


def _spread(values: np.ndarray | None, rows: np.ndarray, total: int, empty: int | str) -> np.ndarray | None:
    """The values of some rows as those of all, where the others are empty."""
    if values is None:
        return None
    every = np.full(total, empty, values.dtype)
    every[rows] = values
    return every


def _spooled(file: EmbeddingFile) -> Matrix:
    """All rows in a temporary file of float32. The system removes it with the process, however that ends."""
    rows, width = file.matrix.shape
    spool = tempfile.TemporaryFile()  # noqa: SIM115 (the map below keeps it open)
    try:
        for block in file.matrix.tiles():
            spool.write(block.contiguous().numpy().data)
        spool.flush()
    except OSError as error:
        if not disk_is_full(error):
            raise
        size = f"{4 * rows * width / 2**20:,.0f} MB in {tempfile.gettempdir()}"
        raise FullDiskError(
            f"The rows of {file.name} are in another order, and sorting them needs {size}; set TMPDIR to a "
            "larger disk, or write them as .npy."
        ) from None
    return ArrayMatrix(np.memmap(spool, np.float32, "c", shape=(rows, width)), file.name)
