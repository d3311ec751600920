"""The diagnosis of a file of embeddings: its rows, its spectrum, its causes, and what probes read from it."""

from dataclasses import replace

import torch
from rich.progress import Progress

from fullrank.diagnosis.entry import Probed, entry_of, probe_places
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.embeddings.files import EmbeddingFile, paired
from fullrank.embeddings.probing import ProbeRows, probe_rows
from fullrank.linalg import Gram, Moments
from fullrank.progress import counted
from fullrank.record import DiagnosisEntry, ProbedImages
from fullrank.spectrum import near_duplicates_among

# How many rows are used by measures that compare rows with each other.
SAMPLE = 4096
# How many rows of a file are compared with all others.
_COMPARED = 1024
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
    rows = probe_rows(file, SAMPLE, seed=seed)
    moments = _moments_of_file(file, seed, progress)
    numbers = file.sample_rows(SAMPLE, seed)
    sample = file.take(numbers)
    views = None if positives is None else (sample, positives.sample(SAMPLE, seed))
    duplicates = None
    if len(sample) < file.rows or file.width <= file.rows:
        # A sample rarely holds both rows of a pair of duplicates, so some rows are compared with all.
        compared = torch.from_numpy(file.sample_rows(_COMPARED, seed))
        duplicates = near_duplicates_among(file.sample(_COMPARED, seed), compared, file.chunks())
    not_seen = ["The effect of the encoder, the views and the head: only a model can show it."]
    if moments.count < file.rows:
        not_seen.append(f"The spectrum of all rows: {moments.count} of {file.rows} were drawn at random.")
    if len(sample) < file.rows:
        not_seen.append(f"Cosines of all rows: {len(sample)} of {file.rows} were drawn at random.")
    if len(file.dropped):
        not_seen.append(f"Rows with NaN or infinity, which were left out: {len(file.dropped)}.")
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
        numbers=torch.from_numpy(numbers),
        all_moments=moments,
    )
    labels = None if file.labels is None else torch.from_numpy(file.labels[numbers])
    evidence = Evidence((place,), seed=seed, labels=labels)
    probed = _probe_file(file, rows, seed, progress) if rows else Probed()
    entry = entry_of(file.name, evidence, probed, not_seen, duplicates)
    return entry.model_copy(update={"about": list(file.notes)})


def _moments_of_file(file: EmbeddingFile, seed: int, progress: Progress | None) -> Moments | Gram:
    """Moments of all rows; with more channels than rows, inner products of at most 8192 of them."""
    if file.width > file.rows:
        return Gram.of(file.sample(_MOST_IN_GRAM, seed))
    moments = Moments.empty(file.width)
    for chunk in counted(file.chunks(), progress, "rows", file.rows):
        moments = moments.merge(Moments.of(chunk))
    return moments


def _probe_file(file: EmbeddingFile, rows: ProbeRows, seed: int, progress: Progress | None) -> Probed:
    """Some rows of a file probed from others."""
    train, test = ({"embedding": file.take(some)} for some in (rows.train, rows.test))
    probed = probe_places(train, test, rows.labels, {}, seed, progress)
    return replace(probed, images=ProbedImages.of("label", *rows.labels))
