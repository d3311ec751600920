"""The diagnosis of a model on images: places, causes, layers, and the effect of the augmentation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from fullrank.diagnosis.entry import Probed, entry_of, probe_places
from fullrank.diagnosis.layers import gradient_ranks, layer_rows
from fullrank.diagnosis.rows import survey_images
from fullrank.diagnosis.subject import Subject
from fullrank.diagnosis.without_equal import probed_without_equal
from fullrank.record import DiagnosisEntry, ProbedImages
from fullrank.record.offending import with_ids

if TYPE_CHECKING:
    from fullrank.data import ImageSet

# How many training images the probes learn from. A few thousand are enough to order places.
LEARNT_FROM = 4096


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
    from fullrank.data.joining import joined_ids
    from fullrank.diagnosis.features import collect
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
    )
    official = subject.all is None
    survey = survey_images(subject.train, subject.test, official=official, seed=seed, progress=progress)
    seen = torch.from_numpy(_numbers(every, limit, seed))
    evidence = replace(
        evidence, survey=survey, places=tuple(replace(place, numbers=seen) for place in evidence.places)
    )
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
        probed = probe_places(learnt_features, test_features, labels, gradients, seed, progress)
        beside = baselines(learnt, test, label, subject.rebuild, subject.kind, seed)
        numbers = (train.limited_rows(len(learnt), seed), _numbers(subject, limit, seed))
        probed = probed_without_equal(probed, survey, numbers, learnt_features, test_features, labels, seed)
        denominators = ProbedImages.of(label, *labels)
        probed = replace(probed, images=denominators, baselines=beside)
    else:
        probed = Probed(layer_rows({}, features, gradient_ranks=gradients))
    several = train.several if train is not None and label == "label" else ()
    why = "there are no labels to train and to test on"
    if several:
        why = f"each image has several labels (choose one of {len(several)}: --labels {several[0]})"
    reasons = {
        "The effect of the augmentation: no views were given (try --views simclr).": subject.views is None,
        "The rank of the loss's gradient: there are no views, or no loss without labels.": not gradients,
        f"Accuracy at each place: {why}.": probed.images is None,
        f"Equal images among all: {survey.count} of {len(survey.first)} were drawn at random and compared.": (
            survey.count < len(survey.first)
        ),
    }
    entry = entry_of(subject.name, evidence, probed, [text for text, missing in reasons.items() if missing])
    ids = subject.test.ids if train is None else joined_ids(train, subject.test)
    entry = entry.model_copy(update={"findings": with_ids(entry.findings, ids)})
    return _of_model(entry, subject)


def _numbers(subject: Subject, limit: int, seed: int) -> np.ndarray:
    """The numbers of the images that are looked at: training images are numbered first, then test images."""
    before = 0 if subject.train is None or subject.test is subject.all else len(subject.train)
    return before + subject.test.limited_rows(min(limit, len(subject.test)), seed)


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


def _can_be_probed(train: np.ndarray, test: np.ndarray) -> bool:
    return len(np.unique(train[train >= 0])) > 1 and bool((test >= 0).any())
