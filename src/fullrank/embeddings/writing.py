"""Write features with ids and labels, a batch at a time: whole under their name, or as a part to continue."""

import io
import json
import os
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np

from fullrank.errors import DataError, InterruptedRunError, TerminatedRunError, UsageError, count_of
from fullrank.files import write_whole

DTYPES = ("float32", "float16")
UNLABELLED = -1
# How many numbers a row group of a .parquet file holds at most.
GROUP = 2**22
# Above this number of bytes, the ids of a .safetensors file stand beside it: the format allows 100 MB.
LONGEST_IDS = 2**25
# What ends a line for some reader.
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"

Batches = Callable[[int], Iterable[np.ndarray]]


@dataclass(frozen=True, eq=False)
class Rows:
    """What is known of the rows of a file beside their features.

    Args:
        ids: The id of each row.
        labels: The label of each row, (N,) int64; -1 means none.
        classes: The names of the classes.
        splits: The split of each row, (N,) words; None if all rows are of one split.
        notes: The metadata of the file.

    >>> Rows(("a.png", "caf\\udce9.png"), np.array([0, -1]), ("cat",)).ids
    ('a.png', 'caf\\\\xe9.png')
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...] = ()
    splits: np.ndarray | None = None
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("ids", "classes"):
            object.__setattr__(self, name, tuple(map(id_text, getattr(self, name))))
        object.__setattr__(self, "notes", {key: id_text(note) for key, note in self.notes.items()})

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def settings(self) -> dict[str, Any]:
        """What must be equal for a part to be continued."""
        ids, labels = "\n".join(self.ids).encode(), self.labels.tobytes()
        checksums = {"ids_crc32": zlib.crc32(ids), "labels_crc32": zlib.crc32(labels)}
        return self.notes | {"rows": len(self)} | checksums


@dataclass(frozen=True)
class Written:
    """What was written.

    Args:
        rows: The number of rows N.
        width: The width D of the features.
        dtype: The type of the numbers.
        place: Where the features were read; empty if this is not known.
        files: The files: first the features, then those beside them.

    >>> print(Written(300, 512, "float32", "h", (Path("x.npy"), Path("x.ids.txt"))))
    Wrote 300 rows of width 512 (float32, at h) to x.npy, and beside it x.ids.txt.
    """

    rows: int
    width: int
    dtype: str
    place: str
    files: tuple[Path, ...]

    def __str__(self) -> str:
        first, *others = self.files
        beside = f", and beside it {' and '.join(path.name for path in others)}" if others else ""
        kind = f"{self.dtype}, at {self.place}" if self.place else self.dtype
        return f"Wrote {count_of(self.rows, 'row')} of width {self.width} ({kind}) to {first}{beside}."


def id_text(name: str) -> str:
    r"""An id as text of one line: bytes that are not UTF-8 and ends of lines are written as Python does.

    >>> print(id_text("two\nlines.png"), id_text("caf\udce9.png"), id_text("café.png"))
    two\nlines.png caf\xe9.png café.png
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if not any(end in text for end in _LINE_ENDS):
        return text
    return "".join(c.encode("unicode_escape").decode() if c in _LINE_ENDS else c for c in text)


def write_rows(
    out: Path, rows: Rows, batches: Batches, *, step: int, dtype: str = "float32", resume: bool = False
) -> Written:
    """Write features in batches. Until the file is complete, its rows stand in `NAME.part`.

    Args:
        out: The file to write, which does not exist. Its ending chooses the layout.
        rows: What is known of the rows.
        batches: From the number of the first row to the features (n, D) float32 from that row on, in order.
        step: The number of rows of a batch. A part is continued at a multiple of it.
        dtype: "float32" or "float16".
        resume: Continue the part of an interrupted call, if there is one.

    Raises:
        UsageError: A part exists and is not to be continued, or was begun with other settings.
        DataError: A number is beyond float16.
    """
    layout = LAYOUTS[out.suffix](rows, dtype)
    part = Part(out, layout, resume)
    done = part.whole_rows(step)
    place = rows.notes.get("place", "")
    try:
        for batch in batches(done) if done < len(rows) else ():
            part.append(_numbers(batch, dtype, rows.ids[done:], place))
            done += len(batch)
    except OverflowError as error:
        part.remove()
        raise DataError(str(error)) from None
    except (KeyboardInterrupt, InterruptedRunError) as stopped:
        kind = TerminatedRunError if isinstance(stopped, TerminatedRunError) else InterruptedRunError
        kept = f"the finished rows are in {part.path.name}; the same command with --resume continues"
        nothing = "nothing is written yet"
        raise kind(
            f"Stopped at row {done} of {len(rows)}: {kept if part.path.exists() else nothing}."
        ) from None
    except BaseException:
        if part.path.exists():
            print(f"{part.path} keeps {count_of(done, 'row')}; --resume continues there.", file=sys.stderr)
        raise
    finally:
        part.close()
    files = part.finish()
    return Written(len(rows), part.width, dtype, place, files)


def _numbers(features: np.ndarray, dtype: str, ids: tuple[str, ...], place: str) -> np.ndarray:
    """Features (n, D) as little-endian numbers of a type; OverflowError if one is beyond it."""
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(features, np.dtype(dtype).newbyteorder("<"))
    if dtype == "float16" and (wrong := np.isinf(numbers) & np.isfinite(features)).any():
        row, column = np.argwhere(wrong)[0]
        what = f"{place or 'the features'} of {ids[row]}: {features[row, column]:g}"
        raise OverflowError(f"A number is beyond float16, which ends at 65504, at {what}; use float32.")
    return numbers


class Layout(ABC):
    """How a kind of file holds features. `rows` and `dtype` are those of the file."""

    def __init__(self, rows: Rows, dtype: str):
        self.rows, self.dtype = rows, np.dtype(dtype).newbyteorder("<")

    @abstractmethod
    def prefix(self, width: int) -> bytes:
        """What stands before the features (N, width)."""

    def beside(self, out: Path) -> dict[Path, bytes]:
        """The contents of the files beside `out`."""
        return {}

    def completed(self, part: Path, width: int) -> Path:
        """The complete file, made of `part`, which holds the prefix and all rows."""
        return part


@final
class _Npy(Layout):
    """An array, with ids in `NAME.ids.txt` and labels in `NAME.labels.npy`."""

    def prefix(self, width: int) -> bytes:
        header = io.BytesIO()
        shape = len(self.rows), width
        described = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, described)
        return header.getvalue()

    def beside(self, out: Path) -> dict[Path, bytes]:
        files = {ids_file(out): _lines(self.rows.ids)}
        if (self.rows.labels != UNLABELLED).any():
            content = io.BytesIO()
            np.save(content, self.rows.labels, allow_pickle=False)
            files[labels_file(out)] = content.getvalue()
        return files


@final
class _Safetensors(Layout):
    """The tensors `labels` and `features`; notes and ids as metadata."""

    def prefix(self, width: int) -> bytes:
        count, labels = len(self.rows), self.rows.labels.astype("<i8").tobytes()
        end = len(labels) + count * width * self.dtype.itemsize
        tensors = {
            "__metadata__": self.rows.notes | ({} if self._long else {"ids": self._ids}),
            "labels": {"dtype": "I64", "shape": [count], "data_offsets": [0, len(labels)]},
            "features": {
                "dtype": f"F{8 * self.dtype.itemsize}",
                "shape": [count, width],
                "data_offsets": [len(labels), end],
            },
        }
        header = json.dumps(tensors, ensure_ascii=False).encode()
        header += b" " * (-len(header) % 8)
        return len(header).to_bytes(8, "little") + header + labels

    def beside(self, out: Path) -> dict[Path, bytes]:
        return {ids_file(out): _lines(self.rows.ids)} if self._long else {}

    @cached_property
    def _ids(self) -> str:
        return json.dumps(self.rows.ids, ensure_ascii=False)

    @property
    def _long(self) -> bool:
        return len(self._ids.encode()) > LONGEST_IDS


@final
class _Parquet(Layout):
    """The columns `id`, `embedding`, `label`, `class`, and `split` of several splits; notes as metadata."""

    def prefix(self, width: int) -> bytes:
        return b""

    def completed(self, part: Path, width: int) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        number = pa.from_numpy_dtype(self.dtype)
        columns = {"id": pa.string(), "embedding": pa.list_(number, width)}
        columns |= {"label": pa.int64(), "class": pa.string()}
        columns |= {} if self.rows.splits is None else {"split": pa.string()}
        schema = pa.schema(list(columns.items()), metadata=self.rows.notes)
        target = part.with_name(f"{part.name}.parquet")
        try:
            with (
                part.open("rb") as stream,
                pq.ParquetWriter(target, schema, use_dictionary=["class", "split"]) as file,
            ):
                size = max(1, GROUP // width)
                for start in range(0, len(self.rows), size):
                    stop = min(start + size, len(self.rows))
                    numbers = np.fromfile(stream, self.dtype, (stop - start) * width)
                    group = self._columns(slice(start, stop))
                    group["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(numbers), width)
                    file.write_table(pa.table({name: group[name] for name in columns}, schema))
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return target

    def _columns(self, chosen: slice) -> dict[str, Any]:
        """The columns of some rows, without their features."""
        import pyarrow as pa

        labels, classes = self.rows.labels[chosen], self.rows.classes
        names = [classes[label] if 0 <= label < len(classes) else None for label in labels.tolist()]
        columns = {
            "id": pa.array(self.rows.ids[chosen], pa.string()),
            "label": pa.array(labels, mask=labels == UNLABELLED),
            "class": pa.array(names, pa.string()),
        }
        if self.rows.splits is not None:
            columns["split"] = pa.array(self.rows.splits[chosen].tolist(), pa.string())
        return columns


LAYOUTS: dict[str, type[Layout]] = {".npy": _Npy, ".safetensors": _Safetensors, ".parquet": _Parquet}


def ids_file(out: Path) -> Path:
    """The file of ids beside a file of features, one in each line."""
    return out.with_suffix(".ids.txt")


def labels_file(out: Path) -> Path:
    """The file of labels beside a file of features."""
    return out.with_suffix(".labels.npy")


def part_files(out: Path) -> tuple[Path, Path]:
    """The rows of an incomplete file, and the settings with which they were begun."""
    return out.with_name(f"{out.name}.part"), out.with_name(f"{out.name}.part.json")


@final
class Part:
    """The rows of a file that are written so far.

    Args:
        out: The file that the part becomes.
        layout: The layout of that file.
        resume: Continue a part that exists.

    Attributes:
        width: The width of the features; 0 until it is known.

    Raises:
        UsageError: A part exists and is not to be continued, or was begun with other settings.
    """

    def __init__(self, out: Path, layout: Layout, resume: bool):
        self.out, self.layout = out, layout
        self.path, self._settings_file = part_files(out)
        self._file: io.BufferedRandom | None = None
        self._settings = layout.rows.settings | {"dtype": layout.dtype.name}
        self.width = self._begun_width(resume) if self.path.exists() else 0

    def whole_rows(self, step: int) -> int:
        """The number of rows that are kept: all, or a multiple of `step`. What follows them is cut off."""
        if not self.width:
            return 0
        prefix, row = len(self.layout.prefix(self.width)), self.width * self.layout.dtype.itemsize
        rows = max(0, self.path.stat().st_size - prefix) // row
        rows = len(self.layout.rows) if rows >= len(self.layout.rows) else rows - rows % step
        if not rows:
            self.remove()
            return 0
        self._file = self.path.open("r+b")
        self._file.truncate(prefix + rows * row)
        self._file.seek(0, os.SEEK_END)
        return rows

    def append(self, numbers: np.ndarray) -> None:
        """Add rows (n, D)."""
        if self._file is None:
            self.width = numbers.shape[1]
            settings = json.dumps(self._settings | {"width": self.width}, indent=1)
            write_whole(self._settings_file, settings.encode())
            self._file = self.path.open("w+b")
            self._file.write(self.layout.prefix(self.width))
        self._file.write(numbers.data)
        self._file.flush()

    def close(self) -> None:
        """Bring all rows to the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove the part."""
        self.close()
        self.path.unlink(missing_ok=True)
        self._settings_file.unlink(missing_ok=True)

    def finish(self) -> tuple[Path, ...]:
        """Make the complete file of all rows, and write the files beside it."""
        complete = self.layout.completed(self.path, self.width)
        beside = self.layout.beside(self.out)
        for path, content in beside.items():
            write_whole(path, content)
        complete.replace(self.out)
        self.remove()
        return self.out, *beside

    def _begun_width(self, resume: bool) -> int:
        """The width in a part that exists and was begun with the same settings."""
        both = f"{self.path} and {self._settings_file.name}"
        if not self._settings_file.exists():
            raise UsageError(f"{self.path} exists, but not as a part of {self.out.name}; remove it first.")
        if not resume:
            raise UsageError(
                f"{self.path} holds rows of an interrupted call; continue with --resume, or remove {both}."
            )
        try:
            begun = json.loads(self._settings_file.read_text(encoding="utf-8"))
            width = int(begun.pop("width"))
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{self._settings_file} is damaged; remove {both}.") from None
        for key in self._settings | begun:
            before, now = (str(each.get(key))[:80] for each in (begun, self._settings))
            if begun.get(key) != self._settings.get(key):
                remedy = f"repeat the first settings, or remove {both}"
                raise UsageError(f"{self.path} was begun with {key} {before}, but now it is {now}; {remedy}.")
        return width


def _lines(ids: Iterable[str]) -> bytes:
    return "".join(f"{each}\n" for each in ids).encode()
