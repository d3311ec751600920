"""Rows before everything else: those that are zero, and those that are equal to an earlier one."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class RowSurvey:
    """Zero rows and equal rows of all rows of a file, or equal pixels of all images.

    Attributes:
        count: The number of rows, N.
        zero: The numbers of the zero rows, ascending.
        first: For each row the number of the first row that is bit-equal, its own if none comes before: (N,).
        learnt: The numbers of the rows that probes learn from, empty if there are no probes.
        tested: The numbers of the rows that probes are scored on.
    """

    count: int
    zero: np.ndarray
    first: np.ndarray
    learnt: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    tested: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
