"""What corrections do to the channels of h, as entries of a record."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from fullrank.data import ImageSet
from fullrank.data.image_set import UNLABELLED
from fullrank.devices import first_device
from fullrank.evaluation.groups import GROUP
from fullrank.places import collect_features, evaluating
from fullrank.probes import correction_effect
from fullrank.record import CorrectionTable

# Most test images that are read, and most channels that a record holds.
MOST_IMAGES, MOST_CHANNELS = 4096, 64
_BATCH_SIZE = 256


def correction_table(
    vectors: Tensor,
    features: Tensor,
    images: ImageSet,
    label: str,
    *,
    method: str = "head",
    place: str = "h",
) -> CorrectionTable:
    """The effect of correction vectors on the channels where it differs most between the values of a label.

    Args:
        vectors: The correction vector w of each image, (N, D).
        features: The features that are corrected, (N, D).
        images: The N images, with labels.
        label: The name of the labels.
        method: What computes w.
        place: The place of the features.

    Raises:
        DataError: No image has the label, or a vector is not finite.
    """
    effect = correction_effect(vectors, torch.from_numpy(images.labels[label]))
    channels = effect.differing(MOST_CHANNELS)
    spread = float(features.double().std(0, correction=0).mean())
    names = images.class_names[label]
    return CorrectionTable(
        method=method,
        place=place,
        label=label,
        values=[names[number] for number in effect.groups.tolist()],
        counts=effect.counts.tolist(),
        channels=channels.tolist(),
        width=vectors.shape[1],
        mean=effect.mean[:, channels].tolist(),
        size=effect.size[:, channels].tolist(),
        common=effect.common,
        between=effect.between,
        share=float(vectors.double().abs().mean()) / spread if spread > 0 else None,
    )


def head_corrections(
    encoder: nn.Module, head: nn.Module, test: ImageSet, cues: Sequence[str]
) -> list[CorrectionTable]:
    """What a head with a method `correction` does to each channel of h, for each cue and for the groups.

    Args:
        encoder: Maps images to h.
        head: The head; for one without `correction` the result is empty.
        test: The test images, of which at most MOST_IMAGES are read.
        cues: The labels by which the images are grouped. The label `group` is added where it exists; without
            either, the images are grouped by their class.

    Raises:
        DataError: A correction is not finite.
    """
    correction = cast("Callable[[Tensor], Tensor] | None", getattr(head, "correction", None))
    if correction is None:
        return []
    images = test.limited(min(MOST_IMAGES, len(test)), seed=0)
    occurring = [name for name, labels in images.labels.items() if (labels != UNLABELLED).any()]
    labels = [name for name in dict.fromkeys((*cues, GROUP)) if name in occurring]
    labels = labels or [name for name in ("label",) if name in occurring]
    if not labels:
        return []
    h = collect_features(encoder, head, images.batches(_BATCH_SIZE), ["h"])["h"]
    with torch.no_grad(), evaluating(head):
        parts = [correction(part.to(first_device(head))).cpu() for part in torch.split(h, _BATCH_SIZE)]
    vectors = torch.cat(parts)
    return [correction_table(vectors, h, images, label) for label in labels]
