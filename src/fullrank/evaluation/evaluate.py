"""Probes and spectra of features at places, from one pass over the images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from fullrank.data import ImageSet
from fullrank.data.image_set import UNLABELLED, count_classes
from fullrank.errors import DataError, count_of
from fullrank.evaluation.correction_table import correction_table
from fullrank.evaluation.corrections import check_corrections
from fullrank.evaluation.groups import GROUP, Grouping, check_balance, grouping
from fullrank.evaluation.scores import LabelledFeatures, PlaceScores, Request
from fullrank.evaluation.several import (
    can_be_ranked,
    check_possible,
    check_ranked,
    score_several,
    several_of,
    with_any_label,
)
from fullrank.evaluation.shifts import matched
from fullrank.places import collect_features, head_places
from fullrank.processes import ALONE, Share
from fullrank.record import Baseline, CorrectionTable, ProbedImages, ProbeScore, Score, Spectrum
from fullrank.record.scores import CORRECTIONS
from fullrank.spectrum.functional import effective_rank_of, singular_values

BATCH_SIZE = 256
# Above this squared correlation two channels differ only by scale and shift; float32 leaves an error of 1e-7.
_SAME = 1 - 1e-6
_DIAGONAL = (
    "z is h with every channel scaled, and standardising undoes any diagonal head. So linear accuracy at h "
    "and z is equal by construction; compare raw or l2 features."
)
_DEFAULT = Request()


@dataclass(frozen=True)
class Evaluation:
    """Probes, tidy scores and spectra, by place.

    Attributes:
        probes: Place -> accuracies of the default protocol.
        scores: Every further number, with its probe, statistic and place.
        spectrum: Place -> the spectrum of the test features.
        notes: Sentences that help to interpret the numbers.
        images: The images that the probes learned from and were scored on; None if nothing was probed.
        shifted: The same for each shift.
        baselines: The baselines, if they were requested.
        corrections: What correction vectors do to each channel of a place, if they were requested.
    """

    probes: dict[str, ProbeScore]
    scores: list[Score]
    spectrum: dict[str, Spectrum]
    notes: list[str] = field(default_factory=list)
    images: ProbedImages | None = None
    shifted: list[ProbedImages] = field(default_factory=list)
    baselines: list[Baseline] = field(default_factory=list)
    corrections: list[CorrectionTable] = field(default_factory=list)


def default_places(head: nn.Module) -> list[str]:
    """The default places: h, the head's inner layers, and z."""
    return ["h", *head_places(head)[:-1], "z"]


def evaluate(
    encoder: nn.Module,
    head: nn.Module,
    train: ImageSet,
    test: ImageSet,
    places: Sequence[str] | None = None,
    request: Request = _DEFAULT,
    shifts: Mapping[str, ImageSet] | None = None,
    share: Share = ALONE,
) -> Evaluation:
    """Linear and nearest-neighbour accuracy on `test`, and the spectrum of its features, at each place.

    Images with several labels get mean AUROC and mean average precision over labels instead of accuracies
    (`multi_label`), with the label "label"; `label:NAME` is one of the labels, as two classes.

    The linear probe's penalty is chosen on a held-out part of `train`. Encoder and head are in eval mode
    meanwhile and do not change. The result has spectra but no probes if the training images have fewer than
    two classes, or no test image is labelled.

    The measures of the request add scores:

    - "retrieval": retrieval among the test images.
    - "reduced": accuracy in k principal and in k random directions (`reduced_accuracy`), k = 1, 2, 4, ...
    - "redundancy": the same curves for random channels and small principal directions too, with intervals
      over draws, the worst class, and diffused redundancy (`redundancy`).
    - "per-class": accuracy, prediction bias and false positives of each class, how unequal the classes are,
      and the same of the nearest class mean and the nearest neighbours; of shifts too.
    - "groups": the linear probe's accuracy in the worst group, over groups, and with groups weighted as in
      training, and its gaps if cues are uncommon.
    - "group-balanced": the same without the gaps, for a probe fitted on group-balanced training subsets.
    - "corrections": the linear probe's accuracy by group on features that are corrected against all cues
      (`correct`, `mean_difference`, `leace`), and how well each cue can be read from them (`cue_accuracy`).
    - "factors", "views", "segmentation" and "baselines" are computed by `probe`, not here.

    If a shift has only some of the classes, predictions on it are restricted to these classes. The test
    images of these classes then get the same score ("accuracy among classes"). The linear probe leaves out
    the logits of the other classes, as for ImageNet-A and ImageNet-R; the nearest-neighbour probe leaves out
    their training rows.

    Args:
        encoder: Maps images to h.
        head: Maps h to z.
        train: The images that probes learn from.
        test: The images that probes are scored on.
        places: Where features are read; by default `default_places`.
        request: The label, further measures and shots, and the treatment of features for linear probes.
        shifts: Spec -> other images that the same probes are scored on; classes are matched by name.
        share: The part of the images that this process reads. The first of several processes calls this
            function, the others call `help_evaluate`.

    Raises:
        UsageError: If the label is unknown, or the images do not have groups.
        DataError: If a class or group has too few images, or a shift has one class or an unknown one.
    """
    label, measures = request.label, request.measures
    places = default_places(head) if places is None else list(places)
    labelled, several = _labelled(train, test, label), several_of(train, test, label)
    if labelled is None:
        features = _read(encoder, head, test, places, share)
        return Evaluation({}, [], {place: _spectrum(features[place]) for place in places})
    if several:
        check_possible(request, shifts or (), train, several)
        learnt, tested = (
            (images, _read(encoder, head, images, places, share)) for images in (labelled, test)
        )
        scores, notes = score_several(learnt, tested, several, request)
        return Evaluation({}, scores, {place: _spectrum(tested[1][place]) for place in places}, notes)
    train = labelled
    _check_shots(train, label, request.shots)
    grouped = {"groups", "group-balanced", CORRECTIONS} & set(measures)
    groups = grouping(train, test, label) if grouped else None
    notes = _class_notes(train, test, label) + ([] if groups is None else _group_notes(groups, measures))
    matches = {spec: matched(images, train, label) for spec, images in (shifts or {}).items()}

    def read(images: ImageSet, labels: np.ndarray, share: Share = ALONE) -> dict[str, LabelledFeatures]:
        features = _read(encoder, head, images, places, share)
        return {place: LabelledFeatures(features[place], torch.from_numpy(labels)) for place in places}

    train_at, test_at = (read(images, images.labels[label], share) for images in (train, test))
    shifted_at = {spec: (shift, read(shift.images, shift.labels)) for spec, shift in matches.items()}
    if request.features == "standardised" and {"h", "z"} <= set(places):
        h, z = test_at["h"].features, test_at["z"].features
        notes += [_DIAGONAL] if scaled_alike(h, z) and not torch.equal(h, z) else []
    probes, scores, tables = {}, [], list[CorrectionTable]()
    for place in places:
        of_place = PlaceScores(place, request)
        shifted = {spec: (shift, at[place]) for spec, (shift, at) in shifted_at.items()}
        names = test.class_names[label]
        probes[place] = of_place.measure(train_at[place], test_at[place], names, groups, shifted)
        if groups is not None and CORRECTIONS in measures:
            vectors = of_place.corrected(train_at[place], test_at[place], groups)
            corrected = vectors, test_at[place].features, test, GROUP
            tables.append(correction_table(*corrected, method="correction", place=place))
        scores += of_place.scores
        notes += of_place.notes
    spectra = {place: _spectrum(test_at[place].features) for place in places}
    learned = train.labels[label]
    own = ProbedImages.of(label, learned, test.labels[label])
    others = [ProbedImages.of(label, learned, shift.labels, spec) for spec, shift in matches.items()]
    # Several places may have a note in common.
    notes = list(dict.fromkeys(notes))
    return Evaluation(probes, scores, spectra, notes, own, others, corrections=tables)


def help_evaluate(
    encoder: nn.Module, head: nn.Module, train: ImageSet, test: ImageSet, share: Share, label: str = "label"
) -> None:
    """Read this process's share of the images while the first process evaluates them at default places."""
    for images in (_labelled(train, test, label), test):
        if images is not None:
            _read(encoder, head, images, default_places(head), share)


def _labelled(train: ImageSet, test: ImageSet, label: str) -> ImageSet | None:
    """The labelled training images, or None if a probe has nothing to learn from or to be scored on."""
    if several := several_of(train, test, label):
        return with_any_label(train, several) if can_be_ranked(train, test, several) else None
    if count_classes(train, label) < 2 or count_classes(test, label) < 1:
        return None
    return train.subset(np.flatnonzero(train.labels[label] != UNLABELLED))


def _read(
    encoder: nn.Module, head: nn.Module, images: ImageSet, places: Sequence[str], share: Share
) -> dict[str, Tensor]:
    """Features of a share of the images; in the first process, those of all images."""
    # If one process cannot read its share, all raise an error. Only the sum can exceed the limit of bad ones.
    own, refusal = {}, ""
    try:
        own = collect_features(encoder, head, images.batches(BATCH_SIZE, share), places)
    except DataError as error:
        refusal = str(error)
    refusals, bad = zip(*share.everyones((refusal, images.bad.found)), strict=True)
    if any(refusals):
        raise DataError(next(filter(None, refusals)))
    images.bad.join(bad, str(images))
    return {place: share.to_first(own[place]) for place in places}


def _spectrum(features: Tensor) -> Spectrum:
    values = singular_values(features)
    return Spectrum(singular_values=values.tolist(), effective_rank=effective_rank_of(values))


def _class_notes(train: ImageSet, test: ImageSet, label: str) -> list[str]:
    """A sentence about test images of classes that the training images lack."""
    labels = test.labels[label]
    unseen = np.setdiff1d(labels, [*train.labels[label], UNLABELLED])
    if not len(unseen):
        return []
    images = count_of(int(np.isin(labels, unseen).sum()), "test image")
    first = test.class_names[label][unseen[0]]
    which = f"{len(unseen)} of the classes" if len(unseen) > 1 else "a class"
    return [f"{images} of {which} that no training image has count as errors; the first class is {first!r}."]


def _group_notes(groups: Grouping, measures: Sequence[str]) -> list[str]:
    """Sentences about limits of the groups; DataError if group-balanced subsets are impossible."""
    notes = []
    if CORRECTIONS in measures:
        check_corrections(groups)
    if "group-balanced" in measures:
        check_balance(groups)
        smallest, count = groups.smallest_in_training()
        size = f"{smallest} training image{'s' if smallest > 1 else ''}"
        notes.append(f"Group-balanced subsets have {size} of each of {count} groups.")
    if empty := groups.empty_in_test():
        share = f"{len(empty)} of {len(groups.names)} groups"
        notes.append(f"{share} have no test image and are left out; the first is {empty[0]}.")
    if "groups" in measures and (loose := groups.unpaired()):
        notes.append(f"No gap for {' or '.join(loose)}: in training it does not correlate with the label.")
    return notes


def scaled_alike(one: Tensor, other: Tensor) -> bool:
    """Whether each channel of `other` (N, D) is an affine function of the same channel of `one`.

    Channels that are constant in one of the two are ignored.

    >>> x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    >>> scaled_alike(x, x * torch.tensor([1.0, -0.5, 1e-9]) + 2), scaled_alike(x, x.cumsum(1))
    (True, False)
    """
    if one.shape != other.shape:
        return False
    a, b = (part.double() - part.double().mean(0) for part in (one, other))
    products = a.square().sum(0) * b.square().sum(0)
    moving = products > 0
    correlation = (a * b).sum(0).square()[moving] / products[moving]
    return bool(moving.any() and (correlation > _SAME).all())


def _check_shots(images: ImageSet, label: str, shots: Sequence[int]) -> None:
    """Raise DataError if a class that occurs has fewer images than the largest of `shots`."""
    counts = np.bincount(images.labels[label])
    fewest = min(np.flatnonzero(counts), key=lambda number: counts[number])
    if shots and counts[fewest] < max(shots):
        raise DataError(
            f"{max(shots)} shots are more than the {counts[fewest]} training images of class "
            f"{images.class_names[label][fewest]!r}; ask for {counts[fewest]} or fewer."
        )


def check_probeable(train: ImageSet, test: ImageSet, label: str) -> None:
    """Raise DataError unless a probe can be fitted on `train` and scored on `test`."""
    train.check_label(label)
    if several := several_of(train, test, label):
        check_ranked(train, test, several)
        return
    counts = count_classes(train, label), count_classes(test, label)
    if counts[0] < 2 or counts[1] < 1:
        raise DataError(
            f"A probe needs 2 or more classes in training and 1 or more in test, but '{label}' has "
            f"{counts[0]} and {counts[1]}; label the images (one sub-folder per class), or name their "
            "column (label=COLUMN)."
        )
