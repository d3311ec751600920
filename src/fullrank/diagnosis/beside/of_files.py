"""Two files of embeddings side by side: the joint moments in one pass over both, and a sample of rows."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from fullrank.diagnosis.beside.pair import PlaceBeside, pair_of
from fullrank.diagnosis.beside.rows import MatchedRows, RowByRow, named_apart, row_by_row
from fullrank.diagnosis.of_file import MOST_IN_GRAM, SAMPLE, ExaminedFile
from fullrank.embeddings.columns import LABEL_ENDINGS
from fullrank.embeddings.files import EmbeddingFile, open_embeddings
from fullrank.embeddings.matrices import in_step
from fullrank.errors import UsageError
from fullrank.linalg import Gram, Moments, row_coordinates
from fullrank.progress import counted
from fullrank.spectrum.similarity import JointMoments, joint_moments, neighbour_overlap

_PLACE = "embedding"


@dataclass(frozen=True, eq=False)
class FilesBeside:
    """Two files side by side.

    Attributes:
        place: What they show.
        now: The matched rows of this file; all of them where rows are not matched.
        before: Those of the other file, in the order of `now`, with the same labels; or all of them.
        notes: Sentences on rows that were left out, and on labels.
    """

    place: PlaceBeside
    now: EmbeddingFile
    before: EmbeddingFile
    notes: tuple[str, ...] = ()


def files_beside(
    matched: MatchedRows,
    this: ExaminedFile,
    other: ExaminedFile,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> FilesBeside:
    """Two files on the rows that belong together, or as two sets where no rows do.

    Args:
        matched: The rows that belong together.
        this: The file that is diagnosed.
        other: The file that it is compared with, with labels in the same numbers.
        seed: The seed of the sample whose neighbours are compared.
        progress: Shows the part of the rows that is done.
    """
    if matched.how == "none":
        return _as_sets(this.file, other.file, seed)
    pair = row_by_row(matched, *named_apart(this.file, other.file))
    sample = pair.now.sample_rows(SAMPLE, seed)
    read = _read(pair, (this.moments, other.moments), sample, seed, progress)
    x, y = (row_coordinates(rows) for rows in (read.now, read.before))
    overlap = neighbour_overlap(y, x, sample=SAMPLE, seed=seed)
    numbers = pair_of(read.moments, overlap, _PLACE, _PLACE, (read.now, read.before))
    labels = None if pair.now.labels is None else pair.now.labels[read.numbers]
    place = PlaceBeside(
        _PLACE, _PLACE, numbers, read.moments, read.now, read.before, labels, labels, pair.now.classes
    )
    return FilesBeside(place, pair.now, pair.before, (*pair.notes, *read.notes))


def _as_sets(now: EmbeddingFile, before: EmbeddingFile, seed: int) -> FilesBeside:
    rows, others = (file.sample_rows(SAMPLE, seed) for file in (now, before))
    place = PlaceBeside(
        _PLACE,
        _PLACE,
        None,
        None,
        now.take(rows),
        before.take(others),
        None if now.labels is None else now.labels[rows],
        None if before.labels is None else before.labels[others],
        now.classes,
    )
    return FilesBeside(place, now, before)


@dataclass(frozen=True, eq=False)
class _Read:
    """What one pass over both files gives: the joint moments, and some of the rows."""

    moments: JointMoments
    numbers: np.ndarray
    now: Tensor
    before: Tensor
    notes: tuple[str, ...] = ()


def _read(
    pair: RowByRow,
    known: tuple[Moments | Gram, Moments | Gram],
    wanted: np.ndarray,
    seed: int,
    progress: Progress | None,
) -> _Read:
    """Both files in one pass, in step. With more channels than rows, a sample of at most 8192 rows."""
    count = pair.now.rows
    if max(pair.now.width, pair.before.width) > count:
        rows = pair.now.sample_rows(MOST_IN_GRAM, seed)
        x, y = pair.now.take(rows), pair.before.take(rows)
        moments = joint_moments([(row_coordinates(y), row_coordinates(x))])
        few = f"Likeness on all rows: {len(rows)} of {count} were drawn at random."
        return _Read(moments, rows, x, y, (few,) if len(rows) < count else ())
    # The rows of a pair are some of the rows of each file, so equal counts are the same rows.
    same = [side if isinstance(side, Moments) and side.count == count else None for side in known]
    taken: list[tuple[Tensor, Tensor]] = []

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        start = 0
        together = in_step(pair.now.chunks(), pair.before.chunks())
        for x, y in counted(together, progress, "row by row", count, lambda both: len(both[0])):
            inside = wanted[slice(*np.searchsorted(wanted, (start, start + len(x))))] - start
            taken.append((x[torch.from_numpy(inside)], y[torch.from_numpy(inside)]))
            start += len(x)
            yield y, x

    moments = joint_moments(blocks(), same[::-1])
    x, y = (torch.cat(side) for side in zip(*taken, strict=True))
    return _Read(moments, wanted, x, y)


def open_other(
    path: str | Path,
    labels: str | Path | None,
    *,
    columns: tuple[str | None, str | None] = (None, None),
    skip_bad: bool = False,
) -> EmbeddingFile:
    """The file that another is compared with.

    Args:
        path: The file or folder.
        labels: Where the labels of the first file are. Labels of the same name are read here, too. If there
            are none, or if they are in a file of their own, this file has none.
        columns: The array or column of the features of the first file and of this one. None for this one
            takes that of the first, unless this is a `.npy` file, which has no names.
        skip_bad: Leave out rows that are not finite.
    """
    unnamed = Path(path).suffix.lower() == ".npy" or any(Path(path).glob("*.npy"))
    column = columns[1] or (None if unnamed else columns[0])
    read = partial(open_embeddings, path, column=column, skip_bad=skip_bad)
    if labels is None:
        return read()
    if Path(labels).suffix.lower() not in LABEL_ENDINGS:
        with suppress(UsageError):
            return read(labels=str(labels))
    return replace(read(), all_labels=None, classes=())
