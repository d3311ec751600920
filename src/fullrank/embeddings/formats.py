"""The contents of files of embeddings: the numbers (N, D), read in pieces, and labels.

Nothing is unpickled. The shape that a file declares is compared with its size before any number is read.
"""

import math
import tokenize
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fullrank.errors import DataError, UsageError

# The names of arrays, tensors and columns, in order of preference, in upper or lower case.
FEATURES = ("features", "embeddings", "embedding", "x")
LABELS = ("labels", "label", "y")
# How many numbers are processed at once: 2**24 float32 are 64 MiB.
TILE = 2**24
_WHOLE = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_READABLE = {"float16", "bfloat16", "float32", "float64", "float128"} | _WHOLE
# Arrow's names of types that NumPy names differently.
_ARROW_TYPES = {"halffloat": "float16", "float": "float32", "double": "float64"}


class Matrix(ABC):
    """Numbers (N, D) in a file, of type `dtype` there, read as float32."""

    shape: tuple[int, int]
    dtype: str

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


def open_npy(path: Path, labels: str | None) -> tuple[Matrix, np.ndarray | None]:
    """A mapped array, and the labels beside it in `NAME.labels.npy`, if that exists."""
    if labels is not None:
        raise UsageError(f"{path.name} holds no labels {labels!r}; give a file that ends in .npy or .txt.")
    beside = path.with_suffix(".labels.npy")
    return _Array(map_npy(path), path.name), map_npy(beside) if beside.is_file() else None


def open_npz(path: Path, labels: str | None) -> tuple[Matrix, np.ndarray | None]:
    """An array of an archive, loaded, and its labels."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            shapes = {}
            for name, member in members.items():
                with archive.open(member) as stream:
                    shapes[name] = _npy_shape(stream, member.file_size, f"{path}: {name}")
            flat = [name for name, shape in shapes.items() if len(shape) == 2]
            chosen, label_name = _choose(path, shapes, flat, labels)

            def read(name: str) -> np.ndarray:
                with archive.open(members[name]) as stream:
                    return np.lib.format.read_array(stream)

            return _Array(read(chosen), f"{path.name}: {chosen}"), read(label_name) if label_name else None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError):
        raise DataError(f"{path} is not a complete .npz file; write it again with numpy.savez.") from None


def open_safetensors(path: Path, labels: str | None) -> tuple[Matrix, np.ndarray | None]:
    """A tensor of a file, which its library maps copy on write, and the file's labels."""
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in sorted(file.keys())}
            flat = [name for name, shape in shapes.items() if len(shape) == 2]
            chosen, label_name = _choose(path, shapes, flat, labels)
            matrix = _Array(file.get_tensor(chosen), f"{path.name}: {chosen}")
            return matrix, file.get_tensor(label_name).numpy() if label_name else None
    except SafetensorError as error:
        raise _damaged(path, error) from None


def open_parquet(path: Path, labels: str | None) -> tuple[Matrix, np.ndarray | None]:
    """A column of lists of one length, streamed, and the column of labels."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError("A .parquet file needs pyarrow; run `pip install 'fullrank[parquet]'`.") from None
    try:
        with pq.ParquetFile(path) as file:
            types = {field.name: field.type for field in file.schema_arrow}
            lists = [name for name, kind in types.items() if hasattr(kind, "value_field")]
            chosen, label_name = _choose(path, {n: f"({kind})" for n, kind in types.items()}, lists, labels)
            if chosen not in lists:
                kind = f"a column of lists of numbers, but is one of {types[chosen]}"
                raise DataError(f"{path.name}: {chosen} must be {kind}; write one list per row.")
            matrix = _Column(path, chosen, file.metadata.num_rows, types[chosen])
            return matrix, _label_column(file.read([label_name]).column(0)) if label_name else None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None


OPENERS: dict[str, Callable[[Path, str | None], tuple[Matrix, np.ndarray | None]]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".safetensors": open_safetensors,
    ".parquet": open_parquet,
}


def map_npy(path: Path) -> np.ndarray:
    """The array in a `.npy` file, mapped: reading takes no memory, and writing does not change the file."""
    with path.open("rb") as stream:
        _npy_shape(stream, path.stat().st_size, str(path))
    array: np.ndarray = np.load(path, mmap_mode="c")
    return array


def _npy_shape(stream: IO[bytes], size: int, name: str) -> tuple[int, ...]:
    """The shape of an array of `size` bytes. DataError for no array, objects, or a wrong declared size."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, _, dtype = readers[np.lib.format.read_magic(stream)](stream)
    except (ValueError, TypeError, SyntaxError, KeyError, EOFError, tokenize.TokenError):
        raise DataError(
            f"{name} is not a complete array, and a pickle is never read; use numpy.save."
        ) from None
    if dtype.hasobject:
        raise DataError(f"{name} holds Python objects, and a pickle is never read; write plain numbers.")
    expected, actual = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if expected != actual or min(shape, default=0) < 0:
        raise DataError(
            f"{name} declares {shape} of {dtype}, {expected} bytes, but has {actual}; write it again."
        )
    return shape


def _check_matrix(name: str, shape: tuple[int, ...], dtype: str) -> tuple[int, int]:
    """`shape` as (N, D); DataError for another, an empty one, or numbers that are not real."""
    if dtype not in _READABLE or len(shape) != 2 or 0 in shape:
        raise DataError(
            f"{name} holds {dtype} of the shape {shape}, but features must be floating-point or whole "
            "numbers (N, D), one row per image, not empty; pool or flatten them, and cast them to float32."
        )
    return shape[0], shape[1]


def _choose(
    path: Path, shapes: Mapping[str, object], flat: list[str], labels: str | None
) -> tuple[str, str | None]:
    """The names of the features, or else of the only `flat` array, and of the labels."""
    named = _first_of(FEATURES, shapes)
    if named is None and len(flat) != 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
        raise DataError(f"{path.name} holds {listed}; name the array of the features 'features'.")
    features = named or flat[0]
    others = [name for name in shapes if name != features]
    if labels is not None and labels not in others:
        listed = ", ".join(others) or "nothing"
        remedy = "use one of these, or a file that ends in .npy or .txt"
        raise UsageError(
            f"{path.name} has no labels {labels!r}, only, beside the features, {listed}; {remedy}."
        )
    return features, _first_of(LABELS, others) if labels is None else labels


def _first_of(wanted: tuple[str, ...], names: Iterable[str]) -> str | None:
    """The first of the `wanted` names that is among `names`, in any case."""
    by_case = {name.lower(): name for name in names}
    return next((by_case[name] for name in wanted if name in by_case), None)


@final
class _Array(Matrix):
    """An array or a tensor, in memory or mapped."""

    def __init__(self, array: np.ndarray | Tensor, name: str):
        kind = array.dtype if isinstance(array, Tensor) else array.dtype.newbyteorder("=")
        self.dtype = str(kind).removeprefix("torch.")
        self.shape = _check_matrix(name, tuple(array.shape), self.dtype)
        self.array = array

    def blocks(self, rows: int) -> Iterator[Tensor]:
        for start in range(0, self.shape[0], rows):
            yield _as_float32(self.array[start : start + rows])

    def take(self, rows: np.ndarray) -> Tensor:
        return _as_float32(self.array[rows])


def _as_float32(part: np.ndarray | Tensor) -> Tensor:
    """Convert to float32. A number beyond its range becomes infinite and is detected later."""
    if isinstance(part, Tensor):
        return part.float()
    with np.errstate(over="ignore"):
        return torch.from_numpy(part.astype(np.float32, copy=False).view(np.ndarray))


@final
class _Column(Matrix):
    """A column of lists of one length in a .parquet file; an empty cell is a row of NaN."""

    def __init__(self, path: Path, key: str, rows: int, kind: Any):
        self.path, self.key = path, key
        self.dtype = _ARROW_TYPES.get(str(kind.value_type), str(kind.value_type))
        width = getattr(kind, "list_size", None) or self._first_length()
        self.shape = _check_matrix(f"{path.name}: {key}", (rows, width), self.dtype)

    def blocks(self, rows: int) -> Iterator[Tensor]:
        start, width = 0, self.shape[1]
        for cells in self._cells(rows):
            lengths = cells.value_lengths().fill_null(width).to_numpy()
            if (lengths != width).any():
                row = int((lengths != width).argmax())
                where = f"{self.path.name}: row {start + row} (from 0) of {self.key}"
                raise DataError(f"{where} has {lengths[row]} numbers, but the first has {width}; fix it.")
            block = np.full((len(cells), width), np.nan, np.float32)
            with np.errstate(over="ignore"):
                values = cells.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
                block[cells.is_valid().to_numpy(zero_copy_only=False)] = values
            start += len(cells)
            yield torch.from_numpy(block)

    def _cells(self, rows: int) -> Iterator[Any]:
        """The column in pieces of at most `rows` cells."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=rows, columns=[self.key]):
                    yield batch.column(0)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _damaged(self.path, error) from None

    def _first_length(self) -> int:
        """The length of the first list, 0 without any."""
        lengths = (cells.value_lengths().drop_null() for cells in self._cells(1024))
        return next((int(some[0].as_py()) for some in lengths if len(some)), 0)


def _label_column(column: Any) -> np.ndarray:
    """A column of labels, an empty cell as -1 or an empty word."""
    import pyarrow as pa

    column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array(column.fill_null("").to_pylist(), dtype=np.str_)
    if pa.types.is_integer(column.type):
        column = column.cast(pa.int64()).fill_null(-1)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _damaged(path: Path, error: Exception) -> DataError:
    """The error for a file that its library cannot read, with the first sentence of that error."""
    reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    return DataError(f"{path} is not a complete {path.suffix} file ({reason[:160]}); write it again.")
