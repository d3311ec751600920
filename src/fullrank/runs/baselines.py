"""What an accuracy is compared with: the same probes on pixels, and on the encoder before training."""

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from fullrank.batch import as_float
from fullrank.data import ImageSet
from fullrank.data.image_set import UNLABELLED, count_classes
from fullrank.data.streaming import StreamedImages
from fullrank.devices import on_accelerator
from fullrank.encoders import without_download
from fullrank.encoders.building import with_places
from fullrank.errors import FullrankError
from fullrank.places import collect_features
from fullrank.probes import LinearProbe, NearestProbe
from fullrank.record import Baseline, ProbeScore
from fullrank.record.probed import BaselineKind
from fullrank.runs.build import encoder_of
from fullrank.runs.recipe import Recipe

# A shorter run has none, since they would take more than a few percent of it.
LEAST_EPOCHS = 15
# Numbers of the training images above which the linear probe on pixels takes minutes.
MOST_NUMBERS = 2**24
# Larger images are averaged down to this side.
MOST_SIDE = 32
_BATCH_SIZE = 256
# The accuracies of what was probed in this process, by a digest of all that they depend on: the runs of a
# study have the same pixels, and under every head the same encoder before training.
_measured: dict[bytes, ProbeScore] = {}


def run_baselines(recipe: Recipe, train: ImageSet, test: ImageSet, label: str = "label") -> list[Baseline]:
    """The baselines of a recipe: pixels, and h of the encoder that it builds before the first step.

    Args:
        recipe: builds the encoder; its seed also draws what the linear probe on h holds out.
        train: the images that probes learn from.
        test: the images that probes are scored on.
        label: the name of the labels.
    """
    return baselines(train, test, label, lambda: initial_encoder(recipe, train), kind_of(recipe), recipe.seed)


def baselines(
    train: ImageSet,
    test: ImageSet,
    label: str,
    rebuild: Callable[[], nn.Module] | None,
    kind: BaselineKind = "untrained",
    seed: int = 0,
) -> list[Baseline]:
    """The default probes on pixels, and on h of the encoder that `rebuild` gives.

    The caller's random state is left as it was. A baseline that is not measured says why: images that are
    decoded on demand, too many pixels, an encoder that cannot be built. Without two classes to learn from,
    or a labelled test image, the list is empty.

    Args:
        train: the images that probes learn from.
        test: the images that probes are scored on.
        label: the name of the labels.
        rebuild: builds the encoder as it was before training; None where it cannot be built.
        kind: "untrained", or "pretrained" for an encoder that starts from given weights.
        seed: draws what the linear probe on h holds out. The probe on pixels always takes 0.
    """
    if count_classes(train, label) < 2 or count_classes(test, label) < 1:
        return []
    if any(isinstance(images.images, StreamedImages) for images in (train, test)):
        return [unmeasured(each, "the images are decoded on demand") for each in ("pixels", kind)]
    sets = _labelled(train, label), _labelled(test, label)
    labels = tuple(torch.from_numpy(images.labels[label]) for images in sets)
    return [_of_pixels(sets, labels), _of_encoder(sets, labels, rebuild, kind, seed)]


def unmeasured(kind: BaselineKind, reason: str) -> Baseline:
    """A baseline without numbers, and why it has none."""
    return Baseline(features=kind, linear=None, nearest=None, note=f"not measured: {reason}")


def initial_encoder(recipe: Recipe, train: ImageSet) -> nn.Module:
    """The encoder that a run of the recipe on these images starts from, weight for weight.

    It is the same under every head, since a run draws it first. The caller's random state is left as it was.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(recipe.seed)
        return encoder_of(recipe, train)


def kind_of(recipe: Recipe) -> BaselineKind:
    """What the encoder before the first step is called: it may start from given weights."""
    given = recipe.init is not None or without_download(recipe.encoder) != recipe.encoder
    return "pretrained" if given else "untrained"


def pixels_of(images: ImageSet) -> Tensor:
    """The clean pixels in 0 to 1, one row an image (N, D); images above 32 pixels are averaged down to 32.

    >>> from fullrank.data import source
    >>> pixels_of(source("digits").load("test")).shape
    torch.Size([500, 64])
    """
    side = min(MOST_SIDE, *images.image_shape[:2])
    smaller = (adaptive_avg_pool2d(as_float(batch), side) for batch in images.batches(_BATCH_SIZE))
    return torch.cat([batch.flatten(1) for batch in smaller])


def _of_pixels(sets: tuple[ImageSet, ImageSet], labels: tuple[Tensor, ...]) -> Baseline:
    height, width, channels = sets[0].image_shape
    side = min(MOST_SIDE, height, width)
    if (numbers := len(sets[0]) * side * side * channels) > MOST_NUMBERS:
        return unmeasured("pixels", f"{len(sets[0]):,} training images have {numbers:,} pixel values")
    note = "" if (height, width) == (side, side) else f"averaged down to {side} x {side} pixels"
    train, test = map(pixels_of, sets)
    score = _probed(train, test, labels, seed=0)
    return Baseline(features="pixels", linear=score.linear, nearest=score.nearest, note=note)


def _of_encoder(
    sets: tuple[ImageSet, ImageSet],
    labels: tuple[Tensor, ...],
    rebuild: Callable[[], nn.Module] | None,
    kind: BaselineKind,
    seed: int,
) -> Baseline:
    if rebuild is None:
        return unmeasured(kind, "this model cannot be built anew")
    try:
        encoder = with_places(rebuild())
    except (FullrankError, OSError) as error:  # its file of weights is gone, or its hub cannot be reached
        return unmeasured(kind, " ".join(str(error).split()))
    with on_accelerator(encoder):
        train, test = (
            collect_features(encoder, nn.Identity(), images.batches(_BATCH_SIZE), ["h"])["h"]
            for images in sets
        )
    score = _probed(train, test, labels, seed)
    return Baseline(features=kind, linear=score.linear, nearest=score.nearest)


def _labelled(images: ImageSet, label: str) -> ImageSet:
    labelled = images.labels[label] != UNLABELLED
    return images if labelled.all() else images.subset(np.flatnonzero(labelled))


def _probed(train: Tensor, test: Tensor, labels: tuple[Tensor, ...], seed: int) -> ProbeScore:
    """The two probes of the default protocol; what this process has measured before is not measured again."""
    digest = hashlib.blake2b(str(seed).encode())
    for tensor in (train, test, *labels):
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).data)
    key = digest.digest()
    if key not in _measured:
        linear = LinearProbe(seed=seed).fit(train, labels[0]).score(test, labels[1])
        nearest = NearestProbe().fit(train, labels[0]).score(test, labels[1])
        _measured[key] = ProbeScore(linear=linear, nearest=nearest)
    return _measured[key]
