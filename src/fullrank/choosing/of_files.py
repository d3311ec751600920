"""Read files of embeddings as candidates."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fullrank.choosing.candidates import (
    CHAIN,
    EMBEDDING,
    LEAST_IMAGES,
    Candidate,
    Pool,
    Reading,
    unique_names,
)
from fullrank.embeddings.files import EmbeddingFile, open_embeddings
from fullrank.embeddings.matching import common_rows
from fullrank.errors import DataError, UsageError, count_of


def pool_of_files(paths: Sequence[Path], reading: Reading) -> Pool:
    """The candidates of some files: the rows that all have, matched by id, or else by their order.

    Args:
        paths: The files, or folders of files.
        reading: The limit and the seed; nothing else applies to files.

    Raises:
        UsageError: Something else is asked for, files have no row in common, or a file is named twice.
        DataError: There are fewer than `LEAST_IMAGES` rows, or a file cannot be read.
    """
    given = reading.data is not None or reading.places is not None or reading.views != CHAIN
    if given or reading.label != "label":
        raise UsageError(
            "Files of embeddings have their own labels, no images, and one place each; leave out data, "
            "places, views and labels."
        )
    files = [open_embeddings(path) for path in paths]
    names = unique_names([str(path.resolve()) for path in paths])
    rows, ids, notes = _shared_rows(files, names)
    if len(ids) > reading.limit:
        chosen = np.sort(np.random.default_rng(reading.seed).permutation(len(ids))[: reading.limit])
        rows, ids = [each[chosen] for each in rows], ids[chosen]
    if len(ids) < LEAST_IMAGES:
        raise DataError(f"A choice needs {LEAST_IMAGES} rows or more, but got {len(ids)}; give more.")
    candidates = []
    for name, file, numbers in zip(names, files, rows, strict=True):
        features = file.take(numbers)  # never the whole file, which may not fit into memory
        candidates.append(Candidate(name, EMBEDDING, features, recipe=name))
    labelled = next(
        ((file, own) for file, own in zip(files, rows, strict=True) if file.labels is not None), None
    )
    labels = None if labelled is None or labelled[0].labels is None else labelled[0].labels[labelled[1]]
    classes = () if labelled is None else labelled[0].classes or ()
    return Pool(candidates, ids, labels=labels, classes=classes, notes=notes)


def _shared_rows(
    files: Sequence[EmbeddingFile], names: Sequence[str]
) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """The numbers of the rows in each file that all files have, their ids, and sentences about that."""
    every = [np.arange(file.rows) for file in files]
    if any(file.ids is None for file in files):
        lengths = {name: file.rows for name, file in zip(names, files, strict=True)}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name} has {rows}" for name, rows in lengths.items())
            raise UsageError(f"Files without ids need equally many rows, but {shown}; give each row an id.")
        note = "Rows were matched by their order, because not every file has ids."
        return every, every[0].astype(str), [note] if len(files) > 1 else []
    ids = [np.asarray(file.ids) for file in files]
    kept = every[0]
    for name, other in zip(names[1:], ids[1:], strict=True):
        kept = kept[common_rows(ids[0][kept], other)[0]]
        if not len(kept):
            raise UsageError(f"{names[0]} and {name} have no id in common; give files of the same images.")
    common = ids[0][kept]
    rows = [kept, *(common_rows(common, other)[1] for other in ids[1:])]
    left = max(file.rows for file in files) > len(common)
    return rows, common, [f"{count_of(len(common), 'row')} are in all files."] if left else []
