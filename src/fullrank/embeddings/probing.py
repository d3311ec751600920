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


def probe_rows(
    file: EmbeddingFile, most: int, *, classes: int | None = MOST_CLASSES, seed: int = 0
) -> ProbeRows:
    """The rows of a file to learn from and to score, those of its split or two halves of a random sample.

    Args:
        file: The file.
        most: The largest number of rows in both together.
        classes: The largest number of classes; None takes all.
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
    kept, notes = np.ones(file.rows, dtype=bool), list[str]()
    if classes is not None and len(values) > classes:
        chosen = _drawn(values[counts > 1], classes, seed)
        kept = np.isin(labels, chosen)
        notes.append(f"The other classes: probes use {len(chosen)} of {len(values)}, drawn at random.")
    if file.all_splits is not None:
        train, test = (_drawn(rows[kept[rows]], most // 2, seed) for rows in file.splits(seed))
    else:
        train, test = _halves(file, kept, most, seed)
    learnt = np.unique(labels[train][labels[train] != UNLABELLED])
    if len(learnt) < 2 or (labels[test] == UNLABELLED).all():
        return ProbeRows.none("probes need 2 classes or more to learn from, and a labelled row to score")
    labelled = int((labels[np.r_[train, test]] != UNLABELLED).sum())
    if labelled < total:
        notes.append(f"The other labelled rows: probes use {labelled} of {total}, drawn at random.")
    return ProbeRows(train, test, (labels[train], labels[test]), tuple(notes))


def _halves(file: EmbeddingFile, allowed: np.ndarray, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two halves, in random order, of a sample of the rows that are allowed (N,)."""
    rows = file.sample_rows(most, seed) if allowed.all() else _drawn(np.flatnonzero(allowed), most, seed)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).numpy()
    return rows[order[: len(rows) // 2]], rows[order[len(rows) // 2 :]]


def _drawn(values: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many of the values, drawn at random, in their order."""
    order = np.random.default_rng(np.random.SeedSequence([seed])).permutation(len(values))
    return values[np.sort(order[:most])]
