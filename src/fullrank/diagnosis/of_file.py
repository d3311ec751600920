"""The diagnosis of a file of embeddings: its rows, its spectrum, its causes, and what probes read from it."""

import math
from dataclasses import replace

import numpy as np
import torch
from rich.progress import Progress

from fullrank.diagnosis.entry import Probed, entry_of, probe_places
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.rows import RowSurvey, survey_file
from fullrank.diagnosis.without_equal import probed_without_equal
from fullrank.embeddings.files import EmbeddingFile, paired
from fullrank.embeddings.probing import ProbeRows, probe_rows
from fullrank.linalg import Gram, Moments
from fullrank.progress import counted
from fullrank.record import DiagnosisEntry, ProbedImages
from fullrank.record.offending import with_ids
from fullrank.spectrum import near_duplicates_among

# How many rows are used by measures that compare rows with each other.
SAMPLE = 4096
# How many rows of a file are compared with all others: at least so many, and more up to so many pairs.
_LEAST_COMPARED, _MOST_COMPARED, _MOST_PAIRS = 256, 1024, 2**26
# How many rows with more channels than rows give the spectrum: their inner products take 512 MiB.
_MOST_IN_GRAM = 8192


def diagnose_file(
    file: EmbeddingFile,
    positives: EmbeddingFile | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> DiagnosisEntry:
    """Spectrum, measures and causes of a file of embeddings. Moments use all rows, the rest uses a sample."""
    if positives is not None:
        file, positives = paired(file, positives)
    bad = len(file.dropped)
    survey = survey_file(file, progress)
    file, positives, zero_beside = _without_zero_rows(file, positives, survey)
    rows = probe_rows(file, SAMPLE, seed=seed)
    moments, smallest = _moments_of_file(file, seed, progress)
    numbers = file.sample_rows(SAMPLE, seed)
    sample = file.take(numbers)
    views = None if positives is None else (sample, positives.sample(SAMPLE, seed))
    compared = file.sample_rows(min(SAMPLE, _compared_rows(file.rows)), seed)
    duplicates = None
    if len(sample) < file.rows or file.width <= file.rows:
        # A sample rarely holds both rows of a pair of duplicates, so some rows are compared with all.
        among = sample[np.searchsorted(numbers, compared)]  # a smaller sample is a part of the larger one
        duplicates = near_duplicates_among(among, torch.from_numpy(compared), file.chunks())
    not_seen = ["The effect of the encoder, the views and the head: only a model can show it."]
    if moments.count < file.rows:
        not_seen.append(f"The spectrum of all rows: {moments.count} of {file.rows} were drawn at random.")
    if len(sample) < file.rows:
        not_seen.append(f"Cosines of all rows: {len(sample)} of {file.rows} were drawn at random.")
        beside = f"{len(compared)} rows were drawn at random, and each was compared with all {file.rows}"
        not_seen.append(f"Near duplicates of all rows: {beside}.")
    if bad:
        not_seen.append(f"Rows with NaN or infinity, which were left out: {bad}.")
    if zero_beside:
        not_seen.append(f"Rows that are zero only in the second view, which were left out: {zero_beside}.")
    if positives is None:
        not_seen.append("Alignment and augmentation: add a second view of each row with --positives.")
    not_seen += rows.notes
    if rows:
        not_seen.append("Accuracy on pixels and on the untrained encoder: the file holds neither.")
    place = PlaceEvidence(
        "embedding",
        sample,
        views,
        sample_of=file.rows,
        numbers=torch.from_numpy(file.kept[numbers]),
        all_moments=moments,
        smallest=smallest,
    )
    labels = None if file.labels is None else torch.from_numpy(file.labels[numbers])
    evidence = Evidence((place,), seed=seed, labels=labels, survey=survey)
    probed = _probe_file(file, rows, survey, seed, progress) if rows else Probed()
    entry = entry_of(file.name, evidence, probed, not_seen, duplicates)
    findings = entry.findings if file.all_ids is None else with_ids(entry.findings, file.all_ids)
    return entry.model_copy(update={"about": list(file.notes), "findings": findings})


def _compared_rows(rows: int) -> int:
    """How many of so many rows are compared with all of them."""
    return max(_LEAST_COMPARED, min(_MOST_COMPARED, _MOST_PAIRS // rows))


def _without_zero_rows(
    file: EmbeddingFile, positives: EmbeddingFile | None, survey: RowSurvey
) -> tuple[EmbeddingFile, EmbeddingFile | None, int]:
    """Both files without the rows that are zero in either, and how many are zero only in the second.

    Where fewer than 2 rows would remain, all are kept.
    """
    zero = survey.zero
    if positives is not None:
        zero = np.union1d(zero, survey_file(positives).zero)
    if survey.count - len(zero) < 2:
        return file, positives, 0
    dropped = np.union1d(file.dropped, zero)
    rest = None if positives is None else replace(positives, dropped=dropped)
    return replace(file, dropped=dropped), rest, len(zero) - len(survey.zero)


def _moments_of_file(
    file: EmbeddingFile, seed: int, progress: Progress | None
) -> tuple[Moments | Gram, float]:
    """Moments and smallest value of all rows; with more channels than rows, of at most 8192 of them."""
    if file.width > file.rows:
        rows = file.sample(_MOST_IN_GRAM, seed)
        return Gram.of(rows), float(rows.min())
    moments, smallest = Moments.empty(file.width), math.inf
    for chunk in counted(file.chunks(), progress, "rows", file.rows):
        moments = moments.merge(Moments.of(chunk))
        smallest = min(smallest, float(chunk.min()))
    return moments, smallest


def _probe_file(
    file: EmbeddingFile, rows: ProbeRows, survey: RowSurvey, seed: int, progress: Progress | None
) -> Probed:
    """Some rows of a file probed from others."""
    train, test = ({"embedding": file.take(some)} for some in (rows.train, rows.test))
    probed = probe_places(train, test, rows.labels, {}, seed, progress)
    probed = replace(probed, images=ProbedImages.of("label", *rows.labels))
    numbers = (file.kept[rows.train], file.kept[rows.test])
    return probed_without_equal(probed, survey, numbers, train, test, rows.labels, seed)
