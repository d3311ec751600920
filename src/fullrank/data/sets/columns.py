"""Read the columns of a CSV or Parquet file. Nothing is unpickled or executed."""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fullrank.errors import DataError, UsageError, few_of, unknown_name

Columns = Mapping[str, Sequence[Any]]
"""Name of a column -> its cells."""

_DELIMITERS = ",;\t|"
_WHOLE = re.compile(r"(-?\d+)\.0+")


def read_columns(path: Path, name: str) -> Columns:
    """The columns of a table: text from .csv, .tsv and .txt, any values from .parquet.

    A text file has a line of names. Cells are separated by the most frequent of comma, semicolon, tab and bar
    in it.

    Args:
        path: The file.
        name: The name of the source, for messages.

    Raises:
        DataError: If the file is missing, damaged, empty or repeats a name.
        UsageError: If pyarrow is missing.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}; check the path in {name}.")
    columns = _of_parquet(path, name) if path.suffix.lower() in (".parquet", ".pq") else _of_text(path, name)
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{name} has no row; write a line of names and a line for each image.")
    return columns


def _of_text(path: Path, name: str) -> Columns:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(_DELIMITERS, key=first.count)
            header, *rows = csv.reader(file, delimiter=delimiter, strict=True)
    except (OSError, csv.Error) as error:
        raise DataError(f"{name} cannot be read as a table ({error}); save it as CSV.") from error
    except ValueError:  # no line at all
        return {}
    names = [each.strip() for each in header]
    if twice := {each for each in names if names.count(each) > 1}:
        raise DataError(f"{name} has the column {min(twice)!r} twice; rename one.")
    rows = [row for row in rows if row]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            problem = f"row {number} has {len(row)} cells, but there are {len(names)} columns"
            raise DataError(f"{name}: {problem}; quote cells that contain {delimiter!r}.")
    return dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}


def _of_parquet(path: Path, name: str) -> Columns:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError as error:
        raise UsageError(f"{name} needs pyarrow; pip install 'fullrank[parquet]'.") from error
    try:
        table = read_table(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{name} is not a complete Parquet file; write it again.") from error
    return {each: table[each].to_pylist() for each in table.column_names}


def find_column(columns: Columns, named: str | None, usual: Sequence[str], name: str) -> str | None:
    """The column that a user named, or the first that has a usual name; None if there is none.

    Raises:
        UsageError: If there is no column of that name.

    >>> find_column({"File Name": [], "y": []}, None, ["path", "file_name"], "x")
    'File Name'
    """
    if named is not None:
        if named not in columns:
            raise unknown_name("column", named, columns, f"{name} has {few_of(list(columns), 8)}")
        return named
    plain = {re.sub(r"[- ]", "_", column.strip().lower()): column for column in columns}
    matching = [plain[each] for each in usual if each in plain]
    return matching[0] if matching else None


def words(cells: Sequence[Any]) -> list[str]:
    """The cells of a column as text, "" where a cell is empty, NaN or null; whole numbers without `.0`.

    >>> words([1.0, None, 2.0]), words(["1.0", "nan", "2.0"]), words(["1.0", "2.5"])
    (['1', '', '2'], ['1', '', '2'], ['1.0', '2.5'])
    """
    text = ["" if _missing(cell) else str(cell).strip() for cell in cells]
    if all(not each or _WHOLE.fullmatch(each) for each in text):
        return [_WHOLE.sub(r"\1", each) for each in text]
    return text


def _missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell)) or cell in ("nan", "NaN")
