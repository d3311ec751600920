"""Emergent segmentation of a net on images with masks: its attention, its gradient, and their controls."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from fullrank.batch import as_float
from fullrank.data import ImageSet
from fullrank.devices import first_device, on_accelerator
from fullrank.encoders.attention import cls_attention
from fullrank.encoders.foreign import with_places
from fullrank.errors import DataError, FullrankError, UsageError, count_of
from fullrank.places import evaluating
from fullrank.record import Score
from fullrank.record.scores import (
    ABOVE,
    ALL_HEADS,
    AREA_SHARE,
    GRADIENT_SHARE,
    GRADIENT_UNTRAINED,
    JACCARD,
    PERMUTED,
    UNTRAINED,
)
from fullrank.runs.baselines import initial_encoder, kind_of
from fullrank.runs.recipe import Recipe
from fullrank.segmentation import (
    attention_mask,
    foreground_area,
    foreground_share,
    gradient_draws,
    jaccard,
    overlap,
    permuted_jaccard,
)
from fullrank.statistics import Estimate

HEADS, MASSES = 3, (0.6, 0.9)
MOST_IMAGES, EXAMPLES = 500, 6
# Gradients are read from as many images as have this number of pixels, and from at least so many.
_GRADIENT_PIXELS, _LEAST = 2**21, 50
_BATCH_SIZE = 32

Rebuild = Callable[[], nn.Module]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What a net knows of where the objects are.

    Attributes:
        scores: The scores, means over images with their 95 % intervals.
        notes: How many images were measured, and what could not be, in sentences.
        examples: Arrays of a few images for the page: images (n, H, W, C) uint8, the largest object and the
            attention of its best head (n, H, W) bool, and their overlap (n,). Empty without attention.
    """

    scores: list[Score]
    notes: list[str]
    examples: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Shown:
    """The images that are measured, their masks (N, H, W), and the number of gradients."""

    images: ImageSet
    masks: Tensor
    gradients: int

    def batches(self, count: int) -> Iterator[Tensor]:
        """The first `count` images in batches."""
        return self.images.subset(np.arange(count)).batches(_BATCH_SIZE)


def initial_net(recipe: Recipe, train: ImageSet) -> Rebuild | None:
    """Builds the encoder of a recipe before training; None for one that starts from given weights."""
    return (lambda: initial_encoder(recipe, train)) if kind_of(recipe) == "untrained" else None


def attends(encoder: nn.Module, images: ImageSet) -> bool:
    """Whether a net has the attention of a CLS token, which its last block pays to patches."""
    batch = images.subset(np.arange(1)).tensor().to(first_device(encoder))
    try:
        with torch.no_grad(), evaluating(encoder):
            cls_attention(encoder, as_float(batch))
    except UsageError:
        return False
    return True


def segmentation(
    encoder: nn.Module,
    images: ImageSet,
    rebuild: Rebuild | None = None,
    *,
    label: str = "label",
    seed: int = 0,
) -> Segmentation:
    """How well a net's attention covers the objects in images, and how much of its gradient lies on them.

    The attention is that of the CLS token in the last block (`jaccard`), for 3 heads: the expected best of 3
    of the heads, if there are more. Beside it stand the same maps permuted over the patches (20 draws), and
    the net before training. A net without such attention gets no Jaccard index. Any net gets the foreground's
    share of the gradient (`foreground_share`), from 8 random combinations of h.

    Args:
        encoder: Maps images to h.
        images: Images with masks. At most 500 are read, a draw with every class in proportion.
        rebuild: Builds the same net with random weights; None if that is impossible.
        label: The name of the labels of the scores, which the scores do not depend on.
        seed: Seed of the draw of images, of the permutations and of the combinations of h.

    Raises:
        DataError: If the images have no masks, or no object.

    What it cannot see: whether the net uses the objects for anything.

    Source: Burns et al. 2024 (2312.12444), after Caron et al. 2021 (2104.14294). The controls are ours.
    """
    shown = _shown(images, seed)
    notes = [_about(shown, images)]
    with evaluating(encoder):
        attention, refusal = _attention(encoder, shown)
        share = _gradient_share(encoder, shown, seed)
    values: dict[tuple[str, str], Tensor] = {(AREA_SHARE, ""): foreground_area(shown.masks)}
    if share is not None:
        values[GRADIENT_SHARE, ""] = share
    untrained, why = _before(rebuild, images)
    if untrained is not None:
        with on_accelerator(untrained), evaluating(untrained):
            start = None if attention is None else _attention(untrained, shown)[0]
            if (start_share := _gradient_share(untrained, shown, seed)) is not None:
                values[GRADIENT_UNTRAINED, ""] = start_share
    notes += [why] if why else []
    examples = {}
    if attention is None:
        notes.append(f"No Jaccard index of the attention: {refusal}")
    else:
        values |= _overlaps(attention, None if untrained is None else start, shown.masks, seed)
        notes += _about_heads(attention.shape[1])
        examples = _examples(attention, shown)
    score = partial(_score, label=label)
    defined = {key: each for key, each in values.items() if not each.isnan().all()}
    return Segmentation([score(*key, each) for key, each in defined.items()], notes, examples)


def _shown(images: ImageSet, seed: int) -> _Shown:
    """A draw of the images; those that have no object have no score."""
    sample = images.limited(min(MOST_IMAGES, len(images)), seed)
    masks = torch.from_numpy(sample.object_masks())
    if not ((masks > 0) & (masks < 255)).any():
        count = count_of(len(sample), "image")
        raise DataError(f"The masks of {count} of {images} have no object; an object is a value of 1 to 254.")
    least = max(_LEAST, _GRADIENT_PIXELS // images.image_size**2)
    return _Shown(sample, masks, min(len(sample), least))


def _attention(encoder: nn.Module, shown: _Shown) -> tuple[Tensor | None, str]:
    """The attention of every image (N, H, h, w) on the CPU, or None and the reason."""
    device = first_device(encoder)
    try:
        with torch.no_grad():
            parts = [
                cls_attention(encoder, as_float(batch.to(device))).float().cpu()
                for batch in shown.batches(len(shown.images))
            ]
    except UsageError as error:
        return None, str(error)
    return torch.cat(parts), ""


def _gradient_share(encoder: nn.Module, shown: _Shown, seed: int) -> Tensor | None:
    """The foreground's share of the gradient (n,) of the first images; None for a net without gradients."""
    masks = torch.split(shown.masks[: shown.gradients], _BATCH_SIZE)
    try:
        shares = [
            foreground_share(gradient_draws(encoder, batch, seed=seed).cpu(), of_batch)
            for batch, of_batch in zip(shown.batches(shown.gradients), masks, strict=True)
        ]
    except UsageError:
        return None
    return torch.cat(shares)


def _before(rebuild: Rebuild | None, images: ImageSet) -> tuple[nn.Module | None, str]:
    """The net before training, or None and the reason."""
    if rebuild is None:
        return None, "The net before training is not measured: it cannot be built, or has given weights."
    try:
        return with_places(rebuild(), images.image_size, images.channels).eval(), ""
    except (FullrankError, OSError) as error:
        return None, f"The net before training is not measured: {' '.join(str(error).split())}"


def _overlaps(
    attention: Tensor, start: Tensor | None, masks: Tensor, seed: int
) -> dict[tuple[str, str], Tensor]:
    """The Jaccard indices and their controls, a value for each image."""
    heads, values = min(HEADS, attention.shape[1]), {}
    for mass in MASSES:
        subject = f"{mass:g}"
        found = jaccard(attention, masks, mass, heads)
        control = permuted_jaccard(attention, masks, mass, heads, seed=seed)
        values[JACCARD, subject] = found
        values[PERMUTED, subject] = control
        values[ABOVE, subject] = found - control
        values[ALL_HEADS, subject] = jaccard(attention, masks, mass)
        if start is not None:
            values[UNTRAINED, subject] = jaccard(start, masks, mass, heads)
    return values


def _score(statistic: str, subject: str, values: Tensor, *, label: str) -> Score:
    """A score that is the mean over the images with an object, with its 95 % t interval."""
    estimate = Estimate.of(values[~values.isnan()].tolist())
    return Score(
        place="h",
        label=label,
        split="test",
        features="raw",
        shots=None,
        probe="segmentation",
        statistic=statistic,
        subject=subject,
        value=estimate.mean,
        low=estimate.low,
        high=estimate.high,
    )


def _examples(attention: Tensor, shown: _Shown) -> dict[str, np.ndarray]:
    """Images from the smallest overlap to the largest: the largest object, and the best head for it."""
    height, width = shown.masks.shape[1:]
    rows, columns = (
        torch.arange(side) * patches // side
        for side, patches in zip((height, width), attention.shape[2:], strict=True)
    )
    chosen = attention_mask(attention.flatten(2), MASSES[0]).reshape(attention.shape)
    chosen = chosen[:, :, rows][:, :, :, columns]
    truths, best, overlaps = [], [], []
    for mask, heads in zip(shown.masks, chosen, strict=True):
        sizes = torch.bincount(mask.flatten().long(), minlength=256)
        sizes[[0, 255]] = 0
        truth = mask == sizes.argmax()
        kept = heads & (mask != 255)
        by_head = overlap(kept.flatten(1), truth.flatten())
        truths.append(truth & (sizes.max() > 0))
        best.append(kept[by_head.argmax()])
        overlaps.append(by_head.max())
    with_object = torch.stack(truths).flatten(1).any(1).nonzero()[:, 0]
    order = with_object[torch.stack(overlaps)[with_object].argsort()]
    picked = order[np.linspace(0, len(order) - 1, min(EXAMPLES, len(order))).round().astype(int)]
    pixels = shown.images.subset(picked.numpy()).tensor()
    if pixels.dtype != torch.uint8 or pixels.shape[1] not in (1, 3):
        return {}
    return {
        "segmentation.images": pixels.permute(0, 2, 3, 1).numpy(),
        "segmentation.objects": torch.stack(truths)[picked].numpy(),
        "segmentation.attention": torch.stack(best)[picked].numpy(),
        "segmentation.overlaps": torch.stack(overlaps)[picked].numpy(),
    }


def _about(shown: _Shown, images: ImageSet) -> str:
    """How many images were measured."""
    objects = int(((shown.masks > 0) & (shown.masks < 255)).flatten(1).any(1).sum())
    drawn = f"{len(shown.images):,} of {len(images):,} test images"
    without = "" if objects == len(shown.images) else f", of which {objects:,} have an object"
    fewer = f"; gradients of {shown.gradients:,} of them" if shown.gradients < len(shown.images) else ""
    return f"Segmentation: {drawn}{without}{fewer}. Intervals are over images."


def _about_heads(count: int) -> list[str]:
    """What to know of a net with other than 3 heads."""
    if count == HEADS:
        return []
    if count < HEADS:
        return [f"The net has {count_of(count, 'head')}, so its Jaccard index is that of all of them."]
    return [f"The net has {count} heads; its Jaccard index is the expected best of {HEADS} of them."]
