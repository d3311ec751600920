"""The texts of rows of embeddings: a column or array beside the features, or the lines of another file."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fullrank.embeddings.columns import as_words, read_lines, words_of_column
from fullrank.embeddings.files import shards_of
from fullrank.errors import DataError
from fullrank.files import DAMAGED_ARRAYS

# The names of columns and arrays, in order of preference, in upper or lower case.
TEXTS = ("text", "texts", "sentence", "sentences", "title", "titles", "caption", "captions")
# So many cells of a column are read at once.
_CELLS = 8192


def texts_at(path: Path, rows: np.ndarray, count: int) -> list[str] | None:
    """The texts of some rows of a file of embeddings, or of a folder of them.

    They are a column or array `text`, `sentence`, `title` or `caption`, or the lines of `NAME.texts.txt`
    beside the file.

    Args:
        path: The file or folder.
        rows: The numbers of the rows, from 0, ascending.
        count: The number of rows.

    Returns:
        The texts; None if the file has none, or not one for each row.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "x.npz"
    >>> np.savez(path, features=np.eye(3), title=["one", "two", "three"])
    >>> texts_at(path, np.array([0, 2]), 3)
    ['one', 'three']
    """
    parts = shards_of(path) if path.is_dir() else [path]
    texts, start = list[str](), 0
    # Texts are only an ornament: where they cannot be read, the map has none.
    with suppress(DataError, *DAMAGED_ARRAYS):
        for block in chain.from_iterable(map(_blocks, parts)):
            inside = rows[(rows >= start) & (rows < start + len(block))] - start
            texts += block[inside].tolist()
            start += len(block)
        return texts if start == count else None
    return None


def _blocks(path: Path) -> Iterator[np.ndarray]:
    """All texts of one file in order, in pieces."""
    beside = path.with_suffix(".texts.txt")
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            name = _named(archive.files)
            words = None if name is None else archive[name]
        if words is not None and words.dtype.kind in "US":
            yield as_words(words)
    elif path.suffix.lower() == ".parquet":
        yield from _cells(path)
    elif beside.is_file():
        yield np.array(read_lines(beside, errors="replace"), dtype=object)


def _cells(path: Path) -> Iterator[np.ndarray]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        name = _named(file.schema_arrow.names)
        if name is not None:
            for batch in file.iter_batches(batch_size=_CELLS, columns=[name]):
                yield words_of_column(batch.column(0), f"{path.name}: {name}")


def _named(names: Any) -> str | None:
    """The first of the usual names that occurs."""
    by_case = {name.lower(): name for name in names}
    return next((by_case[name] for name in TEXTS if name in by_case), None)
