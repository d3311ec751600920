"""Controlled images: a foreground on a background and other cues, each with a chosen correlation."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from fullrank.data.image_set import UNLABELLED, ImageSet, check_image_size
from fullrank.data.made.textures import objects, textures
from fullrank.data.masks import FOREGROUND
from fullrank.data.published.grouped import with_groups
from fullrank.data.selection import generator, stratified_order
from fullrank.data.sources import SPLITS
from fullrank.data.streaming import StreamedImages
from fullrank.errors import DataError, UsageError, unknown_name

Drawn = tuple[np.ndarray, np.ndarray]
"""Images (n, h, w, 1 or 3) uint8, and where each is opaque, (n, h, w) bool."""

PLACES = (
    *("top-left", "top-centre", "top-right"),
    *("middle-left", "centre", "middle-right"),
    *("bottom-left", "bottom-centre", "bottom-right"),
)
"""Nine places on a canvas, row by row."""

DRAWN = "drawn"
_ROUNDING = 1e-6  # so that 0.95 of 10 is exactly 9.5, despite binary fractions
_CHUNK = 4096  # images
_RESERVED = ("label", "group", "position", FOREGROUND)


@final
@dataclass(frozen=True, eq=False)
class Cue:
    """A factor of the images beside the label, and the function that draws it.

    The first cue of a composite is its background.

    Args:
        name: The name of the factor.
        values: The names of the factor's values.
        draw: `draw(values (n,), generator)` gives images and masks.
        place: The position of the images, which cover the cues before this one.
        correlation: The probability that the value is the label's partner (`paired_values`); None means
            balanced values.

    Raises:
        UsageError: If there are fewer than 2 values, or the place is unknown.
    """

    name: str
    values: tuple[str, ...]
    draw: Callable[[np.ndarray, np.random.Generator], Drawn]
    place: str = "centre"
    correlation: float | None = None

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise UsageError(f"The cue {self.name!r} needs 2 values, but has {len(self.values)}; add some.")
        check_place(self.place, PLACES)


def blend(below: np.ndarray, above: np.ndarray, mask: np.ndarray, strength: float) -> np.ndarray:
    """Blend images (..., C) uint8: (1 - s) below + s above, rounded, if the mask is true, else `below`."""
    if not 0 <= strength <= 1:
        raise UsageError(f"A blend strength of {strength:g} is outside 0 to 1; choose 1 to hide the rest.")
    levels = np.arange(256)
    blends = (1 - strength) * levels[:, None] + strength * levels
    table = np.rint(blends.round(9)).astype(np.uint8)  # in floats 1 - 0.7 is not 0.3, which could break a tie
    blended = below.copy()
    blended[mask] = table[below[mask], above[mask]]
    return blended


def paired_values(
    labels: np.ndarray, count: int, level: float, seed: int, before: np.ndarray | None = None
) -> np.ndarray:
    """Values of a cue for `labels` (N,): with probability `level` the partner of label y, y mod `count`."""
    # Given the label, the values are independent of `before` (N,), the groups of the cues so far.
    if not 1 / count - _ROUNDING <= level <= 1:
        limits = f"{1 / count:g} to 1 (balanced to always paired)"
        raise UsageError(f"A correlation of {level:g} of {count} values is outside {limits}; choose another.")
    values = np.empty(len(labels), np.int64)
    for label in np.unique(labels).tolist():
        rows = np.flatnonzero(labels == label)
        random = generator(seed, label)
        counts = _partner_counts(len(rows), label, count, level, random)
        spread = np.repeat(np.arange(count), counts)
        order = random.permutation(rows)
        if before is not None:
            order = order[np.argsort(before[order], kind="stable")]
        # Every consecutive part of this order, so every group of `before`, has the values in proportion.
        values[order] = spread[stratified_order(spread, int(random.integers(2**32)))]
    return values


def _partner_counts(
    images: int, label: int, count: int, level: float, random: np.random.Generator
) -> np.ndarray:
    """Number of a label's images with each value: round(level m) for the partner, equal for the others."""
    partner = label % count
    if level - 1 / count < _ROUNDING:  # balanced, even if the images do not divide evenly
        counts = np.full(count, images // count)
        counts[random.permutation(count)[: images % count]] += 1
        return counts
    paired = int(level * images + 0.5 + _ROUNDING)
    if paired == 0 or (paired == images and level < 1):
        none, every = 0.5 / level - _ROUNDING, 0.5 / (1 - level + _ROUNDING**2) + _ROUNDING
        word, needed = ("none", none) if paired == 0 else ("all", every)
        problem = f"{word} of the {images} images of label {label} would have the paired value"
        remedy = f"give {math.ceil(needed)} or more of each label"
        raise DataError(f"A correlation of {level:g} cannot be met, {problem}; {remedy}.")
    counts = np.full(count, (images - paired) // (count - 1))
    others = np.delete(np.arange(count), partner)
    counts[random.permutation(others)[: (images - paired) % (count - 1)]] += 1
    counts[partner] = paired
    return counts


def image_cue(name: str, images: ImageSet, side: int, place: str = "centre") -> Cue:
    """A cue that shows opaque `images` of `side` by `side` pixels; its values are their main labels.

    Every image of a value is used before any is used again.

    Raises:
        DataError: If a value has no image.
        UsageError: If the images are streamed.
    """
    pixels = _in_memory(images.resized(side))
    labels, names = images.labels["label"], images.class_names["label"]
    empty = [name for value, name in enumerate(names) if not (labels == value).any()]
    if empty:
        raise DataError(f"{images} has no image of {empty[0]!r} for the cue {name!r}; leave out the class.")

    def draw(values: np.ndarray, random: np.random.Generator) -> Drawn:
        rows = np.empty(len(values), np.int64)
        for value in np.unique(values):
            candidates = random.permutation(np.flatnonzero(labels == value))
            shown = values == value
            rows[shown] = random.permutation(np.resize(candidates, shown.sum()))
        return pixels[rows], np.ones((len(rows), side, side), bool)

    return Cue(name, names, draw, place)


def texture_cue(name: str, kinds: Sequence[tuple[str, np.ndarray]], side: int) -> Cue:
    """A cue that shows procedural textures.

    Args:
        name: The name of the cue.
        kinds: The name of each value, and the kinds of texture that show it.
        side: Side of the textures in pixels.

    >>> cue = texture_cue("background", [("lines", np.array([0, 1])), ("clouds", np.array([8]))], side=12)
    >>> cue.draw(np.array([0, 1, 1]), np.random.default_rng(0))[0].shape
    (3, 12, 12, 3)
    """

    def draw(values: np.ndarray, random: np.random.Generator) -> Drawn:
        chosen = np.array([random.choice(kinds[value][1]) for value in values.tolist()], np.int64)
        return textures(chosen, side, random), np.ones((len(values), side, side), bool)

    return Cue(name, tuple(value for value, _ in kinds), draw)


def object_cue(name: str, values: tuple[str, ...], side: int, place: str) -> Cue:
    """A cue that shows small objects, `values` of `OBJECTS`, with the mask of their shape."""
    return Cue(name, values, lambda shown, random: objects(shown, side, random), place)


def compose(
    foreground: ImageSet,
    cues: Sequence[Cue],
    *,
    n: int,
    size: int,
    side: int,
    strength: float = 0.7,
    place: str = "centre",
    seed: int = 0,
    name: str = "composite",
) -> ImageSet:
    """Compose images: a foreground over the `cues`, of which the first is the background.

    The foreground is opaque where its pixels are above 0. It keeps its labels, each cue adds its own, and a
    drawn place adds "position". The label "group" is the main label with all cues. Given the label, the cues
    are independent. Foregrounds keep the proportion of their classes, and all are used before any is used
    again. Grey parts are copied to RGB unless all parts are grey. `layers` has the images without each cue
    and without the "foreground"; the canvas below the background is black. The masks follow from the layers:
    the foreground is object 1, and the cues above the background are objects 2, 3, ...

    Args:
        foreground: The foregrounds, with labels.
        cues: The cues, from the background up.
        n: Number of images.
        size: Side of the canvas in pixels.
        side: Side of the foreground in pixels.
        strength: Opacity of the foreground, 0 to 1.
        place: Position of the foreground; "drawn" means one of the nine places, balanced.
        seed: Seed of all draws.
        name: The name of the set, for messages.

    Raises:
        UsageError: If a strength, a correlation or n is out of range. Also if a cue's name is taken, a place
            is unknown, a part is larger than the canvas, or the images are streamed.
        DataError: If foregrounds have no labels, or n images cannot have a correlation.

    >>> from fullrank.data import source
    >>> kinds = [("lines", np.array([0, 1])), ("clouds", np.array([8]))]
    >>> cues = [texture_cue("background", kinds, side=12)]
    >>> images = compose(source("digits").load("test"), cues, n=100, size=12, side=8)
    >>> images.images.shape, sorted(images.labels), sorted(images.layers)
    ((100, 12, 12, 3), ['background', 'group', 'label'], ['background', 'foreground'])

    Source: P2, controlled data (authors' code); UrbanCars (Li et al. 2023, arXiv:2212.04825) for two cues.
    """
    _check_request(foreground, cues, n, size, side, place)
    labelled = np.flatnonzero(foreground.labels["label"] != UNLABELLED)
    if not len(labelled):
        raise DataError(f"{foreground} has no labelled image, but composites need labels; label some.")
    number = SPLITS.index(foreground.split)
    order = stratified_order(foreground.labels["label"][labelled], seed)
    shown = foreground.subset(np.sort(np.resize(labelled[order], n)))
    main = shown.labels["label"]
    values = {"label": main}
    group = main  # of the main label and the cues so far
    parts: list[_Part] = []
    for step, cue in enumerate(cues):
        random = generator(seed, number, step)
        level = 1 / len(cue.values) if cue.correlation is None else cue.correlation
        values[cue.name] = paired_values(main, len(cue.values), level, int(random.integers(2**32)), group)
        group = group * len(cue.values) + values[cue.name]
        pixels, mask = cue.draw(values[cue.name], random)
        _check_fits(f"cue {cue.name!r}", mask.shape[1], mask.shape[2], size)
        parts.append(_Part(cue.name, pixels, mask, np.full(n, PLACES.index(cue.place))))
    value_names = {"label": shown.class_names["label"], **{cue.name: cue.values for cue in cues}}
    labels, names = with_groups(values, value_names)
    if place == DRAWN:
        places = _balanced_places(group, generator(seed, number, len(cues)))
        labels["position"], names["position"] = places, PLACES
    else:
        places = np.full(n, PLACES.index(place))
    pixels = _in_memory(shown.resized(side))
    parts.append(_Part(FOREGROUND, pixels, pixels.max(-1) > 0, places, strength))
    images = _composed(parts, size)
    layers = {
        part.name: _composed([p for p in parts if p is not part], size, images.shape[3]) for part in parts
    }
    labels, names = shown.labels | labels, shown.class_names | names
    return ImageSet(images, labels, names, name, foreground.split, layers)


def _balanced_places(group: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A place for each image; within each group all nine are equally frequent."""
    order = random.permutation(len(group))
    places = np.empty(len(group), np.int64)
    places[order[np.argsort(group[order], kind="stable")]] = np.arange(len(group)) % len(PLACES)
    return places


@dataclass(frozen=True, eq=False)
class _Part:
    """One layer of n images: its pixels (n, h, w, 1 or 3), mask, place on the canvas and strength."""

    name: str
    pixels: np.ndarray
    mask: np.ndarray
    places: np.ndarray
    strength: float = 1.0


def _composed(parts: Sequence[_Part], size: int, channels: int | None = None) -> np.ndarray:
    """The parts on top of each other on a black canvas, (n, size, size, C) uint8; grey becomes RGB."""
    channels = channels or max(part.pixels.shape[3] for part in parts)
    canvas = np.zeros((len(parts[0].pixels), size, size, channels), np.uint8)
    for part in parts:
        high, wide = part.mask.shape[1:]
        for place in np.unique(part.places):
            row, column = divmod(int(place), 3)
            top, left = (size - high) * row // 2, (size - wide) * column // 2
            placed = np.flatnonzero(part.places == place)
            for rows in np.split(placed, range(_CHUNK, len(placed), _CHUNK)):
                window = (rows, slice(top, top + high), slice(left, left + wide))
                above = np.broadcast_to(part.pixels[rows], (len(rows), high, wide, channels))
                canvas[window] = blend(canvas[window], above, part.mask[rows], part.strength)
    return canvas


def _in_memory(images: ImageSet) -> np.ndarray:
    """The pixels of a set (N, H, W, C) uint8; UsageError if they are decoded on demand."""
    if isinstance(images.images, StreamedImages):
        raise UsageError(f"{images} is decoded on demand, but composites are made in memory; name others.")
    return images.images


def check_place(place: str, places: Sequence[str]) -> None:
    """Raise UsageError for a place that is not one of `places`."""
    if place not in places:
        raise unknown_name("place on a canvas", place, places, f"use {', '.join(places)}")


def _check_fits(what: str, high: int, wide: int, size: int) -> None:
    if not (1 <= high <= size and 1 <= wide <= size):
        problem = f"The {what} of {high}x{wide} pixels does not fit a canvas of {size}x{size}"
        raise UsageError(f"{problem}; choose a side from 1 to {size}.")


def _check_request(
    foreground: ImageSet, cues: Sequence[Cue], n: int, size: int, side: int, place: str
) -> None:
    check_image_size(size)
    check_place(place, (*PLACES, DRAWN))
    if n < 1:
        raise UsageError(f"A composite needs 1 image or more, but got n={n}; raise n.")
    if not cues:
        raise UsageError("A composite has 0 cues, but needs 1 or more; give a background.")
    _check_fits("foreground", side, side, size)
    names = [*{*_RESERVED, *foreground.labels}, *(cue.name for cue in cues)]
    twice = [cue.name for cue in cues if names.count(cue.name) > 1]
    if twice:
        raise UsageError(f"The cue {twice[0]!r} has the name of another cue or label; give it another.")
