"""Files of embeddings: features (N, D) on disk with labels, checked as a whole, then read in pieces."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fullrank.embeddings.columns import LABEL_ENDINGS, UNLABELLED, joined, numbered, read_labels, split_of
from fullrank.embeddings.formats import OPENERS, Contents, Wanted, map_npy
from fullrank.embeddings.kinds import CONVERTED
from fullrank.embeddings.matrices import BitMatrix, Matrix, StackedMatrix, looks_packed, picked
from fullrank.errors import DataError, UsageError, count_of, one_line

# How features in a file of torch become an array.
_FROM_TORCH = "numpy.save(NAME, torch.load(FILE, weights_only=True).numpy())"


@dataclass(frozen=True, eq=False)
class EmbeddingFile:
    """Features (N, D) in a file, without the rows that were dropped. `open_embeddings` makes one.

    Attributes:
        name: The name of the file or folder.
        matrix: The numbers in the file.
        dropped: The numbers of the dropped rows in the file, from 0, ascending.
        all_labels: The labels of all rows of the file.
        classes: The name of each label, if labels were words.
        all_ids: The ids of all rows of the file.
        all_splits: The split of each row of the file, "train", "test" or "" for rows that are not used.
        notes: Sentences on what was understood, and on what the file leaves open.
    """

    name: str
    matrix: Matrix
    dropped: np.ndarray
    all_labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    all_ids: np.ndarray | None = None
    all_splits: np.ndarray | None = None
    notes: tuple[str, ...] = ()

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
    def kept(self) -> np.ndarray:
        """The numbers in the file of the rows that are not dropped, (N,), ascending."""
        return np.delete(np.arange(self.matrix.shape[0]), self.dropped)

    @property
    def dtype(self) -> str:
        """The type of the numbers in the file, such as `float16`."""
        return self.matrix.dtype

    @property
    def labels(self) -> np.ndarray | None:
        """The labels (N,) int64, -1 if unlabelled. None if no row is labelled."""
        return None if self.all_labels is None else np.delete(self.all_labels, self.dropped)

    @property
    def ids(self) -> np.ndarray | None:
        """The id of each row (N,), words. None if the file has none."""
        return None if self.all_ids is None else np.delete(self.all_ids, self.dropped)

    def splits(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The rows to learn from and the rows to score, numbers from 0 to N - 1, ascending.

        They are those of the file's own split, or else two random halves.

        Args:
            seed: The seed of the halves.
        """
        if self.all_splits is not None:
            split = np.delete(self.all_splits, self.dropped)
            return np.flatnonzero(split == "train"), np.flatnonzero(split == "test")
        order = np.random.default_rng(np.random.SeedSequence([seed])).permutation(self.rows)
        return np.sort(order[: self.rows // 2]), np.sort(order[self.rows // 2 :])

    def take(self, rows: np.ndarray) -> Tensor:
        """The rows with these numbers, 0 to N - 1, in the order given: float32 (len(rows), D)."""
        rows = self.kept[rows] if len(self.dropped) else rows
        if (np.diff(rows) >= 0).all():
            return self.matrix.take(rows)
        order = np.argsort(rows, kind="stable")
        return self.matrix.take(rows[order])[torch.from_numpy(np.argsort(order))]

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
            blocks = picked(blocks, self.kept)
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
        return self.take(self.sample_rows(n, seed))


def open_embeddings(
    path: str | Path,
    *,
    labels: str | Path | None = None,
    skip_bad: bool = False,
    column: str | None = None,
    packed: bool | None = None,
) -> EmbeddingFile:
    """A file of features (N, D), floating-point or whole numbers of any size, checked, with its labels.

    - `.npy`: memory-mapped, never loaded whole; labels in `NAME.labels.npy` and ids in `NAME.ids.txt` next to
      it, if they exist
    - `.npz`: loaded; the array features, embeddings, embedding, x, vector or emb, or else the only
      two-dimensional one, and the labels labels, label or y
    - `.safetensors`: mapped; the same names
    - `.parquet`: streamed; a column of lists and one of labels by the same names; needs the extra `parquet`
    - a folder of such files of one kind, which are read one after the other, sorted by name

    Labels are whole numbers, -1 or NaN for none, or words. Words are numbered in sorted order; an empty word
    is none. A column `split` says which rows probes learn from and which they are scored on; so do arrays
    such as `x_train` and `x_test`. A column such as `id` or `path` names the rows.

    Args:
        path: The file or folder.
        labels: Another array or column of the file, or a file of labels: `.npy`, or `.txt` with one per line.
        skip_bad: Leave out the rows with NaN, infinity or a number beyond float32.
        column: The array or column of the features, if it has another name.
        packed: Whether bytes are eight bits each, which are read as -1 and 1, or numbers. None refuses bytes
            that look like packed bits.

    Raises:
        DataError: The file is missing, damaged, different from its header, or holds Python objects, which are
            never unpickled. Or it has fewer than 2 rows, labels or ids that do not fit, or rows to leave out
            while `skip_bad` is off. Or its features are complex numbers, words or packed bits, or their
            shape is not (N, D). Or its split has unknown words.
        UsageError: For another file extension, a name that the file lacks, or a missing extra.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/x.npy"
    >>> np.save(path, np.eye(4, 3, dtype=np.float16))
    >>> file = open_embeddings(path)
    >>> file.rows, file.width, file.dtype, file.sample(2, seed=0).dtype
    (4, 3, 'float16', torch.float32)
    """
    path = Path(path)
    name = one_line(path.name, 200)
    beside = labels is not None and Path(labels).suffix.lower() in LABEL_ENDINGS
    wanted = Wanted(column, None if labels is None or beside else str(labels))
    contents = _open_shards(path, wanted) if path.is_dir() else _open_file(path, wanted)
    matrix, notes = _unpacked(contents.matrix, name, packed)
    raw = _read_labels(Path(labels)) if labels is not None and beside else contents.labels
    numbers, classes = (None, ()) if raw is None else numbered(raw, name)
    for what, values in (("labels", numbers), ("ids", contents.ids), ("splits", contents.split)):
        if values is not None and len(values) != matrix.shape[0]:
            rows = f"{name} has {matrix.shape[0]} rows"
            none = ", -1 for none" if what == "labels" else ""
            raise DataError(f"{rows}, but {len(values)} {what}; give one per row{none}.")
    if numbers is not None and (numbers == UNLABELLED).all():
        numbers = None
    splits = None
    if contents.split is not None:
        splits, sentence = split_of(contents.split, name)
        notes.append(sentence)
    bad = bad_rows(matrix)
    if len(bad) and not skip_bad:
        rows = f"{len(bad)} of {matrix.shape[0]} rows, the first is row {bad[0]} (from 0)"
        what = "NaN, infinity or a number beyond float32"
        raise DataError(f"{name} has {what} in {rows}; fix them, or leave them out with skip_bad.")
    notes += _repeated(contents.ids)
    return EmbeddingFile(name, matrix, bad, numbers, classes, contents.ids, splits, tuple(notes))


def _open_file(path: Path, wanted: Wanted) -> Contents:
    ending = path.suffix.lower()
    if ending not in OPENERS:
        endings = ", ".join(OPENERS)
        way = _FROM_TORCH if ending in (".pt", ".pth") else CONVERTED.get(ending)
        remedy = f"convert it with {way}" if way else "write one of these"
        raise UsageError(
            f"{path} ends in {path.suffix or 'nothing'!r}, but embeddings must end in {endings}; {remedy}."
        )
    if not path.is_file():
        raise DataError(f"There is no file {path}; check the path.")
    return OPENERS[ending](path, wanted)


def _open_shards(folder: Path, wanted: Wanted) -> Contents:
    """The files of a folder as one, sorted by name."""
    shards = shards_of(folder)
    kinds = {shard.suffix.lower() for shard in shards}
    if len(kinds) != 1:
        endings = f"holds files that end in {', '.join(sorted(kinds))}" if kinds else "holds no embeddings"
        remedy = f"give a folder of files of one kind: {', '.join(OPENERS)}"
        raise DataError(f"The folder {folder} {endings}; {remedy}.")
    contents = [_open_file(shard, wanted) for shard in shards]
    lengths = [each.matrix.shape[0] for each in contents]

    def together(what: str) -> np.ndarray | None:
        arrays = [getattr(each, what) for each in contents]
        lacking = [shard.name for shard, array in zip(shards, arrays, strict=True) if array is None]
        if lacking and len(lacking) < len(shards):
            some = f"{len(lacking)} of {len(shards)} files in {folder} have no {what}, the first {lacking[0]}"
            raise DataError(f"{some}; write them for every file, or for none.")
        return joined(arrays, lengths)

    names = [shard.name for shard in shards]
    matrix = StackedMatrix([each.matrix for each in contents], names)
    return Contents(matrix, together("labels"), together("ids"), together("split"))


def shards_of(folder: Path) -> list[Path]:
    """The files of embeddings in a folder, sorted by name, without the labels beside them."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in OPENERS)
    return sorted(path for path in files if not path.name.lower().endswith(".labels.npy"))


def _unpacked(matrix: Matrix, name: str, packed: bool | None) -> tuple[Matrix, list[str]]:
    """The numbers that bytes stand for, and a sentence if that was left open."""
    if packed:
        return BitMatrix(matrix, name), []
    if matrix.dtype not in ("uint8", "int8") or packed is not None:
        return matrix, []
    if looks_packed(matrix):
        raise DataError(
            f"{name} holds {matrix.dtype} that look like packed bits, eight numbers in each; write "
            "numpy.unpackbits(x, axis=1) as float32, or say packed=True, or packed=False for numbers."
        )
    return matrix, [f"{name}: the {matrix.dtype} were read as numbers, not as packed bits."]


def _repeated(ids: np.ndarray | None) -> list[str]:
    """A sentence on ids that occur more than once."""
    values, counts = np.unique([] if ids is None else ids[ids != ""], return_counts=True)
    if not (counts > 1).any():
        return []
    first = values[counts > 1][0]
    return [
        f"Of {count_of(len(values), 'id')}, {int((counts > 1).sum())} name more than one row; the first is "
        f"{one_line(str(first), 80)!r} with {counts[counts > 1][0]} rows."
    ]


def _read_labels(path: Path) -> np.ndarray:
    """The labels in a separate file: `.npy`, or `.txt` with one per line."""
    if not path.is_file():
        raise DataError(f"There is no file of labels {path}; check the path.")
    return map_npy(path) if path.suffix.lower() == ".npy" else read_labels(path)


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
    if first.width != second.width:
        widths = f"{first.name} has width {first.width}, but {second.name} has width {second.width}"
        raise DataError(
            f"{widths}; pairs are compared by their distance, so write both files after the layers that map "
            "them to one space."
        )
    (rows, _), (others, _) = first.matrix.shape, second.matrix.shape
    if rows != others:
        counts = f"{first.name} has {rows} rows and {second.name} has {others}"
        raise DataError(f"{counts}, but row i of both must be the same image; give files of the same images.")
    ids = first.all_ids, second.all_ids
    if ids[0] is not None and ids[1] is not None and (apart := ids[0] != ids[1]).any():
        row = int(apart.argmax())
        what = f"row {row} (from 0) is {ids[0][row]!r} in {first.name} and {ids[1][row]!r} in {second.name}"
        raise DataError(f"Rows must be the same images in both files, but {what}; sort them by id.")
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
