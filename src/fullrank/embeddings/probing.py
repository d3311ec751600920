"""Which rows of a file of embeddings a probe learns from, and which it is scored on."""

from dataclasses import dataclass

import numpy as np
import torch

from fullrank.embeddings.columns import UNLABELLED
from fullrank.embeddings.files import EmbeddingFile
from fullrank.errors import count_of

# More classes than this are probed by a random choice of as many: cost grows with rows times classes, and a
# sample has few rows of each of many classes.
MOST_CLASSES = 100
# A linear probe with its penalties takes some seconds for so many products of rows, channels and classes.
_PRODUCTS = 2**26
# At least and at most so many rows teach a probe whose cost is bounded by products.
_LEAST_ROWS, _MOST_ROWS = 2048, 2**15


@dataclass(frozen=True, eq=False)
class ProbeRows:
    """Numbers of rows, 0 to N - 1, to learn from and to score, and sentences on what was left out.

    Both are empty where labels allow no probe. `labels` are those of the rows of both.
    """

    train: np.ndarray
    test: np.ndarray
    labels: tuple[np.ndarray, np.ndarray]
    notes: tuple[str, ...] = ()

    @classmethod
    def none(cls, reason: str) -> "ProbeRows":
        """No rows, with the reason."""
        empty = np.empty(0, np.int64)
        return cls(empty, empty, (empty, empty), (f"Accuracy: {reason}.",))

    def __bool__(self) -> bool:
        return bool(len(self.train))


def affordable_rows(width: int, classes: int) -> int:
    """How many rows a linear probe learns from in some seconds: 2^26 / (width * classes), 2048 to 32,768.

    Args:
        width: The number of channels.
        classes: The number of classes.

    >>> affordable_rows(256, classes=10), affordable_rows(2048, classes=100), affordable_rows(8, classes=2)
    (26214, 2048, 32768)
    """
    return min(_MOST_ROWS, max(_LEAST_ROWS, _PRODUCTS // (width * max(classes, 1))))


def probe_rows(
    file: EmbeddingFile, train: int, test: int, *, classes: int | None = MOST_CLASSES, seed: int = 0
) -> ProbeRows:
    """The rows of a file to learn from and to score, those of its split or two random halves.

    Args:
        file: The file.
        train: The largest number of rows to learn from.
        test: The largest number of rows to score.
        classes: The largest number of classes. None takes all, and unlabelled rows too.
        seed: The seed of the sample, of the halves and of the classes.

    Returns:
        The rows. There are none if no row is labelled, if there are fewer than two classes to learn, or if
        most labels occur once: such labels are names, not classes.
    """
    if (labels := file.labels) is None:
        return ProbeRows.none("the file has no labels")
    values, counts = np.unique(labels[labels != UNLABELLED], return_counts=True)
    total, single = int(counts.sum()), int((counts == 1).sum())
    if 2 * single > total:
        share = f"{single} of {count_of(total, 'label')}"
        return ProbeRows.none(f"{share} occur once, so labels are names rather than classes")
    kept, notes = (labels != UNLABELLED) | (classes is None), list[str]()
    if classes is not None and len(values) > classes:
        chosen = _drawn(values[counts > 1], classes, seed)
        kept = np.isin(labels, chosen)
        notes.append(f"The other classes: probes use {len(chosen)} of {len(values)}, drawn at random.")
    if file.all_splits is not None:
        halves = [rows[kept[rows]] for rows in file.splits(seed)]
        learnt, scored = (_drawn(rows, most, seed) for rows, most in zip(halves, (train, test), strict=True))
    else:
        rows = np.flatnonzero(kept)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).numpy()
        half = len(rows) // 2
        learnt, scored = rows[order[:half][:train]], rows[order[half:][:test]]
    known = labels[learnt][labels[learnt] != UNLABELLED]
    if len(np.unique(known)) < 2 or (labels[scored] == UNLABELLED).all():
        return ProbeRows.none("probes need 2 classes or more to learn from, and a labelled row to score")
    used = int((labels[np.r_[learnt, scored]] != UNLABELLED).sum())
    if used < total:
        notes.append(f"The other labelled rows: probes use {used} of {total}, drawn at random.")
    return ProbeRows(learnt, scored, (labels[learnt], labels[scored]), tuple(notes))


def _drawn(values: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many of the values, drawn at random, in their order."""
    order = np.random.default_rng(np.random.SeedSequence([seed])).permutation(len(values))
    return values[np.sort(order[:most])]
