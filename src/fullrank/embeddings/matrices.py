"""Numbers (N, D) on a disk, read in pieces as float32: arrays, columns, packed bits, and several in a row."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from fullrank.errors import DataError

# How many numbers are processed at once: 2**24 float32 are 64 MiB.
TILE = 2**24
_WHOLE = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_READABLE = {"float16", "bfloat16", "float32", "float64", "float128"} | _WHOLE
# Arrow's names of types that NumPy names differently.
_ARROW_TYPES = {"halffloat": "float16", "float": "float32", "double": "float64"}
# What is added to a byte so that its lowest value is 0.
_OFFSETS = {"uint8": 0, "int8": 128}
# Bytes of numbers have their two highest bits tied to each other; bits of a sign code do not. The squared
# correlation is about 1 for numbers from -64 to 63, 0.1 for numbers that fill the range, and 0 for bits.
_TIED, _ROWS_TO_TELL = 0.05, 4096
# Numbers of a column that are decoded at once: 8 MiB of float32, so that their memory is reused.
_DECODED = 2**21
# Bytes of a .parquet file that are read at once.
_BUFFER = 2**20


class Matrix(ABC):
    """Numbers (N, D) in a file, of type `dtype` there, read as float32."""

    shape: tuple[int, int]
    dtype: str

    @property
    def by_row(self) -> bool:
        """Whether `take` reads only the rows that it returns."""
        return False

    @abstractmethod
    def blocks(self, rows: int) -> Iterator[Tensor]:
        """All rows in order, float32 (n, D), n at most `rows`."""

    def tiles(self) -> Iterator[Tensor]:
        """All rows in order, float32 (n, D), in pieces of at most about 64 MiB."""
        return self.blocks(max(1, TILE // self.shape[1]))

    def take(self, rows: np.ndarray) -> Tensor:
        """The rows with these ascending numbers: float32 (len(rows), D)."""
        return torch.cat(list(picked(self.tiles(), rows)))


def picked(blocks: Iterable[Tensor], rows: np.ndarray) -> Iterator[Tensor]:
    """From consecutive blocks, the rows with these ascending numbers. A block may become empty."""
    start = 0
    for block in blocks:
        inside = rows[slice(*np.searchsorted(rows, (start, start + len(block))))]
        yield block if len(inside) == len(block) else block[torch.from_numpy(inside - start)]
        start += len(block)


def check_matrix(name: str, shape: tuple[int, ...], dtype: str) -> tuple[int, int]:
    """`shape` as (N, D); DataError for another, an empty one, or numbers that are not real."""
    if dtype not in _READABLE or len(shape) != 2 or 0 in shape:
        raise DataError(
            f"{name} holds {dtype} of the shape {shape}, but features must be floating-point or whole "
            "numbers (N, D), one row per image, not empty; pool or flatten them, and cast them to float32."
        )
    return shape[0], shape[1]


@final
class ArrayMatrix(Matrix):
    """An array or a tensor, in memory or mapped."""

    def __init__(self, array: np.ndarray | Tensor, name: str):
        kind = array.dtype if isinstance(array, Tensor) else array.dtype.newbyteorder("=")
        self.dtype = str(kind).removeprefix("torch.")
        self.shape = check_matrix(name, tuple(array.shape), self.dtype)
        self.array = array

    @property
    def by_row(self) -> bool:
        """Whether `take` reads only the rows that it returns."""
        return True

    def blocks(self, rows: int) -> Iterator[Tensor]:
        """All rows in order, float32 (n, D), n at most `rows`."""
        for start in range(0, self.shape[0], rows):
            yield _as_float32(self.array[start : start + rows])

    def take(self, rows: np.ndarray) -> Tensor:
        """The rows with these ascending numbers."""
        return _as_float32(self.array[rows])


def _as_float32(part: np.ndarray | Tensor) -> Tensor:
    """Convert to float32. A number beyond its range becomes infinite and is detected later."""
    if isinstance(part, Tensor):
        return part.float()
    with np.errstate(over="ignore"):
        return torch.from_numpy(part.astype(np.float32, copy=False).view(np.ndarray))


@final
class ColumnMatrix(Matrix):
    """A column of lists or vectors of one length in a .parquet file; an empty cell is a row of NaN."""

    def __init__(self, path: Path, key: str, rows: int, kind: Any):
        self.path, self.key = path, key
        kind = stored(kind)
        self.dtype = _ARROW_TYPES.get(str(kind.value_type), str(kind.value_type))
        width = getattr(kind, "list_size", None) or self._first_length()
        self.shape = check_matrix(f"{path.name}: {key}", (rows, width), self.dtype)

    def blocks(self, rows: int) -> Iterator[Tensor]:
        """All rows in order, float32 (n, D), n at most `rows`."""
        start, width = 0, self.shape[1]
        # At least as many rows as columns, because the moments of a block cost as much as so many rows.
        for cells in self._cells(min(rows, max(width, _DECODED // width))):
            lengths = cells.value_lengths().fill_null(width).to_numpy()
            if (lengths != width).any():
                row = int((lengths != width).argmax())
                where = f"{self.path.name}: row {start + row} (from 0) of {self.key}"
                raise DataError(f"{where} has {lengths[row]} numbers, but the first has {width}; fix it.")
            block = np.empty((len(cells), width), np.float32)
            with np.errstate(over="ignore"):
                values = cells.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
                block[cells.is_valid().to_numpy(zero_copy_only=False)] = values
            block[cells.is_null().to_numpy(zero_copy_only=False)] = np.nan
            start += len(cells)
            yield torch.from_numpy(block)

    def _cells(self, rows: int) -> Iterator[Any]:
        """The column in pieces of at most `rows` cells."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # Without these two, whole groups of rows are read ahead: the file if it is one group.
            with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=_BUFFER) as file:
                for batch in file.iter_batches(batch_size=rows, columns=[self.key]):
                    cells = batch.column(0)
                    yield cells.storage if isinstance(cells, pa.ExtensionArray) else cells
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise damaged(self.path, error) from None

    def _first_length(self) -> int:
        """The length of the first list, 0 without any."""
        lengths = (cells.value_lengths().drop_null() for cells in self._cells(1024))
        return next((int(some[0].as_py()) for some in lengths if len(some)), 0)


def stored(kind: Any) -> Any:
    """The Arrow type in which an extension type, such as a tensor of one axis, is stored; others as is."""
    return getattr(kind, "storage_type", kind)


def damaged(path: Path, error: Exception) -> DataError:
    """The error for a file that its library cannot read, with the first sentence of that error."""
    reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    return DataError(f"{path} is not a complete {path.suffix} file ({reason[:160]}); write it again.")


@final
class StackedMatrix(Matrix):
    """Several matrices of one width, one after the other."""

    def __init__(self, parts: Sequence[Matrix], names: Sequence[str]):
        for (first, one), (second, other) in pairwise(zip(names, parts, strict=True)):
            if one.shape[1] != other.shape[1]:
                widths = f"{first} has width {one.shape[1]}, but {second} has width {other.shape[1]}"
                raise DataError(f"{widths}; give features from one place of one model.")
        self.parts = tuple(parts)
        self.dtype = ", ".join(dict.fromkeys(part.dtype for part in parts))
        self.shape = sum(part.shape[0] for part in parts), parts[0].shape[1]

    @property
    def by_row(self) -> bool:
        """Whether `take` reads only the rows that it returns."""
        return all(part.by_row for part in self.parts)

    def blocks(self, rows: int) -> Iterator[Tensor]:
        """All rows in order, float32 (n, D), n at most `rows`."""
        for part in self.parts:
            yield from part.blocks(rows)

    def take(self, rows: np.ndarray) -> Tensor:
        """The rows with these ascending numbers."""
        starts = np.cumsum([0, *(part.shape[0] for part in self.parts)])
        inside = [rows[slice(*np.searchsorted(rows, span))] - span[0] for span in pairwise(starts)]
        taken = [part.take(some) for part, some in zip(self.parts, inside, strict=True) if len(some)]
        return torch.cat([torch.empty(0, self.shape[1]), *taken])


@final
class ReorderedMatrix(Matrix):
    """Some rows of a matrix in any order. Each is read by itself, so the matrix must be `by_row`.

    >>> import numpy as np
    >>> matrix = ReorderedMatrix(ArrayMatrix(np.eye(3, dtype=np.float32), "x"), np.array([2, 0]))
    >>> matrix.shape, matrix.take(np.array([0])).tolist()
    ((2, 3), [[0.0, 0.0, 1.0]])
    """

    by_row = True

    def __init__(self, matrix: Matrix, rows: np.ndarray):
        self.matrix, self.rows = matrix, rows
        self.dtype, self.shape = matrix.dtype, (len(rows), matrix.shape[1])

    def blocks(self, rows: int) -> Iterator[Tensor]:
        """All rows in order, float32 (n, D), n at most `rows`."""
        step = min(rows, max(self.shape[1], _DECODED // self.shape[1]))
        for start in range(0, self.shape[0], step):
            yield self.take(np.arange(start, min(start + step, self.shape[0])))

    def take(self, rows: np.ndarray) -> Tensor:
        """The rows with these ascending numbers."""
        numbers = self.rows[rows]
        order = np.argsort(numbers, kind="stable")
        return self.matrix.take(numbers[order])[torch.from_numpy(np.argsort(order))]


def in_step(first: Iterable[Tensor], second: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Two streams of blocks of the same rows, cut at the same places, though they come in other blocks.

    Args:
        first: Blocks (n, D) in order, n of 1 or more.
        second: Blocks (m, E) in order, as many rows in all.

    >>> one, other = torch.arange(5.0).split(2), torch.arange(5.0).split(3)
    >>> [len(a) for a, b in in_step(one, other)]
    [2, 1, 1, 1]
    """
    sides = iter(first), iter(second)
    blocks = [torch.empty(0), torch.empty(0)]
    while True:
        blocks = [rest if len(rest) else next(side, rest) for rest, side in zip(blocks, sides, strict=True)]
        if not (count := min(map(len, blocks))):
            return
        yield blocks[0][:count], blocks[1][:count]
        blocks = [block[count:] for block in blocks]


@final
class BitMatrix(Matrix):
    """The bits of a matrix of bytes as -1 and 1, the highest bit of each byte first, as numpy.packbits does.

    Bytes from -128 to 127 are those of numpy.packbits minus 128, as sentence-transformers writes them.
    """

    dtype = "bit"

    def __init__(self, packed: Matrix, name: str):
        if packed.dtype not in _OFFSETS:
            raise DataError(f"{name} holds {packed.dtype}, but packed bits are uint8 or int8; leave it out.")
        self.packed, self.shape = packed, (packed.shape[0], 8 * packed.shape[1])

    @property
    def by_row(self) -> bool:
        """Whether `take` reads only the rows that it returns."""
        return self.packed.by_row

    def blocks(self, rows: int) -> Iterator[Tensor]:
        """All rows in order, float32 (n, D), n at most `rows`."""
        for block in self.packed.blocks(rows):
            yield self._unpacked(block)

    def take(self, rows: np.ndarray) -> Tensor:
        """The rows with these ascending numbers."""
        return self._unpacked(self.packed.take(rows))

    def _unpacked(self, block: Tensor) -> Tensor:
        bits = _bits(block, self.packed.dtype, range(7, -1, -1)).float().mul_(2).sub_(1)
        bits[block.isnan()] = torch.nan  # an empty cell
        return bits.flatten(1)


def looks_packed(matrix: Matrix) -> bool:
    """Whether bytes look like packed bits: their two highest bits vary independently of each other."""
    if matrix.dtype not in _OFFSETS:
        return False
    bits = _bits(next(iter(matrix.blocks(_ROWS_TO_TELL))), matrix.dtype, (7, 6)).double()
    offset = bits - bits.mean(0)
    high, low = offset.unbind(2)
    size = high.square().sum(0) * low.square().sum(0)
    varying = size > 0
    if len(bits) < 30 or varying.double().mean() < 0.5:
        return False
    tied = (high * low).sum(0).square()[varying] / size[varying]
    return float(tied.mean()) - 1 / (len(bits) - 1) < _TIED


def _bits(block: Tensor, dtype: str, places: Iterable[int]) -> Tensor:
    """The bits (n, D, len(places)) of bytes (n, D) that were read as float32; place 7 is the highest."""
    whole = block.nan_to_num().to(torch.int16) + _OFFSETS[dtype]
    return (whole[..., None] >> torch.tensor(list(places), dtype=torch.int16)) & 1
