"""What each operation of the views costs the labels: probes of views with all of them, and without each."""

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from fullrank.data import ImageSet
from fullrank.data.image_set import UNLABELLED
from fullrank.devices import first_device
from fullrank.diagnosis.features import BATCH_SIZE, view_batches
from fullrank.diagnosis.probed_again import Split, compared, hits
from fullrank.encoders.foreign import with_places
from fullrank.places import evaluating, read_places
from fullrank.probes import LinearProbe
from fullrank.progress import counted
from fullrank.record import ProbedAgain
from fullrank.record.operations import PIXELS, WITHOUT
from fullrank.views import Views

# The largest number of images to learn from, and of images to score on.
MOST_IMAGES = 512
# Views are averaged down to this side, so that a probe of their pixels takes a fraction of a second.
SIDE = 8
# A few hundred varied views call for a large penalty; the smallest ones take most of a probe's time.
_PENALTIES, _TOLERANCE = (1e-1, 1e-2, 1e-3, 1e-4), 1e-4


def probe_operations(
    encoder: nn.Module,
    views: Views,
    train: ImageSet,
    test: ImageSet,
    *,
    label: str = "label",
    seed: int = 0,
    progress: Progress | None = None,
) -> list[ProbedAgain]:
    """Linear accuracy of views without each operation, beside that with all, at h and on their pixels.

    Each probe learns from a view of at most 512 training images, and is scored on a view of at most 512 test
    images: the first view of every other image, the second view of the rest. Switching an operation off
    changes nothing else: the others keep what was drawn for them. h shows what this encoder loses. The pixels
    show what the views lose, even if the encoder is blind to it.

    Args:
        encoder: The encoder.
        views: The views. Nothing is probed if they have no operations.
        train: The images to learn from.
        test: The images to score.
        label: The name of the labels.
        seed: The seed of the images, the views and the probes.
        progress: The progress display.

    Returns:
        For each operation, accuracies on pixels and at h. `error` is the standard error of the difference,
        over test images.

    What it cannot see: pixels are averaged down to 8 x 8, and a linear probe of pixels cannot follow a shape
    that moves. So a crop costs more on pixels than at h.
    """
    learnt, tested = (_sample(images, label, seed) for images in (train, test))
    labels = (learnt.labels[label], tested.labels[label])
    placed = with_places(encoder, test.image_size, test.channels)

    def split(without: str | None) -> dict[str, Split]:
        sets = (
            _views_of(placed, views, images, seed + n, without) for n, images in enumerate((learnt, tested))
        )
        (train_rows, test_rows) = sets
        return {place: (train_rows[place], test_rows[place]) for place in train_rows}

    def right(rows: Split) -> Tensor:
        return hits(rows, labels, LinearProbe(_PENALTIES, _TOLERANCE, seed=seed))

    operations = list(dict.fromkeys(name for view in views.operations for name in view))
    before = {place: right(rows) for place, rows in split(None).items()} if operations else {}
    return [
        compared(place, f"{WITHOUT}{name}", before[place], right(rows))
        for name in counted(operations, progress, "operations off", len(operations), lambda _: 1)
        for place, rows in split(name).items()
    ]


def _sample(images: ImageSet, label: str, seed: int) -> ImageSet:
    """At most `MOST_IMAGES` labelled images, in random order."""
    labelled = images.subset(np.flatnonzero(images.labels[label] != UNLABELLED))
    sample = labelled.limited(min(MOST_IMAGES, len(labelled)), seed)
    return sample.subset(np.random.default_rng(np.random.SeedSequence([seed])).permutation(len(sample)))


@torch.no_grad()
def _views_of(
    encoder: nn.Module, views: Views, images: ImageSet, seed: int, without: str | None
) -> dict[str, Tensor]:
    """Small pixels and h of a view of each image, (n, D)."""
    parts: dict[str, list[Tensor]] = {PIXELS: [], "h": []}
    with evaluating(encoder):
        for batch, parameters in view_batches(images, views, seed, BATCH_SIZE):
            drawn = parameters if without is None else parameters.without(without)
            view, second = views.apply(batch.to(first_device(encoder)), drawn)
            view[1::2] = second[1::2]
            small = adaptive_avg_pool2d(view, min(SIDE, view.shape[-1]))
            parts[PIXELS].append(small.flatten(1).cpu())
            parts["h"].append(read_places(encoder, nn.Identity(), view, ["h"])["h"].float().cpu())
    return {place: torch.cat(rows) for place, rows in parts.items()}
