"""The diagnosis of a model on images: places, causes, layers, and the effect of the augmentation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from fullrank.diagnosis.beside.by_layer import untrained_map
from fullrank.diagnosis.entry import Probed, entry_of, probe_places
from fullrank.diagnosis.evidence import Evidence
from fullrank.diagnosis.layers import gradient_ranks, layer_rows
from fullrank.diagnosis.map_rows import MapRows, thumbnails
from fullrank.diagnosis.probed_again import probed_with
from fullrank.diagnosis.rows import survey_images
from fullrank.diagnosis.subject import Subject
from fullrank.diagnosis.tokens import MOST_IMAGES, TokenNorms, pooled_without, token_norms
from fullrank.diagnosis.without_equal import probed_without_equal
from fullrank.errors import DataError, UsageError
from fullrank.record import DiagnosisEntry, ProbedAgain, ProbedImages
from fullrank.record.offending import with_ids

if TYPE_CHECKING:
    from fullrank.data import ImageSet

# How many training images the probes learn from. A few thousand are enough to order places.
LEARNT_FROM = 4096
# How many images show the input of batch norms: a few hundred give the variance of a channel within 10 %.
_COMPARED = 256


@dataclass(frozen=True, eq=False)
class ProbedRows:
    """What probes learn from and what they are scored on, row by row.

    Attributes:
        train: The images to learn from.
        test: The images to score.
        train_features: Their features (N, D_p) by place.
        test_features: Their features (M, D_p) by place.
        label: The name of the labels.
        numbers: The numbers of both among all images, as the survey numbers them.
    """

    train: "ImageSet"
    test: "ImageSet"
    train_features: Mapping[str, Tensor]
    test_features: Mapping[str, Tensor]
    label: str
    numbers: tuple[np.ndarray, np.ndarray]

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """The labels (N,) and (M,), -1 where unlabelled."""
        return self.train.labels[self.label], self.test.labels[self.label]


@dataclass(frozen=True, eq=False)
class ExaminedModel:
    """A diagnosed model with the features that were read.

    Attributes:
        entry: The diagnosis.
        images: The images that were looked at.
        features: Their features (N, D_p) by place.
        probed: The rows of the probes; None without labels to learn and to score.
        map_rows: The images that a map can draw.
    """

    entry: DiagnosisEntry
    images: "ImageSet"
    features: Mapping[str, Tensor]
    probed: ProbedRows | None
    map_rows: MapRows


def diagnose_model(
    subject: Subject,
    places: Sequence[str] | None = None,
    *,
    label: str = "label",
    limit: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> ExaminedModel:
    """The diagnosis of a model on its images, with the features that were read."""
    from fullrank.data.joining import joined_ids
    from fullrank.diagnosis.features import collect
    from fullrank.diagnosis.norms import norm_shifts
    from fullrank.objectives import temperature_of

    every = subject if subject.all is None else replace(subject, test=subject.all)
    collected = collect(every, places, limit=limit, seed=seed, progress=progress)
    known = collected.images.labels.get(label)
    evidence = replace(
        collected.evidence,
        temperature=temperature_of(subject.objective),
        seed=seed,
        labels=None if known is None else torch.from_numpy(known),
        supervised=subject.supervised,
        trained=subject.trained,
        unguarded=subject.unguarded,
        norms=norm_shifts(subject.encoder, _some(collected.images, seed), subject.head)
        if subject.trained
        else (),
    )
    official = subject.all is None
    survey = survey_images(subject.train, subject.test, official=official, seed=seed, progress=progress)
    seen = torch.from_numpy(_numbers(every, limit, seed))
    evidence = replace(
        evidence, survey=survey, places=tuple(replace(place, numbers=seen) for place in evidence.places)
    )
    features = {place.place: place.features for place in evidence.places}
    tokens, unlike = _tokens(subject, collected.images, list(features), seed)
    evidence = replace(evidence, tokens=tuple(tokens))
    images, gradients = collected.images, {}
    if subject.objective is not None and subject.views is not None:
        model = (subject.encoder, subject.head, subject.objective, subject.views)
        gradients = gradient_ranks(*model, images, list(features), seed=seed)
    rows = _rows_to_probe(subject, collected.images, features, label, limit, seed, progress)
    probed = Probed(layer_rows({}, features, gradient_ranks=gradients))
    if rows is not None:
        probed = _probe(subject, evidence, rows, gradients, progress)
    not_seen = _not_seen(subject, evidence, probed, label, unlike, with_gradients=bool(gradients))
    entry = entry_of(subject.name, evidence, probed, not_seen)
    ids = subject.test.ids if subject.train is None else joined_ids(subject.train, subject.test)
    before = untrained_map(subject, images, features, seed)
    found = {"findings": with_ids(entry.findings, ids), "untrained": before}
    entry = entry.model_copy(update=found)
    entry = _with_views(entry, subject, list(features), label, limit, seed, progress)
    drawn = _map_rows(images, features, seen.numpy(), len(every.test), label)
    return ExaminedModel(_of_model(entry, subject), images, features, rows, drawn)


def _rows_to_probe(
    subject: Subject,
    images: "ImageSet",
    features: Mapping[str, Tensor],
    label: str,
    limit: int,
    seed: int,
    progress: Progress | None,
) -> ProbedRows | None:
    """The rows of the probes; None without labels to learn and to score."""
    train = subject.train
    if train is None or label not in train.labels:
        return None
    if not _can_be_probed(train.labels[label], subject.test.labels[label]):
        return None
    learnt, learnt_features = _bare(subject, train, list(features), LEARNT_FROM, seed, progress)
    if subject.all is not None:
        images, features = _bare(subject, subject.test, list(features), limit, seed, progress)
    numbers = (train.limited_rows(len(learnt), seed), _numbers(subject, limit, seed))
    return ProbedRows(learnt, images, learnt_features, features, label, numbers)


def _probe(
    subject: Subject,
    evidence: Evidence,
    rows: ProbedRows,
    gradients: Mapping[str, float],
    progress: Progress | None,
) -> Probed:
    """The probes of all places with their baselines, and again after one change each."""
    from fullrank.runs.baselines import baselines

    seed, label, features = evidence.seed, rows.label, (rows.train_features, rows.test_features)
    probed = probe_places(*features, rows.labels, gradients, seed, progress)
    base = baselines(rows.train, rows.test, label, subject.rebuild, subject.kind, seed)
    if evidence.survey is not None:
        probed = probed_without_equal(probed, evidence.survey, rows.numbers, *features, rows.labels, seed)
    again = [
        *_without_outliers(subject, evidence, (rows.train, rows.test), features, label),
        *_without_operations(subject, label, seed, progress),
    ]
    denominators = ProbedImages.of(label, *rows.labels)
    return replace(probed, images=denominators, baselines=base, again=[*probed.again, *again])


def _not_seen(
    subject: Subject,
    evidence: Evidence,
    probed: Probed,
    label: str,
    unlike: str,
    *,
    with_gradients: bool,
) -> list[str]:
    """A sentence for everything that could not be examined."""
    train, survey = subject.train, evidence.survey
    several = train.several if train is not None and label == "label" else ()
    why = "there are no labels to train and to test on"
    if several:
        why = f"each image has several labels (choose one of {len(several)}: --labels {several[0]})"
    reasons = {
        "The effect of the augmentation: no views were given (try --views simclr).": subject.views is None,
        f"The rank of the loss's gradient: {_no_gradient(subject)}.": not with_gradients,
        f"Accuracy at each place: {why}.": probed.images is None,
        f"Outlier tokens: {unlike}": bool(unlike),
    }
    if survey is not None and survey.count < len(survey.first):
        compared = f"{survey.count} of {len(survey.first)} were drawn at random and compared."
        reasons[f"Equal images among all: {compared}"] = True
    return [text for text, missing in reasons.items() if missing]


def _map_rows(
    images: "ImageSet", features: Mapping[str, Tensor], numbers: np.ndarray, total: int, label: str
) -> MapRows:
    """The images that were looked at, at h or else at the last place."""
    place = "h" if "h" in features else list(features)[-1]
    return MapRows(
        place=place,
        features=features[place].float().cpu().numpy(),
        numbers=numbers,
        total=total,
        labels=images.labels.get(label),
        classes=images.class_names.get(label, ()),
        ids=np.array(images.ids, np.str_),
        show=lambda some: thumbnails(images.subset(some)),
    )


def _tokens(
    subject: Subject, images: "ImageSet", places: Sequence[str], seed: int
) -> tuple[list[TokenNorms], str]:
    """The norms of patch tokens, or why there are none: a place gives different numbers of tokens."""
    from fullrank.diagnosis.features import BATCH_SIZE

    sample = images.limited(min(len(images), MOST_IMAGES), seed)
    try:
        return token_norms(_placed(subject), sample.batches(BATCH_SIZE), places), ""
    except UsageError as error:
        return [], str(error)


def _without_outliers(
    subject: Subject,
    evidence: Evidence,
    images: "tuple[ImageSet, ImageSet]",
    features: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    label: str,
) -> list[ProbedAgain]:
    """Linear probes where the tokens that stand out are not pooled."""
    from fullrank.diagnosis.features import BATCH_SIZE

    outliers = [norms for norms in evidence.tokens if norms.stand_out]
    if not outliers:
        return []
    train, test = (pooled_without(_placed(subject), part.batches(BATCH_SIZE), outliers) for part in images)
    before, after = (
        {norms.place: (fitted[norms.place], scored[norms.place]) for norms in outliers}
        for fitted, scored in (features, (train, test))
    )
    labels = (images[0].labels[label], images[1].labels[label])
    return probed_with("without outlier tokens", before, after, labels, evidence.seed)


def _without_operations(
    subject: Subject, label: str, seed: int, progress: Progress | None
) -> list[ProbedAgain]:
    """Linear probes of views without each of their operations; none without views."""
    from fullrank.diagnosis.costs import probe_operations

    if subject.views is None or subject.train is None:
        return []
    return probe_operations(
        subject.encoder,
        subject.views,
        subject.train,
        subject.test,
        label=label,
        seed=seed,
        progress=progress,
    )


def _with_views(
    entry: DiagnosisEntry,
    subject: Subject,
    places: Sequence[str],
    label: str,
    limit: int,
    seed: int,
    progress: Progress | None,
) -> DiagnosisEntry:
    """The entry with what the features know of the views, or with the reason why that was not measured.

    Without training images, one half of the test images is learned from.
    """
    from fullrank.runs.view_readout import ReadModel, view_readout

    if subject.views is None:
        return entry
    train, test = subject.train, subject.test
    if train is None:
        train, test = test.subset(np.arange(0, len(test), 2)), test.subset(np.arange(1, len(test), 2))
    most = min(limit, LEARNT_FROM)
    train, test = (each.limited(min(most, len(each)), seed) for each in (train, test))
    head = nn.Identity() if subject.head is None else subject.head
    model = ReadModel(_placed(subject), head, places, subject.views, subject.views_name, seed)
    try:
        readout = view_readout(model, train, test, label=label, progress=progress)
    except DataError as error:
        reason = f"What the features know of the views: {error}"
        return entry.model_copy(update={"not_seen": [*entry.not_seen, reason]})
    return entry.model_copy(update={"view_readout": readout})


def _placed(subject: Subject) -> nn.Module:
    from fullrank.encoders.foreign import with_places

    return with_places(subject.encoder, subject.test.image_size, subject.test.channels)


def _numbers(subject: Subject, limit: int, seed: int) -> np.ndarray:
    """The numbers of the images that are looked at: training images are numbered first, then test images."""
    before = 0 if subject.train is None or subject.test is subject.all else len(subject.train)
    return before + subject.test.limited_rows(min(limit, len(subject.test)), seed)


def _no_gradient(subject: Subject) -> str:
    """Why the loss has no gradient here: what is missing of the two that it needs."""
    missing = {
        "no views were given": subject.views is None,
        "no loss is known that needs no labels": subject.objective is None,
    }
    return " and ".join(text for text, absent in missing.items() if absent)


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


def _some(images: "ImageSet", seed: int) -> "Iterator[Tensor]":
    return images.limited(min(_COMPARED, len(images)), seed).batches(_COMPARED // 4)


def _of_model(entry: DiagnosisEntry, subject: Subject) -> DiagnosisEntry:
    """The entry with what is known of the weights. Random weights come first, and no place is to be kept."""
    about = [sentence for sentence in subject.about if sentence]
    if subject.trained:
        return entry.model_copy(update={"about": about})
    said = entry.verdict.partition(" Place to keep:")[0]
    words = {"verdict": f"Untrained: the weights are random. {said}", "cut": None, "about": about}
    return entry.model_copy(update=words)


def _can_be_probed(train: np.ndarray, test: np.ndarray) -> bool:
    return len(np.unique(train[train >= 0])) > 1 and bool((test >= 0).any())
