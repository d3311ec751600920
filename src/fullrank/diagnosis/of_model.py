"""The diagnosis of a model on images: places, causes, layers, and the effect of the augmentation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from fullrank.diagnosis.entry import Probed, entry_of, probe_places
from fullrank.diagnosis.evidence import Evidence
from fullrank.diagnosis.layers import gradient_ranks, layer_rows
from fullrank.diagnosis.map_rows import MapRows, thumbnails
from fullrank.diagnosis.probed_again import probed_with
from fullrank.diagnosis.rows import survey_images
from fullrank.diagnosis.subject import Subject
from fullrank.diagnosis.tokens import MOST_IMAGES, TokenNorms, pooled_without, token_norms
from fullrank.diagnosis.without_equal import probed_without_equal
from fullrank.errors import UsageError
from fullrank.record import DiagnosisEntry, ProbedAgain, ProbedImages
from fullrank.record.offending import with_ids

if TYPE_CHECKING:
    from fullrank.data import ImageSet

# How many training images the probes learn from. A few thousand are enough to order places.
LEARNT_FROM = 4096
# How many images show the input of batch norms: a few hundred give the variance of a channel within 10 %.
_COMPARED = 256


@dataclass(frozen=True, eq=False)
class DiagnosedModel:
    """The diagnosis of a model, and the images that a map of it can draw."""

    entry: DiagnosisEntry
    rows: MapRows


def diagnose_model(
    subject: Subject,
    places: Sequence[str] | None = None,
    *,
    label: str = "label",
    limit: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> DiagnosedModel:
    """The diagnosis of a model on its images: measures, causes, layers, shares of the augmentation."""
    from fullrank.data.joining import joined_ids
    from fullrank.diagnosis.features import collect
    from fullrank.diagnosis.norms import norm_shifts
    from fullrank.objectives import temperature_of
    from fullrank.runs.baselines import baselines

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
    train = subject.train
    labelled = train is not None and label in train.labels
    if train is not None and labelled and _can_be_probed(train.labels[label], subject.test.labels[label]):
        learnt, learnt_features = _bare(subject, train, list(features), LEARNT_FROM, seed, progress)
        test, test_features = images, features
        if subject.all is not None:
            test, test_features = _bare(subject, subject.test, list(features), limit, seed, progress)
        labels = (learnt.labels[label], test.labels[label])
        probed = probe_places(learnt_features, test_features, labels, gradients, seed, progress)
        beside = baselines(learnt, test, label, subject.rebuild, subject.kind, seed)
        numbers = (train.limited_rows(len(learnt), seed), _numbers(subject, limit, seed))
        probed = probed_without_equal(probed, survey, numbers, learnt_features, test_features, labels, seed)
        denominators = ProbedImages.of(label, *labels)
        again = [
            *_without_outliers(subject, evidence, (learnt, test), (learnt_features, test_features), label),
            *_without_operations(subject, label, seed, progress),
        ]
        probed = replace(probed, images=denominators, baselines=beside, again=[*probed.again, *again])
    else:
        probed = Probed(layer_rows({}, features, gradient_ranks=gradients))
    several = train.several if train is not None and label == "label" else ()
    why = "there are no labels to train and to test on"
    if several:
        why = f"each image has several labels (choose one of {len(several)}: --labels {several[0]})"
    reasons = {
        "The effect of the augmentation: no views were given (try --views simclr).": subject.views is None,
        f"The rank of the loss's gradient: {_no_gradient(subject)}.": not gradients,
        f"Accuracy at each place: {why}.": probed.images is None,
        f"Outlier tokens: {unlike}": bool(unlike),
        f"Equal images among all: {survey.count} of {len(survey.first)} were drawn at random and compared.": (
            survey.count < len(survey.first)
        ),
    }
    entry = entry_of(subject.name, evidence, probed, [text for text, missing in reasons.items() if missing])
    ids = subject.test.ids if train is None else joined_ids(train, subject.test)
    entry = entry.model_copy(update={"findings": with_ids(entry.findings, ids)})
    rows = _map_rows(collected.images, features, seen.numpy(), len(every.test), label)
    return DiagnosedModel(_of_model(entry, subject), rows)


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
