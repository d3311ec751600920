"""The scores of two files of embeddings: on the same rows, or of two sets."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fullrank.diagnosis.beside.scores import (
    LEAST_FOLDED,
    LEAST_TESTED,
    paired_scores,
    row_scores,
    unpaired_scores,
)
from fullrank.diagnosis.of_file import SAMPLE
from fullrank.embeddings.columns import UNLABELLED
from fullrank.embeddings.files import EmbeddingFile
from fullrank.embeddings.probing import MOST_CLASSES, affordable_rows, probe_rows
from fullrank.record import PairedScore

_PLACE = "embedding"


def scores_of_files(
    now: EmbeddingFile, before: EmbeddingFile, *, matched: bool, seed: int = 0
) -> tuple[list[PairedScore], list[str]]:
    """The scores of both files and their differences, and a sentence for each thing that has none.

    Args:
        now: The file that is diagnosed.
        before: The other file. If rows are matched, row i of both belongs together and has the same label.
            Otherwise the labels of both are in the same numbers.
        matched: Whether rows are matched.
        seed: The seed of samples and probes.
    """
    if matched:
        return _of_the_same_rows(now, before, seed)
    return _of_two_sets(now, before, seed)


def _of_the_same_rows(
    now: EmbeddingFile, before: EmbeddingFile, seed: int
) -> tuple[list[PairedScore], list[str]]:
    rows = probe_rows(now, _affordable(now, before), SAMPLE, seed=seed)
    notes = [note.replace("Accuracy:", "Scores:") for note in rows.notes]
    if not rows:
        return [], notes
    if (tested := int((rows.labels[1] != UNLABELLED).sum())) < LEAST_TESTED:
        return [], [*notes, f"Scores: {tested} rows to score are too few; {LEAST_TESTED} are needed."]
    sides = [
        row_scores(file.take(rows.train), file.take(rows.test), rows.labels, seed=seed)
        for file in (now, before)
    ]
    return paired_scores({(_PLACE, _PLACE): (sides[0], sides[1])}, seed=seed), notes


def _of_two_sets(now: EmbeddingFile, before: EmbeddingFile, seed: int) -> tuple[list[PairedScore], list[str]]:
    if lacking := next(_why_not(now, before), None):
        return [], [f"Scores: {lacking}."]
    labelled = [np.flatnonzero(_labels(file) != UNLABELLED) for file in (now, before)]
    most = min(*map(len, labelled), _affordable(now, before))
    sides = [_drawn(file, rows, most, seed) for file, rows in zip((now, before), labelled, strict=True)]
    return unpaired_scores(sides[0], sides[1], place=_PLACE, seed=seed), []


def _why_not(now: EmbeddingFile, before: EmbeddingFile) -> Iterator[str]:
    """Why the labels of two sets allow no comparison."""
    for file in (now, before):
        values, counts = np.unique(_labels(file)[_labels(file) != UNLABELLED], return_counts=True)
        if not len(values):
            yield f"{file.name} has no labels"
        elif 2 * (counts == 1).sum() > counts.sum():
            yield f"most labels of {file.name} occur once, so they are names rather than classes"
        elif len(values) < 2:
            yield f"the labels of {file.name} are all of one class"
        elif counts.sum() < LEAST_FOLDED:
            yield f"{file.name} has {counts.sum()} labelled rows, and {LEAST_FOLDED} are needed"
    classes = [set(np.unique(_labels(file))) - {UNLABELLED} for file in (now, before)]
    if classes[0] != classes[1]:
        yield f"the classes of {now.name} are not those of {before.name}"


def _labels(file: EmbeddingFile) -> np.ndarray:
    return np.full(file.rows, UNLABELLED) if file.labels is None else file.labels


def _affordable(now: EmbeddingFile, before: EmbeddingFile) -> int:
    classes = len(np.unique(_labels(now)))
    return affordable_rows(max(now.width, before.width), min(classes, MOST_CLASSES))


def _drawn(file: EmbeddingFile, rows: np.ndarray, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features and labels of at most so many of these rows, drawn at random."""
    order = np.random.default_rng(np.random.SeedSequence([seed])).permutation(len(rows))
    picked = rows[np.sort(order[:most])]
    return file.take(picked), torch.from_numpy(_labels(file)[picked])
