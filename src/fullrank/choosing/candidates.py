"""Candidates: features of the same images, each at one place of one run or from one file."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Candidate:
    """Features of the pool's images at one place.

    Attributes:
        run: The name of the run or file, which no other one of the pool has.
        place: The place; `embedding` for a file.
        clean: The features of the images, (N, D), float32.
        views: The features of q views of the pool's viewed images, (q, n, D); None without views.
        depth: The number of the place in its run, from the image on.
        head: The spec of the run's head; None without one.
        seed: The seed of the run; None for what is no run.
        loss: The last loss of the run's training; None for what is no run.
        recipe: What names runs that differ in the seed alone; the run's own name for what is no run.
        trained_on: The criteria that the run's objective trains at this place.
    """

    run: str
    place: str
    clean: Tensor
    views: Tensor | None = None
    depth: int = 0
    head: str | None = None
    seed: int | None = None
    loss: float | None = None
    recipe: str = ""
    trained_on: frozenset[str] = frozenset()


def distinct(candidates: Sequence[Candidate]) -> list[int]:
    """The numbers of the candidates that equal no other place of their run; of equal ones h is kept.

    A head that passes h on has z equal to h, and a net may end in places that are all h.
    """
    kept: list[int] = []
    order = sorted(range(len(candidates)), key=lambda number: (candidates[number].place != "h", number))
    for number in order:
        one = candidates[number]
        others = (candidates[each] for each in kept)
        if not any(other.run == one.run and _equal(other.clean, one.clean) for other in others):
            kept.append(number)
    return sorted(kept)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


@dataclass(frozen=True, eq=False)
class Pool:
    """Candidates of the same images.

    Attributes:
        candidates: The candidates, run after run, each from the image on.
        ids: What names each image, (N,).
        viewed: The numbers of the images that have views, (n,).
        views: The spec of the views; None without.
        labels: The class numbers of the images, (N,), -1 where unlabelled; None without any label.
        classes: The names of the classes.
        notes: Sentences on how the images were read and matched.
    """

    candidates: Sequence[Candidate]
    ids: np.ndarray
    viewed: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    views: str | None = None
    labels: np.ndarray | None = None
    classes: Sequence[str] = ()
    notes: Sequence[str] = ()
