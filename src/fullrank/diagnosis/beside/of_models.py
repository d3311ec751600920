"""Two models side by side: both see the same images, each prepared as its own weights need them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from rich.progress import Progress

from fullrank.diagnosis.beside.by_layer import MOST_ROWS, similarity_map
from fullrank.diagnosis.beside.compare import side_by_side
from fullrank.diagnosis.beside.pair import PlaceBeside, place_beside
from fullrank.diagnosis.beside.scores import RowScores, paired_scores, row_scores
from fullrank.diagnosis.of_model import ExaminedModel, ProbedRows, diagnose_model
from fullrank.diagnosis.subject import Subject, subject_with
from fullrank.encoders.foreign import with_places
from fullrank.errors import UsageError
from fullrank.places import HasPlaces, Place, check_place, head_places
from fullrank.record import PairedScore, SimilarityMap
from fullrank.targets.images import Images, fitted, images_of, own_run
from fullrank.targets.opening import Target

# The keys of a recipe that decide which images may be tested on.
_TEST_KEYS = ("data", "classes", "held_out")


def find_subjects(now: Target, before: Target, data: Any, views: str | None) -> tuple[Subject, Subject]:
    """Two models with the same images.

    Args:
        now: The model that is diagnosed.
        before: The model that it is compared with.
        data: The images for both, as in `diagnose`. None means those of the run `now`.
        views: The spec of the views for both; None means a run's own.

    Raises:
        UsageError: There are no images, or `before` is a run on other images. The images of both differ.
        DataError: The images cannot be read, or do not fit a model.
    """
    images = images_of(now, data)
    if data is None:
        _check_runs(now, before)
        train = None if images.train is None else fitted(before, images.train)
        others = Images(train, fitted(before, images.test), images.official)
    else:
        others = images_of(before, data)
    own = data is None
    this, other = subject_with(now, images, views, own=own), subject_with(before, others, views)
    _check_same(this, other)
    return this, replace(other, name=_other_name(now, before))


def _other_name(now: Target, before: Target) -> str:
    """The name of the other model; with its weights where that of both is one."""
    if now.name != before.name:
        return before.name
    return f"the other {before.name}" if now.weights == before.weights else f"{before.name}, {before.weights}"


def _check_runs(now: Target, before: Target) -> None:
    """Raise UsageError if both are runs, and one may have trained on what the other is tested on."""
    if before.run is None:
        return
    recipes = [own_run(target).recipe for target in (now, before)]
    for key in _TEST_KEYS:
        values = [getattr(recipe, key) for recipe in recipes]
        if values[0] != values[1]:
            unlike = f"{now.name} has {key}={values[0]}, and {before.name} has {key}={values[1]}"
            raise UsageError(
                f"The two runs have different images: {unlike}; give images for both with --data."
            )


def _check_same(now: Subject, before: Subject) -> None:
    """Raise UsageError if the images of two subjects are not the same, row by row."""
    for one, other in ((now.test, before.test), (now.train, before.train)):
        if one is None or other is None:
            continue
        if len(one) != len(other):
            counts = f"{now.name} has {len(one)} and {before.name} has {len(other)}"
            raise UsageError(f"The images must be the same for both, but {counts}; give both with --data.")
        unlike = [row for row, ids in enumerate(zip(one.ids, other.ids, strict=True)) if ids[0] != ids[1]]
        unlike += np.flatnonzero(one.labels["label"] != other.labels["label"]).tolist()
        if unlike:
            row = min(unlike)
            differ = f"image {row} is {one.ids[row]} for {now.name} and {other.ids[row]} for {before.name}"
            raise UsageError(f"The images must be the same for both, but {differ}; give both with --data.")


def compare_models(
    now: Subject,
    before: Subject,
    places: Sequence[str] | None = None,
    *,
    label: str = "label",
    limit: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> ExaminedModel:
    """The diagnosis of a model, with another model beside it on the same images.

    Args:
        now: The model that is diagnosed.
        before: The model that it is compared with.
        places: Where features of both are read; None is every place of each from the first block to z.
        label: The name of the labels.
        limit: The largest number of test images.
        seed: The seed of samples and views.
        progress: Shows the part that is done; None shows nothing.

    Raises:
        UsageError: A model does not have one of `places`.
    """
    if places is not None:
        for subject in (now, before):
            _check_places(subject, places)
    this, other = (
        diagnose_model(subject, places, label=label, limit=limit, seed=seed, progress=progress)
        for subject in (now, before)
    )
    together = side_by_side(
        this.entry,
        other.entry,
        places_beside(this, other, label, seed),
        matched="id",
        rows=len(this.images),
        scores=_scores(this, other, seed),
        maps=[_map(this, other, seed)],
        not_compared=list(_without_partner(this, other)),
    )
    return replace(this, entry=this.entry.model_copy(update={"beside": together}))


def _check_places(subject: Subject, places: Sequence[str]) -> None:
    """Raise UsageError, with the name of the model, if it does not have one of the places."""
    encoder = with_places(subject.encoder, subject.test.image_size, subject.test.channels)
    of_head = ["z", *([] if subject.head is None else head_places(subject.head))]
    for place in places:
        name = Place.parse(place).name
        try:
            if name not in ("h", *of_head):
                check_place(cast("HasPlaces", encoder), name, of_head)
        except UsageError as error:
            raise UsageError(f"{subject.name}: {error}") from None


def _pairs(this: ExaminedModel, other: ExaminedModel) -> list[str]:
    """The places that both have, in the order of this model."""
    return [place for place in this.features if place in other.features]


def places_beside(this: ExaminedModel, other: ExaminedModel, label: str, seed: int) -> list[PlaceBeside]:
    """Every place that both models have, on the same images. Only h, z and the last keep their moments."""
    labels, classes = this.images.labels.get(label), this.images.class_names.get(label, ())
    places = _pairs(this, other)
    made = []
    for place in places:
        sides = this.features[place], other.features[place]
        one = place_beside(*sides, place, place, labels=labels, classes=classes, seed=seed)
        # At a width of 2048 they take 300 MB.
        made.append(one if place in ("h", "z", places[-1]) else replace(one, moments=None))
    return made


def _scores(this: ExaminedModel, other: ExaminedModel, seed: int) -> list[PairedScore]:
    """The scores at h, at z and at the places to keep, of both on the same test images."""
    if this.probed is None or other.probed is None:
        return []
    common = [(place, place) for place in _pairs(this, other)]
    scored = [pair for pair in common if pair[0] in ("h", "z")] or common[-1:]
    if this.entry.cut is not None and other.entry.cut is not None:
        scored.append((this.entry.cut, other.entry.cut))
    now, before = (partial(_scores_at, rows, seed=seed) for rows in (this.probed, other.probed))
    return paired_scores({pair: (now(pair[0]), before(pair[1])) for pair in scored}, seed=seed)


def _scores_at(rows: ProbedRows, place: str, seed: int) -> RowScores:
    return row_scores(rows.train_features[place], rows.test_features[place], rows.labels, seed=seed)


def _map(this: ExaminedModel, other: ExaminedModel, seed: int) -> SimilarityMap:
    """All places of this model beside all places of the other, on a sample of the images."""
    rows = torch.from_numpy(this.images.limited_rows(min(MOST_ROWS, len(this.images)), seed))
    sides = ({place: features[rows] for place, features in one.features.items()} for one in (this, other))
    return similarity_map(*sides, target=other.entry.target)


def _without_partner(this: ExaminedModel, other: ExaminedModel) -> Iterator[str]:
    """A sentence on the places that only one of the two models has."""
    for one, rest in ((this, other), (other, this)):
        lone = [place for place in one.features if place not in rest.features]
        if lone:
            listed = ", ".join(lone[:3]) + (f" and {len(lone) - 3} more" if len(lone) > 3 else "")
            yield f"Places that only {one.entry.target} has, except in the map: {listed}."
    if this.probed is None:
        yield "Scores: there are no labels to train and to test on."
