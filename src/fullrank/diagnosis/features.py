"""What a diagnosis reads of a model: features of clean images and of views, at places from the image to z."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from fullrank.batch import Batch
from fullrank.data import ImageSet
from fullrank.devices import first_device
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.imposed import imposed_rank
from fullrank.encoders.building import is_placed, with_places
from fullrank.errors import UsageError
from fullrank.heads.contract import unfolded
from fullrank.places import collect_features, evaluating, head_places, read_places
from fullrank.progress import counted
from fullrank.views import ViewParameters, Views, step_generator

# So many places of the encoder are read, beside h and those of the head.
MOST_PLACES = 12
# Of so many images views are made. Of their first batch they are made again with one operation at a time: a
# share of a trace needs fewer images than the directions of a covariance, and there are many operations.
VIEWED = 1024
BATCH_SIZE = 256

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Collected:
    """Features at places, in the order from the image to z, of a sample of images and of views of some of it.

    `images` are the sample. Shapes, float32 on the CPU: `features[place]` (N, D_p) of the clean images;
    `views[place]` (n, D_p) twice, of two views of n of them; `operations[place][name]` the same of the first
    m of these, of the same draw with all other operations off. `imposed[place]` is what `imposed_rank` says,
    and `stacked` what `stacked_maps` says.
    """

    images: ImageSet
    features: dict[str, Tensor]
    views: dict[str, Pair] = field(default_factory=dict)
    operations: dict[str, dict[str, Pair]] = field(default_factory=dict)
    imposed: dict[str, int | None] = field(default_factory=dict)
    stacked: tuple[Tensor, ...] = ()

    @property
    def places(self) -> list[str]:
        """The places, from the image to z."""
        return list(self.features)

    def evidence(self, temperature: float | None = None) -> Evidence:
        """All of it as causes are looked for in; `temperature` is that of a cosine loss on z, if known."""
        places = (
            PlaceEvidence(
                place,
                features,
                self.views.get(place),
                self.operations.get(place, {}),
                self.imposed.get(place),
            )
            for place, features in self.features.items()
        )
        return Evidence(tuple(places), self.stacked, temperature)


def collect(
    encoder: nn.Module,
    head: nn.Module | None,
    images: ImageSet,
    places: Sequence[str] | None = None,
    *,
    limit: int = 4096,
    seed: int = 0,
    views: Views | None = None,
    replay: bool = True,
    fresh_head: Callable[[], nn.Module] | None = None,
    progress: Progress | None = None,
) -> Collected:
    """Features of `images` at `places`, in eval mode, and, with `views`, of two views of each.

    The images are a sample of at most `limit`, every class in proportion, drawn by `seed`; views are made of
    n of them, at most 1024, chosen likewise, in random order. With `replay` the views of the first m of
    these, a batch of at most 256, are made again for each operation, the same draw with all other operations
    off. The encoder may be any module that gives (N, D); where it has no places there is h alone, and without
    a head z is h. Without `places` they are those of `thinned_places`. It holds N + 2 n + 2 m operations rows
    of float32 of each place. `fresh_head` builds the head anew, for a head that does not say which rank it
    imposes (`imposed_rank`). Encoder and head come back in the mode they were in, and nothing in them
    changes.

    Raises UsageError for a place that there is not, a limit below 1, an encoder that gives no (N, D), and
    views of another size or number of channels than the images'.

    >>> from fullrank import encoder, head, source, view_pipeline
    >>> views = view_pipeline("weak", image_size=8, channels=1)
    >>> found = collect(encoder("tiny-resnet,width=4", image_size=8, in_chans=1),
    ...                 head("subvector:6", in_dim=16), source("digits").load("test"), ["h", "z"],
    ...                 limit=30, views=views)
    >>> found.features["h"].shape, found.views["z"][0].shape, list(found.operations["z"]), found.imposed["z"]
    (torch.Size([30, 16]), torch.Size([30, 6]), ['crop', 'flip'], 6)
    """
    if limit < 1:
        raise UsageError(f"The limit must be 1 image or more, but got {limit}; 4096 is the default.")
    places = thinned_places(encoder, head) if places is None else list(places)
    sample = images.limited(min(limit, len(images)), seed)
    placed, last = with_places(encoder), nn.Identity() if head is None else head
    clean = counted(sample.batches(BATCH_SIZE), progress, "images", len(sample))
    features = collect_features(placed, last, clean, places)
    seen: dict[str | None, dict[str, Pair]] = {}
    names: list[str] = []
    if views is not None:
        viewed = _shuffled(sample.limited(min(VIEWED, len(sample)), seed), seed)
        names = list(dict.fromkeys(name for view in views.operations for name in view)) if replay else []
        for name in (None, *names):
            count = len(viewed) if name is None else min(BATCH_SIZE, len(viewed))
            drawn = islice(view_batches(viewed, views, seed, BATCH_SIZE), -(-count // BATCH_SIZE))
            shown = counted(drawn, progress, name or "views", count, lambda pair: len(pair[0]))
            seen[name] = _view_features(placed, last, shown, views, places, name)
    return Collected(
        sample,
        features,
        views=seen.get(None, {}),
        operations={place: {name: seen[name][place] for name in names} for place in places},
        imposed={place: imposed_rank(last, place, fresh_head) for place in places},
        stacked=stacked_maps(encoder, last) if places[-1] == ("h" if head is None else "z") else (),
    )


def thinned_places(encoder: nn.Module, head: nn.Module | None, most: int = MOST_PLACES) -> list[str]:
    """The places of a diagnosis: at most `most` of the encoder's, evenly chosen, then h, the head's, and z.

    The first and the last of the encoder's are among them. The head's last layer is left out, since z comes
    from it. An encoder without places has h alone, and without a head there is no z.

    >>> from fullrank import encoder
    >>> thinned_places(encoder("resnet18", image_size=32), None, most=4)
    ['stem', 'layer2.0', 'layer3.1', 'last-conv-input', 'h']
    """
    inner = list(getattr(encoder, "places", ())) if is_placed(encoder) else []
    if len(inner) > most:
        inner = [inner[i] for i in np.linspace(0, len(inner) - 1, most).round().astype(int)]
    return [*inner, "h", *([] if head is None else [*head_places(head)[:-1], "z"])]


def view_batches(
    images: ImageSet, views: Views, seed: int, batch_size: int
) -> Iterator[tuple[Batch, ViewParameters]]:
    """Images in batches, in order, with what is drawn for their views: for batch b from (`seed`, 0, b)."""
    for number, start in enumerate(range(0, len(images), batch_size)):
        rows = np.arange(start, min(start + batch_size, len(images)))
        batch = images.batch(rows)
        height, width = batch.images.shape[-2:]
        drawn = views.sample(len(rows), step_generator(seed, 0, number), (height, width), batch.sizes)
        yield batch, drawn


def stacked_maps(*modules: nn.Module) -> tuple[Tensor, ...]:
    """Two linear maps or more that follow each other with nothing between, W1 (m, D), W2 (K, m), ...

    The modules are applied one after the other, say an encoder and its head, and the maps end the last. Of a
    module only the order in an `nn.Sequential`, in a head's layers or of a single `nn.Linear` is known; any
    other one ends what came before, as a norm or a nonlinearity does. Biases are left out. The map that is
    applied first is first; without two there are none.

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
    """Features (n, D_p) of the two views of all images, by place; with `only` that operation switched on."""
    parts: dict[str, list[Pair]] = {place: [] for place in places}
    with evaluating(encoder, head):
        for batch, drawn in batches:
            if only is not None:
                drawn = drawn.without(*(name for name in drawn.names if name != only))
            pair = torch.cat(views.apply(batch.to(first_device(encoder)), drawn))
            for place, features in read_places(encoder, head, pair, places).items():
                first, second = features.float().cpu().chunk(2)
                parts[place].append((first, second))
    return {
        place: (torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs]))
        for place, pairs in parts.items()
    }


def _shuffled(images: ImageSet, seed: int) -> ImageSet:
    """The same images in random order: the first ones of a folder may all be of one class."""
    return images.subset(np.random.default_rng(np.random.SeedSequence([seed])).permutation(len(images)))
