"""Probe a file of embeddings: the same evaluation as that of a run, of the one place that a file has."""

from pathlib import Path

import numpy as np
import torch

from fullrank.embeddings.files import EmbeddingFile, open_embeddings
from fullrank.embeddings.probing import probe_rows
from fullrank.errors import DataError, UsageError
from fullrank.evaluation.evaluate import Evaluation
from fullrank.evaluation.scores import LabelledFeatures, PlaceScores, Request
from fullrank.linalg import shared_coordinates
from fullrank.record import ProbedImages, Spectrum
from fullrank.record.scores import REDUNDANCY
from fullrank.spectrum.functional import effective_rank_of, singular_values

PLACE = "embedding"
_MEASURES = ("per-class", "retrieval", "reduced", REDUNDANCY)
# The most numbers that are read for the probes, 1 GiB as float32.
_NUMBERS = 2**28
_HALVES = "The file has no split: probes learn from a random half and are scored on the other."
_DEFAULT = Request()


def probe_file(
    file: str | Path | EmbeddingFile, request: Request = _DEFAULT, column: str | None = None
) -> Evaluation:
    """Linear and nearest-neighbour accuracy of a file of embeddings, and the spectrum of its test rows.

    Probes learn from the training rows of the file's split and are scored on its test rows. Without a split
    these are two random halves, drawn by the seed of the request.

    Args:
        file: The file, a folder of such files, or what `open_embeddings` returns.
        request: The label (which may be a file, an array or a column), the measures "per-class",
            "retrieval", "reduced" and "redundancy", shots, and the treatment of features for linear probes.
        column: The array or column of the features, if it has another name.

    Raises:
        UsageError: If a measure needs more than a file of embeddings.
        DataError: If the file cannot be read, or its labels allow no probe.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> np.savez(folder + "/x.npz", x=np.eye(4).repeat(10, 0), y=np.arange(4).repeat(10))
    >>> probe_file(folder + "/x.npz").probes["embedding"].linear
    1.0
    """
    if unknown := [measure for measure in request.measures if measure not in _MEASURES]:
        remedy = f"use {', '.join(_MEASURES[:-1])} or {_MEASURES[-1]}"
        raise UsageError(f"The measure {unknown[0]} needs a model, not a file of embeddings; {remedy}.")
    if not isinstance(file, EmbeddingFile):
        labels = None if request.label == "label" else request.label
        file = open_embeddings(file, labels=labels, column=column)
    half = max(1, _NUMBERS // file.width // 2)
    rows = probe_rows(file, half, half, classes=None, seed=request.seed)
    if file.labels is None or not rows:
        reason = rows.notes[0].removeprefix("Accuracy: ").rstrip(".")
        raise DataError(f"{file.name} cannot be probed, since {reason}; give other labels.")
    values = np.unique(file.labels[file.labels >= 0])
    numbers = np.where(file.labels < 0, -1, np.searchsorted(values, file.labels))
    names = [file.classes[value] if file.classes else str(value) for value in values.tolist()]
    learned = rows.train[numbers[rows.train] >= 0]
    train, test = file.take(learned), file.take(rows.test)
    spectrum = singular_values(test)
    # Standardising treats each channel by itself, and redundancy draws channels.
    if request.features != "standardised" and REDUNDANCY not in request.measures:
        train, test = shared_coordinates(train, test)
    train_at = LabelledFeatures(train, torch.from_numpy(numbers[learned]))
    test_at = LabelledFeatures(test, torch.from_numpy(numbers[rows.test]))
    scores = PlaceScores(PLACE, request)
    probes = {PLACE: scores.measure(train_at, test_at, names, None, {})}
    halves = [] if file.all_splits is not None else [_HALVES]
    return Evaluation(
        probes,
        scores.scores,
        {PLACE: Spectrum(singular_values=spectrum.tolist(), effective_rank=effective_rank_of(spectrum))},
        [*file.notes, *halves, *rows.notes, *scores.notes],
        ProbedImages.of(request.label, numbers[learned], numbers[rows.test]),
    )
