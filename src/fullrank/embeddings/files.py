"""Files of embeddings: features (N, D) on disk with labels, checked as a whole, then read in pieces."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fullrank.embeddings.formats import OPENERS, Matrix, map_npy, picked
from fullrank.errors import DataError, UsageError

UNLABELLED = -1
_LABEL_FILES = (".npy", ".txt")


@dataclass(frozen=True, eq=False)
class EmbeddingFile:
    """Features (N, D) in a file, without the rows that were dropped. `open_embeddings` makes one.

    Attributes:
        name: The name of the file.
        matrix: The numbers in the file.
        dropped: The numbers of the dropped rows in the file, from 0, ascending.
        all_labels: The labels of all rows of the file.
        classes: The name of each label, if labels were words.
    """

    name: str
    matrix: Matrix
    dropped: np.ndarray
    all_labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rows < 2:
            rows = f"{self.rows} row{'' if self.rows == 1 else 's'}{' left' if len(self.dropped) else ''}"
            raise DataError(f"{self.name} has {rows}, but a spectrum needs 2 or more; give more rows.")

    @property
    def rows(self) -> int:
        """N, without the dropped rows."""
        return self.matrix.shape[0] - len(self.dropped)

    @property
    def width(self) -> int:
        """D."""
        return self.matrix.shape[1]

    @property
    def dtype(self) -> str:
        """The type of the numbers in the file, such as `float16`."""
        return self.matrix.dtype

    @property
    def labels(self) -> np.ndarray | None:
        """The labels (N,) int64, -1 if unlabelled. None if no row is labelled."""
        return None if self.all_labels is None else np.delete(self.all_labels, self.dropped)

    def chunks(self, rows: int = 65536) -> Iterator[Tensor]:
        """All rows in order as float32 (n, D), n at most `rows`.

        For a `.npy` file of float32 a chunk is a part of the mapped file, which takes no memory. Do not write
        into it; write into a copy.

        Args:
            rows: The largest number of rows in a chunk.

        Raises:
            UsageError: For `rows` below 1.
        """
        if rows < 1:
            raise UsageError(f"A chunk must have 1 or more rows, but got {rows}; the default is 65536.")
        blocks = self.matrix.blocks(rows)
        if len(self.dropped):
            blocks = picked(blocks, self._kept)
        return (block for block in blocks if len(block))

    def sample_rows(self, n: int, seed: int) -> np.ndarray:
        """Which rows `sample` takes, of 0 to N - 1, ascending: int64 (min(n, N),).

        They are the first n of NumPy's permutation of N from `SeedSequence([seed])`. A larger sample
        therefore contains the smaller ones.

        Args:
            n: The number of rows.
            seed: The seed.

        Raises:
            UsageError: For n below 1 or a negative seed.
        """
        if n < 1:
            raise UsageError(f"A sample must have 1 or more rows, but got {n}; give a larger number.")
        if seed < 0:
            raise UsageError(f"The seed must be 0 or more, but got {seed}; choose another.")
        order = np.random.default_rng(np.random.SeedSequence([seed])).permutation(self.rows)
        return np.sort(order[:n])

    def sample(self, n: int, seed: int) -> Tensor:
        """`n` rows drawn with `seed`, or all if there are fewer, in order: float32 (min(n, N), D)."""
        rows = self.sample_rows(n, seed)
        return self.matrix.take(self._kept[rows] if len(self.dropped) else rows)

    @property
    def _kept(self) -> np.ndarray:
        """The numbers in the file of the rows that are not dropped."""
        return np.delete(np.arange(self.matrix.shape[0]), self.dropped)


def open_embeddings(
    path: str | Path, *, labels: str | Path | None = None, skip_bad: bool = False
) -> EmbeddingFile:
    """A file of features (N, D), floating-point or whole numbers of any size, checked, with its labels.

    - `.npy`: memory-mapped, never loaded whole; labels in `NAME.labels.npy` next to it, if it exists
    - `.npz`: loaded; the array features, embeddings, embedding or x, or else the only two-dimensional one,
      and the labels labels, label or y
    - `.safetensors`: mapped; the same names
    - `.parquet`: streamed; a column of lists and one of labels by the same names; needs the extra `parquet`

    Labels are whole numbers, -1 for none, or words. Words are numbered in sorted order; an empty word is
    none.

    Args:
        path: The file.
        labels: Another array or column of the file, or a file of labels: `.npy`, or `.txt` with one per line.
        skip_bad: Leave out the rows with NaN, infinity or a number beyond float32.

    Raises:
        DataError: The file is missing, damaged, different from its header, or holds Python objects, which are
            never unpickled. Or it has fewer than 2 rows, labels that do not fit, or rows to leave out while
            `skip_bad` is off. Or its features are complex numbers or words, or their shape is not (N, D).
        UsageError: For another file extension, or a missing extra.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/x.npy"
    >>> np.save(path, np.eye(4, 3, dtype=np.float16))
    >>> file = open_embeddings(path)
    >>> file.rows, file.width, file.dtype, file.sample(2, seed=0).dtype
    (4, 3, 'float16', torch.float32)
    """
    path = Path(path)
    if path.suffix not in OPENERS:
        ending, endings = path.suffix or "nothing", ", ".join(OPENERS)
        raise UsageError(
            f"{path} ends in {ending!r}, but embeddings must end in {endings}; write one of these."
        )
    if not path.is_file():
        raise DataError(f"There is no file {path}; check the path.")
    beside = labels is not None and Path(labels).suffix in _LABEL_FILES
    matrix, read_labels = OPENERS[path.suffix](path, None if labels is None or beside else str(labels))
    if labels is not None and beside:
        read_labels = _read_labels(Path(labels))
    numbers, classes = (None, ()) if read_labels is None else numbered(read_labels, path.name)
    if numbers is not None and len(numbers) != matrix.shape[0]:
        rows = f"{path.name} has {matrix.shape[0]} rows"
        raise DataError(f"{rows}, but {len(numbers)} labels; give one per row, -1 for none.")
    if numbers is not None and (numbers == UNLABELLED).all():
        numbers = None
    bad = bad_rows(matrix)
    if len(bad) and not skip_bad:
        rows = f"{len(bad)} of {matrix.shape[0]} rows, the first is row {bad[0]} (from 0)"
        what = "NaN, infinity or a number beyond float32"
        raise DataError(f"{path.name} has {what} in {rows}; fix them, or leave them out with skip_bad.")
    return EmbeddingFile(path.name, matrix, bad, numbers, classes)


def check_same_width(first: EmbeddingFile, second: EmbeddingFile) -> None:
    """Raise DataError unless two files hold features of one width."""
    if first.width != second.width:
        widths = f"{first.name} has width {first.width}, but {second.name} has width {second.width}"
        raise DataError(f"{widths}; give files from one place of one model.")


def paired(first: EmbeddingFile, second: EmbeddingFile) -> tuple[EmbeddingFile, EmbeddingFile]:
    """Two files whose rows i show the same image, without the rows that are dropped from either.

    Args:
        first: A file.
        second: The file with another view of each row.

    Raises:
        DataError: For files of different width or number of rows.
    """
    check_same_width(first, second)
    (rows, _), (others, _) = first.matrix.shape, second.matrix.shape
    if rows != others:
        counts = f"{first.name} has {rows} rows and {second.name} has {others}"
        raise DataError(f"{counts}, but row i of both must be the same image; give files of the same images.")
    dropped = np.union1d(first.dropped, second.dropped)
    return replace(first, dropped=dropped), replace(second, dropped=dropped)


def bad_rows(matrix: Matrix) -> np.ndarray:
    """The numbers, ascending, of the rows that are not finite as float32."""
    numbers, start = [np.empty(0, np.int64)], 0
    for tile in matrix.tiles():
        # Extremes are NaN if any number is NaN. Checking each number takes 30 times as long.
        if not all(math.isfinite(extreme) for extreme in torch.aminmax(tile)):
            numbers.append(start + (~torch.isfinite(tile)).any(1).nonzero()[:, 0].numpy())
        start += len(tile)
    return np.concatenate(numbers)


def numbered(labels: np.ndarray, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,) of the file `name` as int64, -1 for none, and their names if they were words."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "biuUS":
        kind = f"{labels.dtype} of the shape {labels.shape}"
        raise DataError(f"The labels of {name} must be numbers or words (N,), but are {kind}; fix them.")
    if labels.dtype.kind in "US":
        words = np.char.decode(labels, "utf-8", "replace") if labels.dtype.kind == "S" else labels
        classes = np.unique(words[words != ""])
        try:
            names = tuple(classes.tolist())
        except (SystemError, ValueError):  # NumPy and Python find numbers beyond the last letter
            raise DataError(f"The labels of {name} hold invalid text; write them again.") from None
        return np.where(words == "", UNLABELLED, np.searchsorted(classes, words)), names
    numbers = labels.astype(np.int64)
    if len(numbers) and numbers.min() < UNLABELLED:
        limit = f"0 or more, or {UNLABELLED} for none"
        raise DataError(f"The labels of {name} hold {numbers.min()}, but must be {limit}; renumber them.")
    return numbers, ()


def _read_labels(path: Path) -> np.ndarray:
    """The labels in a separate file: `.npy`, or `.txt` with one per line."""
    if not path.is_file():
        raise DataError(f"There is no file of labels {path}; check the path.")
    if path.suffix == ".npy":
        return map_npy(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; write one label per line.") from None
    words = np.array([line.strip() for line in lines], dtype=np.str_)
    try:
        return words.astype(np.int64)
    except ValueError:
        return words
