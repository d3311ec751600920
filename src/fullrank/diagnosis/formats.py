"""What files of embeddings are made of: the numbers (N, D), read a piece at a time, and labels.

Nothing is unpickled. What a file says of its shape is held against its size before anything is read.
"""

import math
import tokenize
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fullrank.errors import DataError, UsageError

# How arrays, tensors and columns are called, in the order in which they are looked for, in any case.
FEATURES = ("features", "embeddings", "embedding", "x")
LABELS = ("labels", "label", "y")
# Numbers looked at together: 2**24 float32 are 64 MiB.
TILE = 2**24
_WHOLE = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_READABLE = {"float16", "bfloat16", "float32", "float64", "float128"} | _WHOLE
# The types as safetensors and Arrow call them, where NumPy calls them otherwise.
_SAFETENSORS_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"} | {
    name[0].upper() + name.lstrip("uint"): name for name in _WHOLE
}
_ARROW_TYPES = {"halffloat": "float16", "float": "float32", "double": "float64"}


class Matrix(ABC):
    """Numbers (N, D) in a file, of type `dtype` there; they leave it as float32."""

    shape: tuple[int, int]
    dtype: str

    @abstractmethod
    def blocks(self, rows: int) -> Iterator[Tensor]:
        """All rows in order, float32 (n, D), n at most `rows`."""

    def tiles(self) -> Iterator[Tensor]:
        """All rows in order, float32 (n, D), in pieces that take no more than some 64 MiB."""
        return self.blocks(max(1, TILE // self.shape[1]))

    def take(self, rows: np.ndarray) -> Tensor:
        """The rows of these numbers, which ascend: float32 (len(rows), D)."""
        found, start = [], 0
        for tile in self.tiles():
            inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(tile))]
            found.append(tile[torch.from_numpy(inside - start)])
            start += len(tile)
        return torch.cat(found)


def open_npy(path: Path, labels: str | None) -> tuple[Matrix, np.ndarray | None]:
    """A mapped array, and the labels beside it in `NAME.labels.npy`, if that is there."""
    if labels is not None:
        raise UsageError(
            f"{path.name} holds one array and no labels {labels!r}; give a file that ends in .npy or .txt."
        )
    with path.open("rb") as stream:
        header = npy_header(stream, path.stat().st_size, str(path))
    # Checked before it is mapped, since nothing cannot be.
    shape = _check_matrix(path.name, header.shape, header.type_name)
    # Copy on write: what someone writes into a chunk stays out of the file, and reading takes no memory.
    mapped = np.memmap(path, header.dtype, "c", header.start, shape, "F" if header.fortran else "C")
    beside = path.with_suffix(".labels.npy")
    return _Array(mapped, path.name), read_npy(beside) if beside.is_file() else None


def open_npz(path: Path, labels: str | None) -> tuple[Matrix, np.ndarray | None]:
    """An array of an archive, loaded, and its labels."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
            headers = {}
            for name, entry in entries.items():
                with archive.open(entry) as stream:
                    headers[name] = npy_header(stream, entry.file_size, f"{path}: {name}")
            shapes = {name: header.shape for name, header in headers.items()}
            flat = [name for name, shape in shapes.items() if len(shape) == 2]
            chosen = _pick_features(path, {name: str(shape) for name, shape in shapes.items()}, flat)
            _check_matrix(f"{path.name}: {chosen}", headers[chosen].shape, headers[chosen].type_name)
            found = _pick_labels(path, [name for name in shapes if name != chosen], labels)
            arrays = {
                name: _member(archive, entries[name], headers[name]) for name in (chosen, found) if name
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError):
        raise DataError(f"{path} is no whole .npz file; write it again with numpy.savez.") from None
    return _Array(arrays[chosen], f"{path.name}: {chosen}"), arrays[found] if found else None


def open_safetensors(path: Path, labels: str | None) -> tuple[Matrix, np.ndarray | None]:
    """A tensor of a file that is mapped by its library, and the file's labels."""
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in sorted(file.keys())}
            flat = [name for name, shape in shapes.items() if len(shape) == 2]
            chosen = _pick_features(path, {name: str(shape) for name, shape in shapes.items()}, flat)
            found = _pick_labels(path, [name for name in shapes if name != chosen], labels)
            return _SafeTensor(path, chosen), file.get_tensor(found).numpy() if found else None
    except SafetensorError as error:
        raise _damaged(path, error) from None


def open_parquet(path: Path, labels: str | None) -> tuple[Matrix, np.ndarray | None]:
    """A column of lists of one length, streamed, and the column of labels."""
    if find_spec("pyarrow") is None:
        raise UsageError(
            "Reading .parquet needs pyarrow, which is not installed; run `pip install 'fullrank[parquet]'`."
        )
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            types = {field.name: field.type for field in file.schema_arrow}
            lists = [name for name, kind in types.items() if hasattr(kind, "value_field")]
            chosen = _pick_features(path, {name: f"({kind})" for name, kind in types.items()}, lists)
            if chosen not in lists:
                raise DataError(
                    f"{path.name}: {chosen} must be a column of lists of numbers, but is one of "
                    f"{types[chosen]}; write one list a row."
                )
            found = _pick_labels(path, [name for name in types if name != chosen], labels)
            return _Column(path, chosen), _label_column(file.read([found]).column(0)) if found else None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None


OPENERS: dict[str, Callable[[Path, str | None], tuple[Matrix, np.ndarray | None]]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".safetensors": open_safetensors,
    ".parquet": open_parquet,
}


@dataclass(frozen=True)
class Header:
    """What an array in NumPy's format says of itself, and where in the file its numbers start."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    start: int

    @property
    def type_name(self) -> str:
        """The type of the numbers, whatever the order of their bytes."""
        return str(self.dtype.newbyteorder("="))


def npy_header(stream: IO[bytes], size: int, name: str) -> Header:
    """The header of an array of `size` bytes; DataError where it is none, of objects, or not what it says."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, fortran, dtype = readers[np.lib.format.read_magic(stream)](stream)
    except (ValueError, TypeError, SyntaxError, KeyError, EOFError, tokenize.TokenError):
        raise DataError(
            f"{name} is no whole array in NumPy's format, and a pickle is never read; write it with "
            "numpy.save."
        ) from None
    if dtype.hasobject:
        raise DataError(
            f"{name} holds Python objects, and a pickle is never read; write it as an array of numbers."
        )
    expected, actual = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if expected != actual or min(shape, default=0) < 0:
        raise DataError(
            f"{name} says that it holds {shape} of {dtype}, {expected} bytes, but has {actual}; it is "
            "damaged or was not written to its end, so write it again."
        )
    return Header(shape, fortran, dtype, stream.tell())


def read_npy(path: Path) -> np.ndarray:
    """The whole array in a `.npy` file."""
    with path.open("rb") as stream:
        header = npy_header(stream, path.stat().st_size, str(path))
        return _shaped(stream.read(), header)


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, header: Header) -> np.ndarray:
    """An array of an archive, whose header was checked; its CRC is checked on the way."""
    with archive.open(entry) as stream:
        stream.read(header.start)
        return _shaped(stream.read(), header)


def _shaped(content: bytes, header: Header) -> np.ndarray:
    flat = np.frombuffer(bytearray(content), header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def _check_matrix(name: str, shape: tuple[int, ...], dtype: str) -> tuple[int, int]:
    """`shape` as (N, D); DataError for another, an empty one, or numbers that are not real."""
    if dtype not in _READABLE:
        raise DataError(
            f"{name} holds {dtype}, but features are floating-point or whole numbers; cast them to float32."
        )
    if len(shape) != 2:
        raise DataError(
            f"{name} must have the shape (N, D), a row an image, but has {shape}; pool or flatten it."
        )
    if 0 in shape:
        raise DataError(
            f"{name} is empty, of the shape {shape}; give 2 rows or more, each of 1 number or more."
        )
    return shape[0], shape[1]


def _pick(names: Iterable[str], wanted: tuple[str, ...]) -> str | None:
    """The first of the `wanted` names that is there, in any case."""
    by_case = {name.lower(): name for name in names}
    return next((by_case[name] for name in wanted if name in by_case), None)


def _pick_features(path: Path, shapes: Mapping[str, str], flat: list[str]) -> str:
    """The name of the features: one that says so, or else the only one that is `flat`; DataError without."""
    named = _pick(shapes, FEATURES)
    if named is None and len(flat) != 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
        raise DataError(
            f"{path.name} holds {listed}, and which are the features is not clear; call them 'features'."
        )
    return flat[0] if named is None else named


def _pick_labels(path: Path, names: list[str], asked: str | None) -> str | None:
    """The name of the labels, the one `asked` for if any; UsageError where the file has no such name."""
    if asked is not None and asked not in names:
        raise UsageError(
            f"{path.name} has no labels {asked!r}, but beside the features {', '.join(names) or 'nothing'}; "
            "give one of these, or a file that ends in .npy or .txt."
        )
    return _pick(names, LABELS) if asked is None else asked


@final
class _Array(Matrix):
    """An array in memory or mapped."""

    def __init__(self, array: np.ndarray, name: str):
        self.dtype = str(array.dtype.newbyteorder("="))
        self.shape = _check_matrix(name, array.shape, self.dtype)
        self.array = array

    def blocks(self, rows: int) -> Iterator[Tensor]:
        for start in range(0, self.shape[0], rows):
            yield self._tensor(self.array[start : start + rows])

    def take(self, rows: np.ndarray) -> Tensor:
        return self._tensor(self.array[rows])

    @staticmethod
    def _tensor(part: np.ndarray) -> Tensor:
        # A number beyond float32 becomes infinite, and is found so.
        with np.errstate(over="ignore"):
            return torch.from_numpy(part.astype(np.float32, copy=False).view(np.ndarray))


@final
class _SafeTensor(Matrix):
    """A tensor in a .safetensors file, which the library maps."""

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key
        with safe_open(path, framework="pt") as file:
            part = file.get_slice(key)
            shape, kind = tuple(part.get_shape()), part.get_dtype()
        self.dtype = _SAFETENSORS_TYPES.get(kind, kind)
        self.shape = _check_matrix(f"{path.name}: {key}", shape, self.dtype)

    def blocks(self, rows: int) -> Iterator[Tensor]:
        with safe_open(self.path, framework="pt") as file:
            part = file.get_slice(self.key)
            for start in range(0, self.shape[0], rows):
                yield part[start : start + rows].float()


@final
class _Column(Matrix):
    """A column of lists of one length in a .parquet file; an empty cell is a row of NaN."""

    def __init__(self, path: Path, key: str):
        import pyarrow.parquet as pq

        self.path, self.key = path, key
        with pq.ParquetFile(path) as file:
            rows, column = file.metadata.num_rows, file.schema_arrow.field(key).type
        kind = str(column.value_type)
        self.dtype = _ARROW_TYPES.get(kind, kind)
        width = getattr(column, "list_size", None) or self._first_length()
        self.shape = _check_matrix(f"{path.name}: {key}", (rows, width), self.dtype)

    def blocks(self, rows: int) -> Iterator[Tensor]:
        import pyarrow.compute as pc

        start, width = 0, self.shape[1]
        for cells in self._cells(rows):
            lengths = pc.list_value_length(cells).fill_null(width).to_numpy()
            if (lengths != width).any():
                row = int((lengths != width).argmax())
                raise DataError(
                    f"{self.path.name}: row {start + row} (from 0) of {self.key} has {lengths[row]} numbers, "
                    f"but the first has {width}; give rows of one width."
                )
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
        """The length of the first list that is there, 0 without any."""
        import pyarrow.compute as pc

        for cells in self._cells(1024):
            lengths = pc.list_value_length(cells).drop_null()
            if len(lengths):
                return int(lengths[0].as_py())
        return 0


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
    """The error for a file that its library cannot read, with the first sentence of what that says."""
    reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    return DataError(f"{path} is no whole {path.suffix} file ({reason[:160]}); write it again.")
