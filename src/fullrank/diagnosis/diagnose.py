"""The diagnosis of a run, a model or a file of embeddings: did it collapse, why, and where to cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from fullrank.diagnosis.augmentation import ASSUMED_TEMPERATURE, operation_shares
from fullrank.diagnosis.causes import find_causes
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.layers import Labels, best_cut, dimension_curves, gradient_ranks, layer_rows
from fullrank.diagnosis.measures import measures_of
from fullrank.diagnosis.stacked import alignment_matrix
from fullrank.diagnosis.subject import Subject, find_subject
from fullrank.door import import_modules
from fullrank.embeddings.files import EmbeddingFile, open_embeddings, paired
from fullrank.embeddings.kinds import is_embeddings
from fullrank.embeddings.probing import ProbeRows, probe_rows
from fullrank.errors import DataError, UsageError
from fullrank.files import result_folder
from fullrank.linalg import Gram, Moments, second_moments
from fullrank.progress import counted, progress_bar
from fullrank.record import (
    Baseline,
    DiagnosisEntry,
    DimensionCurve,
    Finding,
    LayerRow,
    ProbedImages,
    Result,
    Spectrum,
)
from fullrank.record.comparisons import grouped
from fullrank.record.making import new_record
from fullrank.spectrum import near_duplicates_among
from fullrank.spectrum.functional import effective_rank_of
from fullrank.targets.opening import Target, target as open_target

if TYPE_CHECKING:
    from fullrank.data import ImageSet
    from fullrank.runs.run import Run

# How many rows are used by measures that compare rows with each other.
SAMPLE = 4096
# How many training images the probes learn from. A few thousand are enough to order places.
LEARNT_FROM = 4096
# How many rows of a file are compared with all others.
_COMPARED = 1024
# How many rows with more channels than rows give the spectrum: their inner products take 512 MiB.
_MOST_IN_GRAM = 8192


class Diagnosis(Result):
    """A finished diagnosis: its folder and its record.

    Args:
        path: The folder.
        record: What was measured; `record.diagnosis` is the entry.
    """

    @property
    def entry(self) -> DiagnosisEntry:
        """Everything that was measured."""
        if self.record.diagnosis is None:
            raise DataError(f"{self.path} holds a {self.record.kind}, not a diagnosis; diagnose it again.")
        return self.record.diagnosis

    @property
    def verdict(self) -> str:
        """Whether it collapsed, and why, in one or two sentences."""
        return self.entry.verdict

    @property
    def causes(self) -> list[Finding]:
        """The findings, alarms and notes."""
        return self.entry.findings


@dataclass(frozen=True)
class _Probed:
    """Accuracies of places, and of dimensions at one place, with their images and baselines."""

    layers: list[LayerRow] = field(default_factory=list)
    dimensions: list[DimensionCurve] = field(default_factory=list)
    images: ProbedImages | None = None
    baselines: list[Baseline] = field(default_factory=list)


def diagnose(
    target: "str | Path | nn.Module | type[nn.Module] | Run | Target",
    *,
    data: Any = None,
    views: str | None = None,
    labels: str | None = None,
    column: str | None = None,
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
    """Diagnose a model or a file of embeddings: spectra, collapse and its causes, and where to cut.

    Args:
        target: What `fullrank.target` takes, or what it returns: a run, anybody's model, an `nn.Module`, an
            exported program. Or a file of embeddings (.npy, .npz, .safetensors, .parquet), or a folder of
            such files.
        data: The images for a model: the spec of a source, a torch Dataset of (image, label) that is tested
            on, or a pair of Datasets, to train and to test. A run has its own.
        views: The spec of the views, to measure the effect of the augmentation. A run has its own.
        labels: Which labels of the images, if there are several kinds; for a file, where its labels are.
        column: For a file: the array or column of the features.
        positives: A second file, with another view of each row of a file of embeddings.
        weights: A file of weights for the spec of an encoder.
        image_size: The side to which the images are resized.
        places: Where features are read; None is every place from the first block to z.
        limit: At most this many test images are diagnosed, and as many training images fit the probes.
        seed: The seed of samples and views.
        skip_bad: Leave out rows of a file that are not finite.
        out: The folder for the results; None makes one under runs/.
        imports: Modules or files that register parts of yours, as `--import` does.

    Returns:
        The diagnosis; `record.json` is in its folder.

    Raises:
        UsageError: The target is none of these, data are missing, or an option does not apply to the target.
        DataError: A file or images cannot be read.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> x = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    >>> np.save(folder + "/x.npy", x)
    >>> diagnose(folder + "/x.npy", out=folder + "/diagnosis").record.diagnosis.collapsed
    False
    """
    import_modules(imports)
    folder = result_folder(out, "diagnosis")
    if is_embeddings(target):
        for_models = {"data": data, "views": views, "weights": weights, "places": places}
        _refuse_given(**for_models, image_size=image_size)
        read = partial(open_embeddings, column=column, skip_bad=skip_bad)
        file = read(cast(str | Path, target), labels=labels)
        pair = None if positives is None else read(positives)
        with progress_bar() as progress:
            entry, recipe = diagnose_file(file, pair, seed=seed, progress=progress), {}
    else:
        if positives is not None:
            raise UsageError("positives are the second view of a file of embeddings; use views for a model.")
        opened = open_target(target, weights=weights, image_size=image_size)
        subject = find_subject(opened, data, views)
        with progress_bar() as progress:
            entry = diagnose_model(
                subject, places, label=labels or "label", limit=limit, seed=seed, progress=progress
            )
        recipe = subject.recipe
    folder.mkdir(parents=True, exist_ok=True)
    record = new_record("diagnosis", recipe, [], diagnosis=entry)
    record.save(folder)
    return Diagnosis(folder, record)


def _refuse_given(**options: object) -> None:
    """Raise UsageError for the first option that is given although a file of embeddings cannot use it."""
    if name := next((name for name, value in options.items() if value is not None), None):
        raise UsageError(f"A file of embeddings takes no {name}; leave it out, or name a model by its spec.")


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
    sample = file.sample(SAMPLE, seed)
    views = None if positives is None else (sample, positives.sample(SAMPLE, seed))
    duplicates = None
    if len(sample) < file.rows or file.width <= file.rows:
        # A sample rarely holds both rows of a pair of duplicates, so some rows are compared with all.
        numbers = torch.from_numpy(file.sample_rows(_COMPARED, seed))
        duplicates = near_duplicates_among(file.sample(_COMPARED, seed), numbers, file.chunks())
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
    place = PlaceEvidence("embedding", sample, views, sample_of=file.rows)
    evidence = Evidence((place,), seed=seed)
    probed = _probe_file(file, rows, seed, progress) if rows else _Probed()
    entry = _entry(file.name, evidence, probed, not_seen, moments, duplicates)
    return entry.model_copy(update={"about": list(file.notes)})


def _moments_of_file(file: EmbeddingFile, seed: int, progress: Progress | None) -> Moments | Gram:
    """Moments of all rows; with more channels than rows, inner products of at most 8192 of them."""
    if file.width > file.rows:
        return Gram.of(file.sample(_MOST_IN_GRAM, seed))
    moments = Moments.empty(file.width)
    for chunk in counted(file.chunks(), progress, "rows", file.rows):
        moments = moments.merge(Moments.of(chunk))
    return moments


def diagnose_model(
    subject: Subject,
    places: Sequence[str] | None = None,
    *,
    label: str = "label",
    limit: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> DiagnosisEntry:
    """The diagnosis of a model on its images: measures, causes, layers, shares of the augmentation."""
    from fullrank.diagnosis.features import collect
    from fullrank.objectives import temperature_of
    from fullrank.runs.baselines import baselines

    every = subject if subject.all is None else replace(subject, test=subject.all)
    collected = collect(every, places, limit=limit, seed=seed, progress=progress)
    evidence = replace(collected.evidence, temperature=temperature_of(subject.objective), seed=seed)
    features = {place.place: place.features for place in evidence.places}
    images, gradients = collected.images, {}
    if subject.objective is not None and subject.views is not None:
        model = (subject.encoder, subject.head, subject.objective, subject.views)
        gradients = gradient_ranks(*model, images, list(features), seed=seed)
    train = subject.train
    labelled = train is not None and label in train.labels
    if train is not None and labelled and _can_be_probed(train.labels[label], subject.test.labels[label]):
        learnt, learnt_features = _bare(subject, train, list(features), LEARNT_FROM, seed, progress)
        test, test_features = images, features
        if subject.all is not None:
            test, test_features = _bare(subject, subject.test, list(features), limit, seed, progress)
        labels = (learnt.labels[label], test.labels[label])
        probed = _probe(learnt_features, test_features, labels, gradients, seed, progress)
        beside = baselines(learnt, test, label, subject.rebuild, subject.kind, seed)
        denominators = ProbedImages.of(label, *labels)
        probed = replace(probed, images=denominators, baselines=beside)
    else:
        probed = _Probed(layer_rows({}, features, gradient_ranks=gradients))
    several = train.several if train is not None and label == "label" else ()
    why = "there are no labels to train and to test on"
    if several:
        why = f"each image has several labels (choose one of {len(several)}: --labels {several[0]})"
    reasons = {
        "The effect of the augmentation: no views were given (try --views simclr).": subject.views is None,
        "The rank of the loss's gradient: there are no views, or no loss without labels.": not gradients,
        f"Accuracy at each place: {why}.": probed.images is None,
    }
    entry = _entry(subject.name, evidence, probed, [text for text, missing in reasons.items() if missing])
    return _of_model(entry, subject)


def _bare(
    subject: Subject,
    images: "ImageSet",
    places: Sequence[str],
    limit: int,
    seed: int,
    progress: Progress | None,
) -> "tuple[ImageSet, dict[str, Tensor]]":
    """A sample of images, and their features at places, without views."""
    from fullrank.diagnosis.features import collect

    bare = replace(subject, test=images, views=None, fresh_head=None)
    collected = collect(bare, places, limit=limit, seed=seed, progress=progress)
    return collected.images, {place.place: place.features for place in collected.evidence.places}


def _of_model(entry: DiagnosisEntry, subject: Subject) -> DiagnosisEntry:
    """The entry with what is known of the weights. Random weights come first, and no place is to be kept."""
    about = [sentence for sentence in subject.about if sentence]
    if subject.trained:
        return entry.model_copy(update={"about": about})
    said = entry.verdict.partition(" Place to keep:")[0]
    words = {"verdict": f"Untrained: the weights are random. {said}", "cut": None, "about": about}
    return entry.model_copy(update=words)


def _entry(
    target: str,
    evidence: Evidence,
    probed: _Probed,
    not_seen: list[str],
    moments: Moments | Gram | None = None,
    duplicates: float | None = None,
) -> DiagnosisEntry:
    """The entry of the record. If the features are a sample, `moments` and `duplicates` are of all rows."""
    first, last = evidence.places[0], evidence.places[-1]
    findings = find_causes(evidence)
    temperature = evidence.temperature or ASSUMED_TEMPERATURE
    spectrum, measures, shares = {}, [], []
    for place in evidence.places:
        moments_there = second_moments(place.features) if moments is None else moments
        values = moments_there.singular_values()
        rank = effective_rank_of(values)
        spectrum[place.place] = Spectrum(singular_values=values.tolist(), effective_rank=rank)
        measures.extend(measures_of(place, moments_there, duplicates, evidence.seed))
        shares.extend(operation_shares(place, last.views, temperature))
    images = probed.images
    cut = best_cut(probed.layers, images.test) if len(probed.layers) > 1 and images else None
    return DiagnosisEntry(
        target=target,
        rows=first.sample_of or len(first.features),
        places=list(spectrum),
        verdict=verdict(findings, spectrum, cut),
        collapsed=any(finding.level == "alarm" for finding in findings),
        cut=cut,
        findings=findings,
        measures=measures,
        spectrum=spectrum,
        layers=probed.layers,
        dimensions=probed.dimensions,
        augmentation=shares,
        alignment=alignment_matrix(*evidence.stacked[:2]).tolist() if evidence.stacked else [],
        not_seen=not_seen,
        images=images,
        baselines=probed.baselines,
    )


def verdict(findings: Sequence[Finding], spectrum: Mapping[str, Spectrum], cut: str | None) -> str:
    """Whether it collapsed, why, and where to cut, in plain words."""
    alarms = [finding for finding in findings if finding.level == "alarm"]
    places = grouped((finding.cause, finding.place) for finding in alarms or findings)
    named = "; ".join(f"{cause} at {_some(own)}" for cause, own in places.items())
    if alarms:
        text = f"Collapsed: {named}."
    else:
        text = f"No collapse found, with a note: {named}." if named else "No collapse found."
    place = "h" if "h" in spectrum else next(iter(spectrum))
    width, rank = len(spectrum[place].singular_values), spectrum[place].effective_rank
    text += f" The effective rank of {place} is {rank:.1f} of {width}."
    return text if cut is None else f"{text} Place to keep: {cut}."


def _some(places: Sequence[str]) -> str:
    """Up to three places by name; of more, the first, the last and the number."""
    if len(places) > 3:
        return f"{places[0]} to {places[-1]} ({len(places)} places)"
    return " and ".join([", ".join(places[:-1]), places[-1]] if len(places) > 1 else places)


def _probe_file(file: EmbeddingFile, rows: ProbeRows, seed: int, progress: Progress | None) -> _Probed:
    """Some rows of a file probed from others."""
    train, test = ({"embedding": file.take(some)} for some in (rows.train, rows.test))
    probed = _probe(train, test, rows.labels, {}, seed, progress)
    return replace(probed, images=ProbedImages.of("label", *rows.labels))


def _probe(
    train: Mapping[str, Tensor],
    test: Mapping[str, Tensor],
    labels: Labels,
    gradients: Mapping[str, float],
    seed: int,
    progress: Progress | None = None,
) -> _Probed:
    """The accuracy at each place, and over dimensions at h, or else at the last place."""
    layers: list[LayerRow] = []
    for place in counted(test, progress, "probes", len(test), lambda _: 1):
        layers += layer_rows(train, {place: test[place]}, labels, seed=seed, gradient_ranks=gradients)
    place = "h" if "h" in test else list(test)[-1]
    curves = dimension_curves(train[place], test[place], labels, place, seed=seed, progress=progress)
    return _Probed(layers, curves)


def _can_be_probed(train: np.ndarray, test: np.ndarray) -> bool:
    return len(np.unique(train[train >= 0])) > 1 and bool((test >= 0).any())
