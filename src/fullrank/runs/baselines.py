"""Baselines for accuracies: the same probes on pixels, and on the encoder before training."""

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
from fullrank.encoders.foreign import with_places
from fullrank.errors import FullrankError
from fullrank.places import collect_features
from fullrank.probes import LinearProbe, NearestProbe
from fullrank.record import Baseline, ProbeScore
from fullrank.record.probed import BaselineKind
from fullrank.runs.build import encoder_of
from fullrank.runs.recipe import Recipe

# Runs with fewer epochs have no baselines, since these would take more than a few percent of the time.
LEAST_EPOCHS = 15
# Most pixel values of the training images; above, the linear probe on pixels takes minutes.
MOST_NUMBERS = 2**24
# Larger images are averaged down to this side.
MOST_SIDE = 32
_BATCH_SIZE = 256
# Digest of everything that accuracies depend on -> accuracies measured in this process. The runs of a study
# have the same pixels, and with every head the same encoder before training.
_measured: dict[bytes, ProbeScore] = {}


def run_baselines(recipe: Recipe, train: ImageSet, test: ImageSet, label: str = "label") -> list[Baseline]:
    """The baselines of a recipe: pixels, and h of its encoder before the first step.

    Args:
        recipe: Builds the encoder. Its seed also draws the rows that the linear probe on h holds out.
        train: The images that probes learn from.
        test: The images that probes are scored on.
        label: The name of the labels.
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

    The caller's random state does not change. A baseline that is not measured gives the reason: images are
    decoded on demand, there are too many pixels, or the encoder cannot be built. The list is empty if there
    are fewer than two classes to learn, or no test image is labelled.

    Args:
        train: The images that probes learn from.
        test: The images that probes are scored on.
        label: The name of the labels.
        rebuild: Builds the encoder in its state before training; None if that is impossible.
        kind: "untrained", or "pretrained" for an encoder that starts from given weights.
        seed: Draws the rows that the linear probe on h holds out. The probe on pixels always uses 0.
    """
    if count_classes(train, label) < 2 or count_classes(test, label) < 1:
        return []
    if any(isinstance(images.images, StreamedImages) for images in (train, test)):
        return [unmeasured(each, "the images are decoded on demand") for each in ("pixels", kind)]
    sets = _labelled(train, label), _labelled(test, label)
    labels = tuple(torch.from_numpy(images.labels[label]) for images in sets)
    return [_of_pixels(sets, labels), _of_encoder(sets, labels, rebuild, kind, seed)]


def unmeasured(kind: BaselineKind, reason: str) -> Baseline:
    """A baseline without numbers, with the reason."""
    return Baseline(features=kind, linear=None, nearest=None, note=f"not measured: {reason}")


def initial_encoder(recipe: Recipe, train: ImageSet) -> nn.Module:
    """The encoder that a run of the recipe on these images starts from, with identical weights.

    It is the same with every head, since a run draws it first. The caller's random state does not change.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(recipe.seed)
        return encoder_of(recipe, train)


def kind_of(recipe: Recipe) -> BaselineKind:
    """The kind of the encoder before the first step: untrained, or pretrained if it has given weights."""
    has_weights = recipe.init is not None or without_download(recipe.encoder) != recipe.encoder
    return "pretrained" if has_weights else "untrained"


def pixels_of(images: ImageSet) -> Tensor:
    """The clean pixels in 0 to 1, one row per image (N, D); images above 32 pixels are averaged down to 32.

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
        return unmeasured(kind, "this model cannot be rebuilt")
    try:
        encoder = with_places(rebuild(), sets[0].image_size, sets[0].channels)
    except (FullrankError, OSError) as error:  # the file of weights is missing, or the hub cannot be reached
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
    """The two probes of the default protocol; results are reused within this process."""
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
