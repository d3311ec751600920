"""The features of a diagnosis: clean images and views, at places from the image to z."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from fullrank.batch import Batch
from fullrank.data import ImageSet
from fullrank.devices import first_device
from fullrank.diagnosis.evidence import Evidence, Pair, PlaceEvidence
from fullrank.diagnosis.imposed import imposed_rank
from fullrank.diagnosis.subject import Subject
from fullrank.encoders.foreign import is_placed, with_places
from fullrank.encoders.traced import TracedEncoder
from fullrank.errors import UsageError
from fullrank.heads.contract import unfolded, views_for
from fullrank.places import collect_features, evaluating, head_places, layer_of, read_places
from fullrank.progress import counted
from fullrank.views import ViewParameters, Views, step_generator

# The largest number of places of the encoder. h and the head's places come in addition.
MOST_PLACES = 12
# The number of images with views. For their first batch, views with one operation at a time are also made: a
# share of a trace needs fewer images than the directions of a covariance, and there are many operations.
VIEWED = 1024
BATCH_SIZE = 256


@dataclass(frozen=True, eq=False)
class Collected:
    """A sample of images, and the features of these images and of views of some of them."""

    images: ImageSet
    evidence: Evidence


def collect(
    subject: Subject,
    places: Sequence[str] | None = None,
    *,
    limit: int = 4096,
    seed: int = 0,
    replay: bool = True,
    progress: Progress | None = None,
) -> Collected:
    """Features of at most `limit` test images at `places` (default: `thinned_places`), and of their views."""
    if limit < 1:
        raise UsageError(f"The limit must be 1 or more images, but got {limit}; the default is 4096.")
    encoder, head, images, views = subject.encoder, subject.head, subject.test, subject.views
    placed = with_places(encoder, images.image_size, images.channels)
    last = nn.Identity() if head is None else head
    places = list(dict.fromkeys(thinned_places(placed, head) if places is None else places))
    sample = images.limited(min(limit, len(images)), seed)
    clean = counted(sample.batches(BATCH_SIZE), progress, "images", len(sample))
    features = collect_features(placed, last, clean, places)
    together: dict[str, Pair] = {}
    alone: dict[str, dict[str, Pair]] = {}
    if views is not None:
        viewed = sample.limited(min(VIEWED, len(sample)), seed)
        # In random order, because the first images of a folder may all have one class.
        order = np.random.default_rng(np.random.SeedSequence([seed])).permutation(len(viewed))
        viewed = viewed.subset(order)

        def read_views(count: int, only: str | None = None) -> dict[str, Pair]:
            batches = islice(view_batches(viewed, views, seed, BATCH_SIZE), -(-count // BATCH_SIZE))
            shown = counted(batches, progress, only or "views", count, lambda pair: len(pair[0]))
            return _view_features(placed, last, shown, views, places, only)

        together = read_views(len(viewed))
        operations = dict.fromkeys(name for view in views.operations for name in view) if replay else ()
        alone = {name: read_views(min(BATCH_SIZE, len(viewed)), name) for name in operations}

    def evidence_at(place: str) -> PlaceEvidence:
        operations = {name: pairs[place] for name, pairs in alone.items()}
        rank = imposed_rank(last, place, subject.fresh_head)
        return PlaceEvidence(place, features[place], together.get(place), operations, rank)

    plain = isinstance(placed, TracedEncoder) and not placed.output_note
    net = cast(nn.Module, placed.model) if plain else placed
    stacked = stacked_maps(net, last) if places[-1:] == ["h" if head is None else "z"] else ()
    return Collected(sample, Evidence(tuple(map(evidence_at, places)), stacked))


def thinned_places(encoder: nn.Module, head: nn.Module | None, most: int = MOST_PLACES) -> list[str]:
    """The places of a diagnosis: at most `most` of the encoder's, h, the head's, and z.

    The encoder's layers are chosen evenly, each with all its poolings.
    """
    inner = list(getattr(encoder, "places", ())) if is_placed(encoder) else []
    layers: dict[str, list[str]] = {}
    for place in inner:
        layers.setdefault(layer_of(place), []).append(place)
    if len(inner) > most:
        count = max(1, most // max(map(len, layers.values())))
        chosen = np.linspace(0, len(layers) - 1, count).round().astype(int)
        inner = [place for i in chosen for place in list(layers.values())[i]]
    # The head's last layer is left out, because its output is z.
    return [*inner, "h", *([] if head is None else [*head_places(head)[:-1], "z"])]


def view_batches(
    images: ImageSet, views: Views, seed: int, batch_size: int
) -> Iterator[tuple[Batch, ViewParameters]]:
    """Images in batches, in order, with the parameters of their views, drawn from (`seed`, 0, batch)."""
    for number, start in enumerate(range(0, len(images), batch_size)):
        rows = np.arange(start, min(start + batch_size, len(images)))
        batch = images.batch(rows)
        height, width = batch.images.shape[-2:]
        generator = step_generator(seed, 0, number)
        yield batch, views.sample(len(rows), generator, (height, width), batch.sizes)


def stacked_maps(*modules: nn.Module) -> tuple[Tensor, ...]:
    """Two or more consecutive linear maps with nothing between them, W1 (m, D), W2 (K, m), ...

    The modules are applied one after the other, such as an encoder and its head, and the maps end the last
    one. The order inside a module is known only for an `nn.Sequential`, a head's layers or a single
    `nn.Linear`. Any other module ends the sequence before it, as a norm or a nonlinearity does. Biases are
    left out.

    Args:
        modules: The modules in order.

    Returns:
        The maps, the one applied first first; empty if there are fewer than two.

    >>> [tuple(matrix.shape) for matrix in stacked_maps(nn.Linear(6, 5), nn.Linear(5, 3))]
    [(5, 6), (3, 5)]
    """
    maps: list[Tensor] = []
    for step in (step for module in modules for step in unfolded(module)):
        if isinstance(step, nn.Linear):
            maps.append(step.weight.detach())
        elif not isinstance(step, nn.Identity):
            maps.clear()
    return tuple(maps) if len(maps) > 1 else ()


@torch.no_grad()
def _view_features(
    encoder: nn.Module,
    head: nn.Module,
    batches: Iterable[tuple[Batch, ViewParameters]],
    views: Views,
    places: Sequence[str],
    only: str | None,
) -> dict[str, Pair]:
    """Features (n, D_p) of the two views of all images, by place. With `only`, one operation is on."""
    parts: dict[str, list[Pair]] = {place: [] for place in places}
    with evaluating(encoder, head):
        for batch, parameters in batches:
            names = parameters.names
            if only is not None:
                parameters = parameters.without(*(name for name in names if name != only))
            both = torch.cat(views.apply(batch.to(first_device(encoder)), parameters))
            numbers = views_for(head, parameters.numbers(names))
            for place, features in read_places(encoder, head, both, places, numbers).items():
                first, second = features.float().cpu().chunk(2)
                parts[place].append((first, second))
    return {
        place: (torch.cat([first for first, _ in pairs]), torch.cat([second for _, second in pairs]))
        for place, pairs in parts.items()
    }
