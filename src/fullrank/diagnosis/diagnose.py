"""Did it collapse, why, and where to cut: of a run, a model, or a file of embeddings."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from fullrank.diagnosis.augmentation import operation_shares
from fullrank.diagnosis.causes import find_causes
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.files import EmbeddingFile, open_embeddings, paired
from fullrank.diagnosis.formats import OPENERS
from fullrank.diagnosis.layers import best_cut, dimension_curves, gradient_ranks, layer_rows
from fullrank.diagnosis.measures import SAMPLE, Seen, measures_of, spectrum_of
from fullrank.diagnosis.stacked import alignment_matrix
from fullrank.diagnosis.subject import Subject, find_subject
from fullrank.door import import_modules
from fullrank.errors import DataError, UsageError
from fullrank.files import result_folder
from fullrank.linalg import Moments
from fullrank.progress import counted, progress_bar
from fullrank.record import DiagnosisEntry, DimensionCurve, Finding, LayerRow, OperationShare, Result
from fullrank.record.making import new_record
from fullrank.spectrum import near_duplicates_among

if TYPE_CHECKING:
    from fullrank.data import ImageSet
    from fullrank.runs.run import Run

# Training images that probes learn from; a few thousand rank places as more do.
LEARNT_FROM = 4096
_HALF = 0.5
# Rows of a file that are compared with all others.
_ASKED = 1024


class Diagnosis(Result):
    """A finished diagnosis: its folder and its record."""

    @property
    def entry(self) -> DiagnosisEntry:
        """Everything that was seen."""
        if self.record.diagnosis is None:
            raise DataError(f"{self.path} holds a {self.record.kind}, not a diagnosis; diagnose it again.")
        return self.record.diagnosis

    @property
    def verdict(self) -> str:
        """Whether it collapsed, and why, in a sentence or two."""
        return self.entry.verdict

    @property
    def causes(self) -> list[Finding]:
        """What was found, alarms and notes."""
        return self.entry.findings


def diagnose(
    target: "str | Path | nn.Module | type[nn.Module] | Run",
    *,
    data: Any = None,
    views: str | None = None,
    labels: str | None = None,
    positives: str | Path | None = None,
    weights: str | Path | None = None,
    image_size: int | None = None,
    places: Sequence[str] | None = None,
    limit: int = SAMPLE,
    seed: int = 0,
    skip_bad: bool = False,
    out: str | Path | None = None,
    imports: Sequence[str | Path | ModuleType] = (),
) -> Diagnosis:
    """Look at a model or a file of embeddings: spectra and ranks, collapse and its causes, where to cut.

    `target` is the folder of a run, a `Run`, the spec of an encoder (any timm model) or a class of yours,
    with `weights` from a file or none, any `nn.Module` from images (N, C, H, W) in 0 to 1 to (N, D), or a
    file of embeddings. A model is looked at on at most `limit` test images of `data` (a run has its own), its
    layers probed from as many training images. `data` is the spec of a source, a torch Dataset of (image,
    label), which is tested on, or a pair of them, to train and to test. `views` (a run has its own) are
    needed for the augmentation's part in it. `imports` are modules of your parts. `labels` names the labels
    among several kinds, or for a file where they stand; `positives` is a second file with another view of
    each row. Leaves `record.json` in the folder `out`, by default one under runs/. Raises UsageError for a
    target that is none of these or data that is missing, DataError for what cannot be read.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> x = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    >>> np.save(folder + "/x.npy", x)
    >>> diagnose(folder + "/x.npy", out=folder + "/diagnosis").record.diagnosis.collapsed
    False
    """
    import_modules(imports)
    folder = result_folder(out, "diagnosis")
    if isinstance(target, str | Path) and _is_embedding_file(target):
        _refuse_for_files(data=data, views=views, weights=weights, places=places, image_size=image_size)
        file = open_embeddings(target, labels=labels, skip_bad=skip_bad)
        pair = None if positives is None else open_embeddings(positives, skip_bad=skip_bad)
        entry, recipe = diagnose_file(file, pair, seed=seed), {}
    else:
        if positives is not None:
            raise UsageError("positives are the second view of a file of embeddings; a model takes views.")
        subject = find_subject(target, data, views, weights, image_size)
        with progress_bar() as progress:
            entry = diagnose_model(
                subject, places, label=labels or "label", limit=limit, seed=seed, progress=progress
            )
        recipe = subject.recipe
    folder.mkdir(parents=True, exist_ok=True)
    record = new_record("diagnosis", recipe, [], diagnosis=entry)
    record.save(folder)
    return Diagnosis(folder, record)


def diagnose_file(
    file: EmbeddingFile, positives: EmbeddingFile | None = None, *, seed: int = 0
) -> DiagnosisEntry:
    """Spectrum, measures and causes of a file of embeddings: all rows for the moments, a sample beyond."""
    if positives is not None:
        file, positives = paired(file, positives)
    moments = Moments.empty(file.width)
    for chunk in file.chunks():
        moments = moments.merge(Moments.of(chunk))
    sample, pair = file.sample(SAMPLE, seed), None
    if positives is not None:
        pair = (sample, positives.sample(SAMPLE, seed))
    # A sample holds few pairs of twins, so the rows of one are compared with all.
    asked = torch.from_numpy(file.sample_rows(_ASKED, seed))
    duplicates = near_duplicates_among(file.sample(_ASKED, seed), asked, file.chunks())
    seen = Seen("embedding", moments, sample, pair, duplicates)
    rows = moments.count
    place = PlaceEvidence("embedding", sample, pair, sample_of=rows)
    findings = find_causes(Evidence((place,)), seed=seed)
    layers: list[LayerRow] = []
    curves: list[DimensionCurve] = []
    not_seen = ["What the encoder, the views and the head did: only a model can show it."]
    if len(file.dropped):
        not_seen.append(f"{len(file.dropped)} rows that hold NaN or infinity: they were left out.")
    if pair is None:
        not_seen.append("Alignment and augmentation: give a second view of each row with --positives.")
    if file.labels is not None:
        layers, curves = _probe_file(file, sample, seed)
    else:
        not_seen.append("Accuracy: the file has no labels.")
    return _entry(file.name, rows, [seen], findings, layers, curves, [], [], not_seen, seed)


def _probe_file(
    file: EmbeddingFile, sample: Tensor, seed: int
) -> tuple[list[LayerRow], list[DimensionCurve]]:
    """Half of the sample probed from the other half."""
    labels = torch.from_numpy(np.asarray(file.labels)[file.sample_rows(SAMPLE, seed)])
    order = torch.randperm(len(sample), generator=torch.Generator().manual_seed(seed))
    known, asked = order[: int(_HALF * len(order))], order[int(_HALF * len(order)) :]
    train, test = {"embedding": sample[known]}, {"embedding": sample[asked]}
    if len(torch.unique(labels[known][labels[known] >= 0])) < 2 or not (labels[asked] >= 0).any():
        return [], []
    answers = (labels[known], labels[asked])
    rows = layer_rows(train, test, answers, seed=seed)
    return rows, dimension_curves(train["embedding"], test["embedding"], answers, "embedding", seed=seed)


def diagnose_model(
    subject: Subject,
    places: Sequence[str] | None = None,
    *,
    label: str = "label",
    limit: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> DiagnosisEntry:
    """Everything that a model shows on its images: measures, causes, layers, shares of the augmentation."""
    from fullrank.diagnosis.features import collect
    from fullrank.encoders.building import with_places
    from fullrank.objectives import temperature_of
    from fullrank.places import collect_features

    found = collect(
        subject.encoder,
        subject.head,
        subject.test,
        places,
        limit=limit,
        seed=seed,
        views=subject.views,
        fresh_head=subject.fresh_head,
        progress=progress,
    )
    temperature = temperature_of(subject.objective)
    evidence = found.evidence(temperature)
    findings = find_causes(evidence, seed=seed)
    seen = [
        Seen(place, Moments.of(features), features, found.views.get(place))
        for place, features in found.features.items()
    ]
    not_seen: list[str] = []
    shares: list[OperationShare] = []
    if subject.views is None:
        not_seen.append("The augmentation's part: no views were given (--views simclr, for example).")
    else:
        z_views = found.views[found.places[-1]]
        for place in evidence.places:
            shares += operation_shares(place, z_views, temperature or 0.1)
    gradients: dict[str, float] = {}
    if subject.objective is not None and subject.views is not None:
        gradients = gradient_ranks(
            subject.encoder,
            subject.head,
            subject.objective,
            subject.views,
            found.images,
            found.places,
            seed=seed,
        )
    else:
        not_seen.append("The rank of the loss's gradient: there are no views, or no loss without labels.")
    curves: list[DimensionCurve] = []
    layers: list[LayerRow] = []
    train, tested = None, 0
    if subject.train is not None and _labelled(subject.train, found.images, label):
        train = subject.train.limited(min(LEARNT_FROM, len(subject.train)), seed)
    if train is None:
        not_seen.append("Accuracy at each place: there are no labels to train and to test on.")
        layers = layer_rows({}, found.features, gradient_ranks=gradients)
    else:
        head = subject.head if subject.head is not None else nn.Identity()
        learnt = counted(train.batches(256), progress, "training images", len(train))
        known = collect_features(with_places(subject.encoder), head, learnt, found.places)
        answers = (train.labels[label], found.images.labels[label])
        tested = int((answers[1] >= 0).sum())
        for name in counted(found.places, progress, "probes", len(found.places), lambda _: 1):
            one = {name: found.features[name]}
            layers += layer_rows(known, one, answers, seed=seed, gradient_ranks=gradients)
        kept = "h" if "h" in known else found.places[-1]
        curves = dimension_curves(known[kept], found.features[kept], answers, kept, seed=seed)
    alignment = alignment_matrix(*found.stacked[:2]).tolist() if len(found.stacked) > 1 else []
    return _entry(
        subject.name,
        len(found.images),
        seen,
        findings,
        layers,
        curves,
        shares,
        alignment,
        not_seen,
        seed,
        tested,
    )


def _entry(
    target: str,
    rows: int,
    seen: list[Seen],
    findings: list[Finding],
    layers: list[LayerRow],
    curves: list[DimensionCurve],
    shares: list[OperationShare],
    alignment: list[list[float]],
    not_seen: list[str],
    seed: int,
    tested: int = 0,
) -> DiagnosisEntry:
    spectrum = {one.place: spectrum_of(one) for one in seen}
    cut = best_cut(layers, tested) if len(layers) > 1 and tested else None
    return DiagnosisEntry(
        target=target,
        rows=rows,
        places=[one.place for one in seen],
        verdict=verdict(findings, spectrum, cut),
        collapsed=any(finding.level == "alarm" for finding in findings),
        cut=cut,
        findings=findings,
        measures=[measure for one in seen for measure in measures_of(one, seed)],
        spectrum=spectrum,
        layers=layers,
        dimensions=curves,
        augmentation=shares,
        alignment=alignment,
        not_seen=not_seen,
    )


def verdict(findings: Sequence[Finding], spectrum: dict[str, Any], cut: str | None) -> str:
    """Whether it collapsed, and why, and where to cut, in plain words."""
    alarms = [finding for finding in findings if finding.level == "alarm"]
    place = "h" if "h" in spectrum else next(iter(spectrum))
    width, rank = len(spectrum[place].singular_values), spectrum[place].effective_rank
    rank_text = f"The effective rank of {place} is {rank:.1f} of {width}."
    if alarms:
        causes = "; ".join(f"{finding.cause} at {finding.place}" for finding in alarms)
        text = f"Collapsed: {causes}. {rank_text}"
    elif findings:
        notes = "; ".join(f"{finding.cause} at {finding.place}" for finding in findings)
        text = f"No collapse found, but a note: {notes}. {rank_text}"
    else:
        text = f"No collapse found. {rank_text}"
    return text if cut is None else f"{text} Labels are read best at {cut}: keep that place."


def _refuse_for_files(**given: object) -> None:
    """Raise UsageError where something was given that only a model has."""
    useless = [name for name, value in given.items() if value is not None]
    if useless:
        raise UsageError(f"A file of embeddings takes no {useless[0]}; leave it out, or name a model.")


def _labelled(train: "ImageSet", test: "ImageSet", label: str) -> bool:
    if label not in train.labels:
        return False
    known, asked = train.labels[label], test.labels[label]
    return len(np.unique(known[known >= 0])) >= 2 and bool((asked >= 0).any())


def _is_embedding_file(target: str | Path) -> bool:
    path = Path(target)
    return path.suffix in OPENERS or path.is_file()
