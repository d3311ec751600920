"""Read the candidates of a choice: the same images, and views by one shared chain, through every run."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from fullrank.batch import as_float
from fullrank.choosing.candidates import LEAST_IMAGES, Candidate, Pool, Reading, distinct, unique_names
from fullrank.choosing.of_files import pool_of_files
from fullrank.choosing.repeated import without_repeated
from fullrank.data import ImageSet
from fullrank.devices import first_device
from fullrank.embeddings.kinds import is_embeddings
from fullrank.encoders.foreign import with_places
from fullrank.errors import DataError, UsageError, count_of, unknown_name
from fullrank.heads.contract import views_for
from fullrank.objectives import objective
from fullrank.objectives.contract import trained_by
from fullrank.places import collect_features, evaluating, head_places, layer_of, read_places
from fullrank.progress import counted
from fullrank.runs.build import terms_of
from fullrank.runs.run import Run, input_shape
from fullrank.targets.images import images_of
from fullrank.targets.opening import Target, target as open_target
from fullrank.views import Views, step_generator, view_pipeline

# So many views of each image that has views.
VIEWS = 4
# Of the encoder's own places, beside h and those of the head.
_INNER = 3
_BATCH = 256
# So many images tell whether two runs have the same ones.
_COMPARED = 64


def read_pool(targets: Sequence[Any], reading: Reading, progress: Progress | None = None) -> Pool:
    """The candidates of some runs or of some files: each has the same images in the same order.

    Test images come first. If they are fewer than the limit, training images are added, because no labels
    are used. Files are matched by their ids, or else by their order.

    Args:
        targets: What `fullrank.target` takes, or files of embeddings.
        reading: Which images, views and places.
        progress: The progress display.

    Raises:
        UsageError: Files and models are mixed, the images of runs differ, files have no row in common, or
            a target is named twice.
        DataError: There are fewer than `LEAST_IMAGES` images, or something cannot be read.
    """
    if not targets:
        raise UsageError("There is nothing to choose from; name runs, or files of embeddings.")
    if reading.seed < 0:
        raise UsageError(f"The seed must be 0 or more, but got {reading.seed}; 0 is the default.")
    if reading.limit < LEAST_IMAGES:
        raise UsageError(f"The limit is {reading.limit} images, but {LEAST_IMAGES} or more are needed.")
    files = [is_embeddings(each) for each in targets]
    if all(files):
        return _of_unlike_images(pool_of_files([Path(each) for each in targets], reading))
    if any(files):
        raise UsageError("Runs and files of embeddings cannot be compared; write the runs with embed first.")
    opened = [open_target(each) for each in targets]
    return _of_unlike_images(_of_models(opened, _names_of(targets, opened), reading, progress))


def _of_unlike_images(pool: Pool) -> Pool:
    """The pool without repeated images; DataError if too few are left."""
    pool = without_repeated(pool)
    if len(pool.ids) < LEAST_IMAGES:
        left = f"{count_of(len(pool.ids), 'unlike image')}"
        raise DataError(f"A choice needs {LEAST_IMAGES} images or more, but got {left}; give more.")
    return pool


def default_places(encoder: nn.Module, head: nn.Module | None) -> list[str]:
    """The encoder's last places, h, the head's inner layers, and z.

    >>> from fullrank import encoder, head
    >>> default_places(encoder("tiny-resnet", image_size=8, in_chans=1), head("mlp:48", in_dim=96))
    ['stage3.1', 'stage3.2', 'last-conv-input', 'h', 'head.1', 'z']
    """
    inner = list(getattr(encoder, "places", ()))
    layers = list(dict.fromkeys(map(layer_of, inner)))[-_INNER:]
    own = [place for place in inner if layer_of(place) in layers]
    return [*own, "h", *([] if head is None else [*head_places(head)[:-1], "z"])]


def _names_of(given: Sequence[Any], targets: Sequence[Target]) -> list[str]:
    """A name for each target. Runs are named by their folders; unlike modules of one class are numbered."""
    names: list[str] = []
    for number, (model, target) in enumerate(zip(given, targets, strict=True)):
        if target.run is not None:
            names.append(str(target.run.path.resolve()))
        elif isinstance(model, str | Path):
            names.append(target.name)
        else:
            before = zip(given[:number], targets, strict=False)
            others = {id(each) for each, one in before if one.name == target.name and each is not model}
            names.append(f"{target.name} ({len(others) + 1})" if others else target.name)
    return unique_names(names)


def _of_models(
    targets: Sequence[Target], names: Sequence[str], reading: Reading, progress: Progress | None
) -> Pool:
    candidates: list[Candidate] = []
    notes: list[str] = []
    first: ImageSet | None = None
    for name, target in zip(names, targets, strict=True):
        images, added = sampled_images(target, reading)
        if first is None:
            first = images
            notes += added
        else:
            images = _in_the_order_of(first, images)
        _check_same(first, images, (names[0], name), (targets[0], target), reading)
        candidates += _read(name, target, images, reading, progress)
        if target.run is not None and str(target.run.recipe.views) == reading.views:
            notes.append(f"{name} was trained with the very views of this choice, which favours it.")
    if first is None or len(first) < LEAST_IMAGES:
        count = 0 if first is None else len(first)
        raise DataError(f"A choice needs {LEAST_IMAGES} images or more, but got {count}; give more.")
    kept = distinct(candidates)
    if len(kept) < len(candidates):
        left = [f"{each.run} {each.place}" for n, each in enumerate(candidates) if n not in kept]
        named = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        notes.append(f"Left out, because they equal another place of their run: {named}.")
    if reading.label not in first.labels:
        raise unknown_name("label", reading.label, first.labels, f"the images have {', '.join(first.labels)}")
    labels = first.labels.get(reading.label)
    known = labels if labels is not None and (labels >= 0).any() else None
    return Pool(
        [candidates[number] for number in kept],
        np.asarray(first.ids),
        _viewed_rows(len(first), reading),
        reading.views,
        known,
        first.class_names.get(reading.label) or (),
        notes,
    )


def _check_same(
    first: ImageSet,
    images: ImageSet,
    names: tuple[str, str],
    targets: tuple[Target, Target],
    reading: Reading,
) -> None:
    """Raise UsageError unless two targets have the same images in the same order."""
    one, other = names
    if images.ids != first.ids:
        raise UsageError(
            f"{one} and {other} have {_shared(first, images)} images in common, of {len(first)} and "
            f"{len(images)}, so they cannot be compared; "
            "give --data, the images for all of them."
        )
    if reading.data is None and not _look_alike(first, images, *targets):
        raise UsageError(
            f"{one} and {other} have images of the same names that differ, from {first} and {images}, "
            "so they cannot be compared; give --data, the images for all of them."
        )


def _look_alike(first: ImageSet, images: ImageSet, one: Target, other: Target) -> bool:
    """Whether images of the same ids are the same: unlike data in memory have row numbers as ids alike."""
    if images.image_shape != first.image_shape:
        return one.run is not None and other.run is not None and _data_of(one.run) == _data_of(other.run)
    rows = np.unique(np.linspace(0, len(first) - 1, _COMPARED).astype(int))
    return torch.equal(first.batch(rows).images, images.batch(rows).images)


def _data_of(run: Run) -> str:
    return str(run.recipe.data)


def _in_the_order_of(first: ImageSet, images: ImageSet) -> ImageSet:
    """The same images in the order of `first`; `images` itself where the two differ in more than order."""
    if images.ids == first.ids or sorted(images.ids) != sorted(first.ids):
        return images
    number = {name: row for row, name in enumerate(images.ids)}
    return images.subset(np.array([number[name] for name in first.ids]))


def _shared(one: ImageSet, other: ImageSet) -> int:
    return len(set(one.ids) & set(other.ids))


def sampled_images(target: Target, reading: Reading) -> tuple[ImageSet, list[str]]:
    """The images of a choice for one target, and sentences about them. Labels are not looked at."""
    images = images_of(target, reading.data)
    whole, notes = images.test, list[str]()
    if images.train is not None and len(whole) < reading.limit:
        notes.append(f"There are {count_of(len(whole), 'test image')}, so training images were added.")
        whole = images.test.joined(images.train)
    if len(whole) <= reading.limit:
        return whole, notes
    order = np.random.default_rng(reading.seed).permutation(len(whole))
    chosen = order[: reading.limit] if not notes else _test_first(len(images.test), order, reading.limit)
    return whole.subset(np.sort(chosen)), notes


def _test_first(tests: int, order: np.ndarray, limit: int) -> np.ndarray:
    """The numbers of all test images, which come first, and of training images in random order."""
    return np.concatenate([order[order < tests], order[order >= tests]])[:limit]


def _viewed_rows(count: int, reading: Reading) -> np.ndarray:
    order = np.random.default_rng([reading.seed, 1]).permutation(count)
    rows: np.ndarray = np.sort(order[: min(reading.viewed, count)])
    return rows


def _read(
    name: str, target: Target, images: ImageSet, reading: Reading, progress: Progress | None
) -> Iterator[Candidate]:
    """The candidates of one target, from one pass over the images and one over their views."""
    encoder = with_places(target.opened(images), images.image_size, images.channels)
    head, last = target.head, target.head or nn.Identity()
    places = list(dict.fromkeys(reading.places or default_places(encoder, head)))
    if head is None:
        places = [place for place in places if place != "z" and not place.startswith("head.")]
    if not places:
        raise UsageError(f"{name} has no head, so it has none of the places; give h, or a layer of it.")
    pair = _pair_of_views(images, reading)
    # z is read in any case: the objective trains it, and every place that is the same.
    clean = collect_features(
        encoder,
        last,
        counted(images.batches(_BATCH), progress, name, len(images)),
        list(dict.fromkeys([*places, "z"])),
    )
    viewed = images.subset(_viewed_rows(len(images), reading))
    seen = _read_views(encoder, last, viewed, places, pair, reading.seed)
    run = target.run
    trained = {} if run is None else _trained_by(run)
    for depth, place in enumerate(places):
        yield Candidate(
            name,
            place,
            clean[place],
            seen[place],
            depth,
            head=None if run is None else run.recipe.head,
            seed=None if run is None else run.recipe.seed,
            loss=None if run is None else run.record.runs[0].loss,
            recipe=name if run is None else run.recipe.model_copy(update={"seed": 0}).model_dump_json(),
            trained_on=frozenset(
                name
                for other, names in trained.items()
                if place == other or (other in clean and torch.equal(clean[place], clean[other]))
                for name in names
            ),
        )


def _trained_by(run: Run) -> dict[str, frozenset[str]]:
    """Place -> the criteria that the objective of a run trains there: at z, and where its terms say."""
    recipe, (size, channels) = run.recipe, input_shape(run.path)
    views = view_pipeline(recipe.views, image_size=size, channels=channels)
    loss = objective(recipe.objective.alone, in_dim=run.head.out_dim, num_classes=2)
    trained = {"z": trained_by(loss)}
    for term in terms_of(recipe, run.encoder, run.head, views, num_classes=2):
        place = getattr(term, "place", "h")
        trained[place] = trained.get(place, frozenset()) | trained_by(term)
    return trained


def _pair_of_views(images: ImageSet, reading: Reading) -> Views:
    """The chain of views for images of this size, which makes two at a time."""
    views = view_pipeline(reading.views, image_size=images.image_size, channels=images.channels)
    if len(views.sizes) != 2:
        raise UsageError(
            f"The views {reading.views} are {len(views.sizes)}, but a choice draws 2 at a time; "
            "give a chain without further crops, such as simclr."
        )
    return views


@torch.no_grad()
def _read_views(
    encoder: nn.Module, head: nn.Module, images: ImageSet, places: Sequence[str], views: Views, seed: int
) -> dict[str, Tensor]:
    """Place -> features (q, n, D) of the views of `images`, whose parameters depend on the seed alone."""
    parts: dict[str, list[Tensor]] = {place: [] for place in places}
    with evaluating(encoder, head):
        for number, start in enumerate(range(0, len(images), _BATCH)):
            batch = images.batch(np.arange(start, min(start + _BATCH, len(images))))
            rounds: dict[str, list[Tensor]] = {place: [] for place in places}
            for pair in range(VIEWS // 2):
                generator = step_generator(seed, pair, number)
                size = batch.images.shape[-2:]
                parameters = views.sample(len(batch.images), generator, (size[0], size[1]), batch.sizes)
                both = torch.cat(views.apply(batch.to(first_device(encoder)), parameters))
                numbers = views_for(head, parameters.numbers(parameters.names))
                for place, rows in read_places(encoder, head, as_float(both), places, numbers).items():
                    rounds[place] += rows.float().cpu().chunk(2)
            for place, sides in rounds.items():
                parts[place].append(torch.stack(sides))
    return {place: torch.cat(chunks, dim=1) for place, chunks in parts.items()}
