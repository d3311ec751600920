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
    are in eval mode meanwhile and nothing in them changes. Without two labelled classes there are spectra
    and no probes.
    """
    places = default_places(head) if places is None else list(places)
    train_features = collect_features(encoder, head, train.tensor(), places)
    test_features = collect_features(encoder, head, test.tensor(), places)
    probes, scores, spectrum = {}, [], {}
    for place in places:
        values = singular_values(test_features[place])
        spectrum[place] = Spectrum(singular_values=values.tolist(), effective_rank=effective_rank(values))
        if not is_probeable(train, label):
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


def is_probeable(images: ImageSet, label: str) -> bool:
    """Whether `images` have two classes or more under `label`."""
    labels = images.labels.get(label)
    return labels is not None and len(np.unique(labels[labels >= 0])) >= 2


def check_probeable(images: ImageSet, label: str) -> None:
    """Raise DataError unless `images` have two classes or more under `label`."""
    if not is_probeable(images, label):
        found = (
            0
            if label not in images.labels
            else len(np.unique(images.labels[label][images.labels[label] >= 0]))
        )
        raise DataError(
            f"A probe needs 2 classes or more under '{label}', but the training images have {found}; "
            "give labelled images, for folders one sub-folder a class."
        )
