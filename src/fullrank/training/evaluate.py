"""What features are worth: probes and spectra at places, from one pass over the images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fullrank.data import ImageSet
from fullrank.errors import DataError
from fullrank.places import collect_features, head_places
from fullrank.probes import LinearProbe, NearestProbe
from fullrank.record import ProbeScore, Score, Spectrum
from fullrank.spectrum.functional import effective_rank, singular_values


@dataclass(frozen=True)
class Evaluation:
    """Probes, tidy scores and spectra, by place."""

    probes: dict[str, ProbeScore]
    scores: list[Score]
    spectrum: dict[str, Spectrum]


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
) -> Evaluation:
    """Linear and nearest-neighbour accuracy on `test`, and the spectrum of its features, at each place.

    Features are raw; the linear probe's penalty is chosen on a held-out part of `train`. Encoder and head
    are in eval mode meanwhile and nothing in them changes. Without two classes among the training images,
    or without a labelled test image, there are spectra and no probes.
    """
    places = default_places(head) if places is None else list(places)
    train_features = collect_features(encoder, head, train.tensor(), places)
    test_features = collect_features(encoder, head, test.tensor(), places)
    probes, scores, spectrum = {}, [], {}
    probeable = count_classes(train, label) >= 2 and count_classes(test, label) >= 1
    for place in places:
        values = singular_values(test_features[place])
        spectrum[place] = Spectrum(singular_values=values.tolist(), effective_rank=effective_rank(values))
        if not probeable:
            continue
        linear, nearest = LinearProbe(seed=seed), NearestProbe()
        accuracy = {}
        for measure, probe in (("linear", linear), ("nearest", nearest)):
            probe.fit(train_features[place], torch.from_numpy(train.labels[label]))
            accuracy[measure] = probe.score(test_features[place], torch.from_numpy(test.labels[label]))
            scores.append(
                Score(
                    place=place,
                    label=label,
                    split="test",
                    features="raw" if measure == "linear" else "l2",
                    shots=None,
                    measure=measure,
                    value=accuracy[measure],
                )
            )
        probes[place] = ProbeScore(**accuracy)
    return Evaluation(probes, scores, spectrum)


def count_classes(images: ImageSet, label: str) -> int:
    """How many classes occur among the labelled images."""
    labels = images.labels.get(label)
    return 0 if labels is None else len(np.unique(labels[labels >= 0]))


def check_probeable(train: ImageSet, test: ImageSet, label: str) -> None:
    """Raise DataError unless a probe can be fitted on `train` and scored on `test`."""
    found = count_classes(train, label), count_classes(test, label)
    if found[0] < 2 or found[1] < 1:
        raise DataError(
            f"A probe needs 2 classes or more among the training images and 1 among the test images, but "
            f"'{label}' has {found[0]} and {found[1]}; label them, for folders by one sub-folder a class."
        )
