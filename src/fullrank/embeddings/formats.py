"""The contents of files of embeddings: the numbers (N, D), read in pieces, and what stands beside them.

Nothing is unpickled. The shape that a file declares is compared with its size before any number is read.
"""

import json
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fullrank.embeddings.columns import (
    SPLIT_WORDS,
    array_of,
    as_words,
    joined,
    labels_of_column,
    read_lines,
    words_of_column,
)
from fullrank.embeddings.matrices import ArrayMatrix, ColumnMatrix, Matrix, StackedMatrix, damaged, stored
from fullrank.errors import DataError, UsageError

# The names of arrays, tensors and columns, in order of preference, in upper or lower case.
FEATURES = ("features", "embeddings", "embedding", "x", "vector", "vectors", "emb")
LABELS = ("labels", "label", "y")
IDS = ("id", "ids", "path", "paths", "filename", "filenames", "file_name", "key", "keys", "__key__")
SPLIT = ("split", "splits")
# At most this many names are listed in an error.
_LISTED = 8


@dataclass(frozen=True)
class Wanted:
    """The names of the features and of the labels in a file; None takes the usual names."""

    features: str | None = None
    labels: str | None = None


@dataclass(frozen=True, eq=False)
class Contents:
    """Features in a file, and its labels, ids and splits, each (N,), None where there are none."""

    matrix: Matrix
    labels: np.ndarray | None = None
    ids: np.ndarray | None = None
    split: np.ndarray | None = None


@dataclass(frozen=True)
class _Chosen:
    """The names of the features, labels, ids and split of one part of a file, or of all of it."""

    features: str
    labels: str | None = None
    ids: str | None = None
    split: str | None = None
    part: str = ""


def open_npy(path: Path, wanted: Wanted) -> Contents:
    """A mapped array; labels in `NAME.labels.npy` and ids in `NAME.ids.txt` beside it, if these exist."""
    for name in (wanted.features, wanted.labels):
        if name is not None:
            what = f"{path.name} holds one array and nothing called {name!r}"
            raise UsageError(f"{what}; leave the name out, or give labels as a file ending in .npy or .txt.")
    beside = path.with_suffix(".labels.npy")
    labels = map_npy(beside) if beside.is_file() else None
    return Contents(ArrayMatrix(map_npy(path), path.name), labels, _ids_beside(path))


def open_npz(path: Path, wanted: Wanted) -> Contents:
    """An array of an archive, loaded, and what stands beside it."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            shapes = {}
            for name, member in members.items():
                with archive.open(member) as stream:
                    shapes[name] = _npy_shape(stream, member.file_size, f"{path}: {name}")

            def read(name: str) -> np.ndarray:
                with archive.open(members[name]) as stream:
                    return np.lib.format.read_array(stream)

            return _archived(path, shapes, wanted, read)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError):
        raise DataError(f"{path} is not a complete .npz file; write it again with numpy.savez.") from None


def open_safetensors(path: Path, wanted: Wanted) -> Contents:
    """A tensor of a file, which its library maps copy on write, and what stands beside it.

    Its ids are a JSON list `ids` in the metadata, or the lines of `NAME.ids.txt`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in sorted(file.keys())}
            contents = _archived(path, shapes, wanted, file.get_tensor)
            if contents.ids is None:
                contents = replace(contents, ids=_ids_in(file.metadata()))
            return contents if contents.ids is not None else replace(contents, ids=_ids_beside(path))
    except SafetensorError as error:
        raise damaged(path, error) from None


def _ids_in(notes: Mapping[str, str] | None) -> np.ndarray | None:
    """The ids in the metadata of a file, if it has a list of words."""
    try:
        ids = json.loads((notes or {})["ids"])
    except (KeyError, ValueError):
        return None
    words = isinstance(ids, list) and all(isinstance(each, str) for each in ids)
    return np.array(ids, dtype=np.str_) if words else None


def _ids_beside(path: Path) -> np.ndarray | None:
    """The lines of `NAME.ids.txt`, if there is such a file."""
    ids = path.with_suffix(".ids.txt")
    return np.array(read_lines(ids, errors="replace"), dtype=np.str_) if ids.is_file() else None


def _archived(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    wanted: Wanted,
    read: Callable[[str], np.ndarray | Tensor],
) -> Contents:
    """The contents of a file of arrays; `x_train` and `x_test` are the two splits of one set."""
    flat = [name for name, shape in shapes.items() if len(shape) == 2]
    parts = _split_parts(path, shapes, wanted) or [_choose(path, shapes, flat, wanted)]
    names = [f"{path.name}: {part.features}" for part in parts]
    matrices = [ArrayMatrix(read(part.features), name) for part, name in zip(parts, names, strict=True)]
    lengths = [matrix.shape[0] for matrix in matrices]

    def beside(keys: Iterable[str | None]) -> np.ndarray | None:
        arrays = [None if key is None else array_of(read(key), f"{path.name}: {key}") for key in keys]
        return arrays[0] if len(arrays) == 1 else joined(arrays, lengths)

    split, ids = beside(part.split for part in parts), beside(part.ids for part in parts)
    if len(parts) > 1:
        split = np.repeat([part.part for part in parts], lengths)
    return Contents(
        matrices[0] if len(parts) == 1 else StackedMatrix(matrices, names),
        beside(part.labels for part in parts),
        None if ids is None else as_words(ids),
        None if split is None else as_words(split),
    )


def open_parquet(path: Path, wanted: Wanted) -> Contents:
    """A column of lists of one length, streamed, and the columns beside it."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError("A .parquet file needs pyarrow; run `pip install 'fullrank[parquet]'`.") from None
    try:
        with pq.ParquetFile(path) as file:
            types = {field.name: field.type for field in file.schema_arrow}
            lists = [name for name, kind in types.items() if hasattr(stored(kind), "value_field")]
            numeric = [name for name in lists if _is_number(stored(types[name]).value_type)]
            chosen = _choose(path, {n: f"({kind})" for n, kind in types.items()}, numeric, wanted)
            key = chosen.features
            if key not in lists:
                kind = f"a column of lists of numbers, but is one of {types[key]}"
                raise DataError(f"{path.name}: {key} must be {kind}; write one list per row.")

            def column(name: str | None, convert: Callable[[Any, str], np.ndarray]) -> np.ndarray | None:
                return None if name is None else convert(file.read([name]).column(0), f"{path.name}: {name}")

            return Contents(
                ColumnMatrix(path, key, file.metadata.num_rows, types[key]),
                column(chosen.labels, labels_of_column),
                column(chosen.ids, words_of_column),
                column(chosen.split, words_of_column),
            )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(path, error) from None


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


OPENERS: dict[str, Callable[[Path, Wanted], Contents]] = {
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


def _choose(path: Path, shapes: Mapping[str, object], flat: Sequence[str], wanted: Wanted) -> _Chosen:
    """The names of the features, or else of the only `flat` array, and of what stands beside them."""
    features = wanted.features
    if features is not None and features not in shapes:
        raise UsageError(
            f"{path.name} holds no features {features!r}, only {_listed(shapes)}; use one of these."
        )
    features = features or _first_of(FEATURES, shapes)
    others = [name for name in flat if name.lower() not in (*IDS, *LABELS, *SPLIT)]
    if features is None and len(others) != 1:
        held = _listed({name: f"{name} {shape}" for name, shape in shapes.items()}.values()) or "nothing"
        raise DataError(
            f"{path.name} holds {held}; name the array of the features 'features', or choose it (column)."
        )
    features = features or others[0]
    beside = [name for name in shapes if name != features]
    if wanted.labels is not None and wanted.labels not in beside:
        held = _listed(beside) or "nothing"
        remedy = "use one of these, or a file that ends in .npy or .txt"
        raise UsageError(
            f"{path.name} has no labels {wanted.labels!r}, only, beside the features, {held}; {remedy}."
        )
    labels = wanted.labels or _first_of(LABELS, beside)
    return _Chosen(features, labels, _first_of(IDS, beside), _first_of(SPLIT, beside))


def _split_parts(path: Path, shapes: Mapping[str, object], wanted: Wanted) -> list[_Chosen]:
    """The parts of a set whose splits have arrays of their own, such as `x_train`; [] for other files."""
    if wanted.features is not None or _first_of(FEATURES, shapes) is not None:
        return []
    named: dict[str, dict[str, str]] = {}
    for name in shapes:
        for base, _, word in (name.lower().rpartition("_"), name.lower().partition("_")[::-1]):
            if base and word in SPLIT_WORDS:
                named.setdefault(word, {})[base] = name
    parts = []
    for word, names in named.items():
        if features := next((names[base] for base in FEATURES if base in names), None):
            bases = LABELS if wanted.labels is None else (wanted.labels.lower(),)
            labels, ids = (next((names[b] for b in some if b in names), None) for some in (bases, IDS))
            parts.append(_Chosen(features, labels, ids, part=word))
    if parts and wanted.labels is not None and not any(part.labels for part in parts):
        raise UsageError(
            f"{path.name} has no labels {wanted.labels!r} of its splits, only {_listed(shapes)}; "
            "give the name without its split."
        )
    return parts if len(parts) > 1 else []


def _first_of(wanted: tuple[str, ...], names: Iterable[str]) -> str | None:
    """The first of the `wanted` names that is among `names`, in any case."""
    by_case = {name.lower(): name for name in names}
    return next((by_case[name] for name in wanted if name in by_case), None)


def _listed(names: Iterable[str]) -> str:
    """Names with commas, the first eight of many."""
    names = list(names)
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
