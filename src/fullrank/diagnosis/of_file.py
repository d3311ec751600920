"""The diagnosis of a file of embeddings: its rows, its spectrum, its causes, and what probes read from it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from fullrank.diagnosis.entry import Probed, entry_of, probe_places
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.rows import RowSurvey, can_leave_out, survey_file
from fullrank.diagnosis.without_equal import probed_without_equal
from fullrank.embeddings.files import EmbeddingFile, paired
from fullrank.embeddings.probing import MOST_CLASSES, ProbeRows, affordable_rows, probe_rows
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
MOST_IN_GRAM = 8192


@dataclass(frozen=True, eq=False)
class ExaminedFile:
    """A file of embeddings after its diagnosis.

    Attributes:
        entry: The entry of the record.
        file: The file without the rows that were left out: those not finite, and those of zeros.
        moments: The moments of the rows of `file`; of a sample where it has more channels than rows.
    """

    entry: DiagnosisEntry
    file: EmbeddingFile
    moments: Moments | Gram


def diagnose_file(
    file: EmbeddingFile,
    positives: EmbeddingFile | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> DiagnosisEntry:
    """Spectrum, measures and causes of a file of embeddings. Moments use all rows, the rest uses a sample."""
    return examine_file(file, positives, seed=seed, progress=progress).entry


def examine_file(
    file: EmbeddingFile,
    positives: EmbeddingFile | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> ExaminedFile:
    """The diagnosis of `diagnose_file`, with the rows that it used and their moments."""
    if positives is not None:
        file, positives = paired(file, positives)
    bad, before = len(file.dropped), file.rows
    survey, of_every = _survey_with_moments(file, progress)
    file, positives, zero_beside = _without_zero_rows(file, positives, survey)
    every = file.rows == before
    moments = of_every if every and of_every is not None else _moments_of_file(file, seed, progress)
    numbers = file.sample_rows(SAMPLE, seed)
    sample = file.take(numbers)
    place = PlaceEvidence(
        "embedding",
        sample,
        None if positives is None else (sample, positives.sample(SAMPLE, seed)),
        sample_of=file.rows,
        numbers=torch.from_numpy(file.kept[numbers]),
        all_moments=moments,
        smallest=survey.smallest,
    )
    labels = None if file.labels is None else torch.from_numpy(file.labels[numbers])
    evidence = Evidence((place,), seed=seed, labels=labels, survey=survey)
    rows = _probe_rows(file, seed)
    probed = _probe_file(file, rows, survey, seed, progress) if rows else Probed()
    reasons = {
        f"Rows with NaN or infinity, which were left out: {bad}.": bool(bad),
        f"Rows that are zero only in the second view, which were left out: {zero_beside}.": bool(zero_beside),
        "Alignment and augmentation: add a second view of each row with --positives.": positives is None,
        **dict.fromkeys(rows.notes, True),
        "Accuracy on pixels and on the untrained encoder: the file holds neither.": bool(rows),
    }
    not_seen = _sampled(file, moments.count, seed) + [text for text, missing in reasons.items() if missing]
    entry = entry_of(file.name, evidence, probed, not_seen, _near_duplicates(file, numbers, sample, seed))
    findings = entry.findings if file.all_ids is None else with_ids(entry.findings, file.all_ids)
    entry = entry.model_copy(update={"about": list(file.notes), "findings": findings})
    return ExaminedFile(entry, file, moments)


def _survey_with_moments(file: EmbeddingFile, progress: Progress | None) -> tuple[RowSurvey, Moments | None]:
    """The survey of a file and the moments of its rows, in one pass; None with more channels than rows."""
    if file.width > file.rows:
        return survey_file(file, progress), None
    moments = Moments.empty(file.width)

    def measured() -> Iterator[Tensor]:
        nonlocal moments
        for chunk in file.chunks():
            moments = moments.merge(Moments.of(chunk))
            yield chunk

    return survey_file(file, progress, measured()), moments


def _near_duplicates(file: EmbeddingFile, numbers: np.ndarray, sample: Tensor, seed: int) -> float | None:
    """The share of near duplicates among all rows. None leaves it to the measures: all rows are in memory.

    A sample rarely holds both rows of a pair of duplicates, so some of its rows are compared with all.
    """
    if len(sample) == file.rows and file.width > file.rows:
        return None
    compared = _compared_rows(file, seed)
    few = sample[np.searchsorted(numbers, compared)]  # a smaller sample is a part of the larger one
    return near_duplicates_among(few, torch.from_numpy(compared), file.chunks())


def _sampled(file: EmbeddingFile, counted_rows: int, seed: int) -> list[str]:
    """What a file cannot show, and what was measured on some of its rows."""
    total, some = file.rows, min(SAMPLE, file.rows)
    beside = (
        f"{len(_compared_rows(file, seed))} rows were drawn at random, and each was compared with all {total}"
    )
    reasons = {
        "The effect of the encoder, the views and the head: only a model can show it.": True,
        f"The spectrum of all rows: {counted_rows} of {total} were drawn at random.": counted_rows < total,
        f"Cosines of all rows: {some} of {total} were drawn at random.": some < total,
        f"Near duplicates of all rows: {beside}.": some < total,
    }
    return [text for text, missing in reasons.items() if missing]


def _probe_rows(file: EmbeddingFile, seed: int) -> ProbeRows:
    """The rows of a file to learn from, as many as a linear probe affords, and at most `SAMPLE` to score."""
    classes = 0 if file.labels is None else len(np.unique(file.labels))
    return probe_rows(file, affordable_rows(file.width, min(classes, MOST_CLASSES)), SAMPLE, seed=seed)


def _compared_rows(file: EmbeddingFile, seed: int) -> np.ndarray:
    """The rows of a file that are compared with all of them: at most `SAMPLE`."""
    most = max(_LEAST_COMPARED, min(_MOST_COMPARED, _MOST_PAIRS // file.rows))
    return file.sample_rows(min(SAMPLE, most), seed)


def _without_zero_rows(
    file: EmbeddingFile, positives: EmbeddingFile | None, survey: RowSurvey
) -> tuple[EmbeddingFile, EmbeddingFile | None, int]:
    """Both files without the rows that are zero in either, and how many are zero only in the second.

    Where they are too many to leave out, all are kept.
    """
    zero = survey.left_out
    if positives is not None:
        zero = np.union1d(zero, survey_file(positives).left_out)
    if not can_leave_out(len(zero), survey.count):
        return file, positives, 0
    dropped = np.union1d(file.dropped, zero)
    rest = None if positives is None else replace(positives, dropped=dropped)
    return replace(file, dropped=dropped), rest, len(zero) - len(survey.left_out)


def _moments_of_file(file: EmbeddingFile, seed: int, progress: Progress | None) -> Moments | Gram:
    """Moments of all rows; with more channels than rows, inner products of at most 8192 of them."""
    if file.width > file.rows:
        return Gram.of(file.sample(MOST_IN_GRAM, seed))
    moments = Moments.empty(file.width)
    for chunk in counted(file.chunks(), progress, "rows", file.rows):
        moments = moments.merge(Moments.of(chunk))
    return moments


def _probe_file(
    file: EmbeddingFile, rows: ProbeRows, survey: RowSurvey, seed: int, progress: Progress | None
) -> Probed:
    """Some rows of a file probed from others."""
    train, test = ({"embedding": file.take(some)} for some in (rows.train, rows.test))
    probed = probe_places(train, test, rows.labels, {}, seed, progress)
    labelled = file.labels[file.labels >= 0] if file.labels is not None else np.empty(0, np.int64)
    counts = {"all_rows": len(labelled), "all_classes": len(np.unique(labelled))}
    images = ProbedImages.of("label", *rows.labels).model_copy(update=counts)
    probed = replace(probed, images=images)
    numbers = (file.kept[rows.train], file.kept[rows.test])
    return probed_without_equal(probed, survey, numbers, train, test, rows.labels, seed)
