"""Candidates: features of the same images, each at one place of a run or of a file; and what is read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullrank.errors import UsageError
from fullrank.specs import Spec

# Of middle strength: crops of half the image or more, no flip (a flipped digit is another sign), mild colour.
CHAIN = "simclr,scale=0.5,flip=0,brightness=0.2,contrast=0.2,saturation=0.2,hue=0.05,grey=0,blur=0"
EMBEDDING = "embedding"
# So many images at most have views.
VIEWED = 1024
# The probe of the rule learns from a twentieth of the images; fewer than this leave it nothing to learn from.
LEAST_IMAGES = 64


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
    head: Spec | None = None
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
        if not any(other.run == one.run and torch.equal(other.clean, one.clean) for other in others):
            kept.append(number)
    return sorted(kept)


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


@dataclass(frozen=True)
class Reading:
    """Which images, views and places are read.

    Args:
        data: The spec of a source, or a torch Dataset or a pair of them; None means the runs' own images.
        places: The places to read; None is `default_places` of each run.
        views: The spec of the chain of views.
        limit: At most this many images.
        viewed: At most this many of them have views.
        seed: The seed of the sample and of the views.
        label: Which labels of the images the pool keeps. Nothing here looks at them.
    """

    data: Any = None
    places: Sequence[str] | None = None
    views: str = CHAIN
    limit: int = 5000
    viewed: int = VIEWED
    seed: int = 0
    label: str = "label"


def unique_names(paths: Sequence[str]) -> list[str]:
    """The last parts of paths, with as many folders in front as tell them apart.

    >>> unique_names(["runs/a", "runs/b"]), unique_names(["x/run", "y/run"])
    (['a', 'b'], ['x/run', 'y/run'])

    Raises:
        UsageError: A path is named twice.
    """
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise UsageError(f"{twice} is named twice; name each candidate once.")
    parts = [Path(path).parts or (path,) for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)
