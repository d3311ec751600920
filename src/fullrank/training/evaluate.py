"""What features are worth: probes and spectra at places, from one pass over the images."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from fullrank import probes as measured
from fullrank.data import ImageSet
from fullrank.data.image_set import UNLABELLED
from fullrank.errors import DataError, UsageError, unknown_name
from fullrank.places import collect_features, head_places
from fullrank.probes import LinearProbe, NearestProbe
from fullrank.record import ProbeScore, Score, Spectrum
from fullrank.spectrum.functional import effective_rank, singular_values

# What `probe` can measure beside linear and nearest accuracy.
MEASURES = ("retrieval", "per-class")
RECALL_AT = (1, 5, 10)
BATCH_SIZE = 256


@dataclass(frozen=True)
class Evaluation:
    """Probes, tidy scores and spectra, by place."""

    probes: dict[str, ProbeScore]
    scores: list[Score]
    spectrum: dict[str, Spectrum]


@dataclass(frozen=True)
class LabelledFeatures:
    """Features (N, D) of some images at one place, and their labels (N,), -1 where unlabelled."""

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Scorer:
    """Makes tidy scores of one place and kind of label, on the test split."""

    place: str
    label: str
    scores: list[Score] = field(default_factory=list)

    def add(self, measure: str, value: float, features: str = "raw", shots: int | None = None) -> None:
        """Keep one number."""
        score = Score(
            place=self.place,
            label=self.label,
            split="test",
            features=features,
            shots=shots,
            measure=measure,
            value=value,
        )
        self.scores.append(score)


def default_places(head: nn.Module) -> list[str]:
    """The places of a record: h, the head's inner layers, z."""
    return ["h", *head_places(head)[:-1], "z"]


def evaluate(
    encoder: nn.Module,
    head: nn.Module,
    train: ImageSet,
    test: ImageSet,
    places: Sequence[str] | None = None,
    *,
    label: str = "label",
    seed: int = 0,
    measures: Sequence[str] = (),
    shots: Sequence[int] = (),
) -> Evaluation:
    """Linear and nearest-neighbour accuracy on `test`, and the spectrum of its features, at each place.

    Features are raw; the linear probe's penalty is chosen on a held-out part of `train`. `measures` adds
    retrieval among the test images ("retrieval") and accuracy by class ("per-class"), `shots` the accuracy
    of a linear probe on so many training images a class. Encoder and head are in eval mode meanwhile and
    nothing in them changes. Without two classes among the training images, or without a labelled test image,
    there are spectra and no probes.
    """
    check_measures(measures, shots)
    places = default_places(head) if places is None else list(places)
    probeable = count_classes(train, label) >= 2 and count_classes(test, label) >= 1
    test_features = collect_features(encoder, head, test.batches(BATCH_SIZE), places)
    if probeable:
        labelled = train.subset(np.flatnonzero(train.labels[label] != UNLABELLED))
        check_shots(labelled, label, shots)
        train_features = collect_features(encoder, head, labelled.batches(BATCH_SIZE), places)
    probes, scores, spectrum = {}, [], {}
    for place in places:
        values = singular_values(test_features[place])
        spectrum[place] = Spectrum(singular_values=values.tolist(), effective_rank=effective_rank(values))
        if not probeable:
            continue
        known = LabelledFeatures(train_features[place], torch.from_numpy(labelled.labels[label]))
        asked = LabelledFeatures(test_features[place], torch.from_numpy(test.labels[label]))
        scorer = Scorer(place, label)
        probes[place] = _probe(scorer, known, asked, seed, test.class_names[label], "per-class" in measures)
        if "retrieval" in measures:
            _retrieve(scorer, asked)
        if shots:
            for result in measured.few_shot(
                known.features, known.labels, asked.features, asked.labels, shots=shots, seed=seed
            ):
                scorer.add("few-shot", result.mean, shots=result.shots)
        scores += scorer.scores
    return Evaluation(probes, scores, spectrum)


def _probe(
    scorer: Scorer,
    known: LabelledFeatures,
    asked: LabelledFeatures,
    seed: int,
    class_names: Sequence[str],
    by_class: bool,
) -> ProbeScore:
    """The default protocol at one place, and by class where asked."""
    accuracy = {}
    for measure, probe in (("linear", LinearProbe(seed=seed)), ("nearest", NearestProbe())):
        probe.fit(known.features, known.labels)
        predicted = probe.predict(asked.features)
        labelled = asked.labels != UNLABELLED
        hits = predicted[labelled] == asked.labels[labelled]
        accuracy[measure] = float(hits.double().mean())
        treatment = "raw" if measure == "linear" else "l2"
        scorer.add(measure, accuracy[measure], treatment)
        if by_class and measure == "linear":
            result = measured.per_class(predicted[labelled], asked.labels[labelled])
            for number, share in result.accuracy.items():
                scorer.add(f"linear, class {class_names[number]}", share)
            scorer.add("linear, mean over classes", result.mean)
            scorer.add("linear, worst class", result.worst)
    return ProbeScore(**accuracy)


def _retrieve(scorer: Scorer, asked: LabelledFeatures) -> None:
    found = measured.retrieval(asked.features, asked.labels, ks=RECALL_AT)
    for k, value in found.recall.items():
        scorer.add(f"recall@{k}", value, "l2")
    scorer.add("mean average precision", found.mean_average_precision, "l2")


def check_measures(measures: Sequence[str], shots: Sequence[int]) -> None:
    """Raise UsageError for a measure that there is not, or shots below 1."""
    for measure in measures:
        if measure not in MEASURES:
            raise unknown_name("measure", measure, MEASURES, f"there are {', '.join(MEASURES)}")
    if any(count < 1 for count in shots):
        raise UsageError(f"Shots are training images a class, 1 or more, but got {min(shots)}.")


def check_shots(images: ImageSet, label: str, shots: Sequence[int]) -> None:
    """Raise DataError where a class that occurs has fewer images than the most of `shots`."""
    labels, names = images.labels[label], images.class_names[label]
    counts = np.bincount(labels, minlength=len(names))
    fewest = min(np.flatnonzero(counts), key=lambda number: counts[number])
    if shots and counts[fewest] < max(shots):
        raise DataError(
            f"{max(shots)} shots are more than the {counts[fewest]} training images of class "
            f"{names[fewest]!r}; ask for {counts[fewest]} or fewer."
        )


def count_classes(images: ImageSet, label: str) -> int:
    """How many classes occur among the labelled images."""
    labels = images.labels.get(label)
    return 0 if labels is None else len(np.unique(labels[labels >= 0]))


def check_probeable(train: ImageSet, test: ImageSet, label: str) -> None:
    """Raise DataError unless a probe can be fitted on `train` and scored on `test`."""
    if label not in train.labels:
        raise unknown_name("label", label, train.labels, f"these images have {', '.join(train.labels)}")
    found = count_classes(train, label), count_classes(test, label)
    if found[0] < 2 or found[1] < 1:
        raise DataError(
            f"A probe needs 2 classes or more among the training images and 1 among the test images, but "
            f"'{label}' has {found[0]} and {found[1]}; label them, for folders by one sub-folder a class."
        )
