"""Rows of files that belong together, by their ids."""

import numpy as np


def common_rows(ids: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the rows whose ids both have, (N,) and (N,), ascending in the first.

    An id that names several rows is matched in their order. An empty id names no row.

    Args:
        ids: The ids of one file.
        others: The ids of another file.

    >>> first, second = common_rows(np.array(["a", "b", "c"]), np.array(["c", "a"]))
    >>> first.tolist(), second.tolist()
    ([0, 2], [1, 0])
    """
    if np.array_equal(ids, others) and (ids != "").all():
        return np.arange(len(ids)), np.arange(len(ids))
    _, codes = np.unique(np.concatenate([ids, others]), return_inverse=True)
    sides = codes[: len(ids)], codes[len(ids) :]
    named = [np.flatnonzero(values != "") for values in (ids, others)]
    keys = [(side + len(codes) * _occurrence(side))[rows] for side, rows in zip(sides, named, strict=True)]
    _, first, second = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
    order = np.argsort(first)
    return named[0][first[order]], named[1][second[order]]


def _occurrence(codes: np.ndarray) -> np.ndarray:
    """How many earlier rows have the same code, (N,)."""
    order = np.argsort(codes, kind="stable")
    begins = np.flatnonzero(np.r_[True, np.diff(codes[order]) != 0])
    counts = np.empty(len(codes), np.int64)
    counts[order] = np.arange(len(codes)) - np.repeat(begins, np.diff(np.r_[begins, len(codes)]))
    return counts
