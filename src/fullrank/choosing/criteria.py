"""The criteria of a choice without labels: what each measures, what it cannot see, and what it costs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fullrank.choosing.candidates import Candidate, Pool
from fullrank.choosing.parts import structure, views_of
from fullrank.errors import DataError
from fullrank.probes.learnability import cluster_learnability
from fullrank.record.criteria import CRITERIA_TEXTS
from fullrank.spectrum import (
    alignment,
    alpha_req,
    dime,
    effective_rank,
    gride,
    infonce_at_place,
    isotropy_ratio,
    lidar,
    mst_dimension,
    participation_ratio,
    rankme,
    recalled_views,
    self_cluster,
    two_nn,
    uniformity,
    unit_rows,
)

# Rows that a measure with a quadratic cost looks at.
_ROWS = 800


@dataclass(frozen=True)
class Criterion:
    """A number for each candidate that needs no label.

    Attributes:
        name: The name, as in `fullrank.record.criteria.CRITERIA_TEXTS`.
        measure: The value of each candidate of a pool; nan where it cannot be measured.
        needs_views: Whether it needs views.
        blind: What it cannot see.
        cost: The cost for N rows, q views of n images and D channels.
    """

    name: str
    measure: Callable[[Pool], list[float]]
    needs_views: bool
    blind: str
    cost: str

    @property
    def larger_is_better(self) -> bool:
        """Which way is better by its meaning."""
        return CRITERIA_TEXTS[self.name].larger_is_better


def _each(measure: Callable[[Candidate], float]) -> Callable[[Pool], list[float]]:
    """A measure of one candidate as one of a pool; nan where the data do not allow it."""

    def of_pool(pool: Pool) -> list[float]:
        values = []
        for candidate in pool.candidates:
            try:
                values.append(float(measure(candidate)))
            except DataError:
                values.append(math.nan)
        return values

    return of_pool


def _clean(measure: Callable[[Tensor], float]) -> Callable[[Pool], list[float]]:
    return _each(lambda candidate: measure(candidate.clean))


def _pair(measure: Callable[[Tensor, Tensor], float]) -> Callable[[Pool], list[float]]:
    return _each(lambda candidate: measure(*views_of(candidate)[:2]))


def _alpha(features: Tensor) -> float:
    last = min(50, min(features.shape) - 1)
    return abs(alpha_req(features, first=4, last=last).alpha - 1) if last > 8 else math.nan


def _predictability(pool: Pool) -> list[float]:
    clusters = max(5, int(0.5 * math.sqrt(len(pool.ids))))
    values: list[float] = structure(pool, clusters=clusters, few=0.05, penalty=0.1).values.tolist()
    return values


def _learnability(features: Tensor) -> float:
    return cluster_learnability(features, max(5, int(math.sqrt(min(len(features), _ROWS)))), sample=_ROWS)


_RANK = "Whether the directions are useful: noise has a high rank. Across methods it is no score."
_DIMENSION = "Whether the directions are useful. Its sign differs between layers of a net and between nets."
_LABEL = "Labels that the views change. Random features that hardly react to views are told apart too."
_ALL = [
    Criterion("rankme", _clean(rankme), False, _RANK, "O(N D^2)"),
    Criterion("effective_rank", _clean(effective_rank), False, _RANK, "O(N D^2)"),
    Criterion("participation_ratio", _clean(participation_ratio), False, _RANK, "O(N D^2)"),
    Criterion("isotropy", _clean(isotropy_ratio), False, _RANK, "O(N D^2)"),
    Criterion("alpha_req", _clean(_alpha), False, f"{_RANK} Its sign depends on the window.", "O(N D^2)"),
    Criterion("gride", _clean(lambda x: gride(x, 4, 8, sample=_ROWS).value), False, _DIMENSION, "O(N^2 D)"),
    Criterion("two_nn", _clean(lambda x: two_nn(x, sample=_ROWS).value), False, _DIMENSION, "O(N^2 D)"),
    Criterion("mst_dimension", _clean(mst_dimension), False, _DIMENSION, "O(N^2 D)"),
    Criterion(
        "self_cluster",
        _clean(self_cluster),
        False,
        "Useful clusters: classes that are points raise it too. It depends on the width.",
        "O(N D^2)",
    ),
    Criterion("uniformity", _clean(lambda x: uniformity(x, sample=_ROWS)), False, _RANK, "O(N^2 D)"),
    Criterion(
        "cluster_learnability",
        _clean(_learnability),
        False,
        "Whether the clusters mean anything: a collapsed space is easy to predict from itself.",
        "O(N^2 D)",
    ),
    Criterion("alignment", _pair(lambda a, b: alignment(*_centred(a, b))), True, _LABEL, "O(n D)"),
    Criterion("infonce", _pair(infonce_at_place), True, _LABEL, "O(n^2 D)"),
    Criterion(
        "view_recall", _pair(lambda a, b: float(recalled_views(a, b).mean())), True, _LABEL, "O(n^2 D)"
    ),
    Criterion("dime", _pair(dime), True, f"{_LABEL} What the kernel's one width does not resolve.", "O(n^3)"),
    Criterion(
        "lidar",
        _each(lambda candidate: lidar(views_of(candidate).transpose(0, 1))),
        True,
        "Whether the directions are useful. It needs more images than channels, and equal views.",
        "O(q n D^2 + D^3)",
    ),
    Criterion(
        "cluster_predictability",
        _predictability,
        False,
        "A structure that no other candidate has. A shortcut that most of them share wins.",
        "O(C N D^2 + C^2 k N D)",
    ),
]
CRITERIA = {each.name: each for each in _ALL}


def _centred(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    joint = (a.mean(0) + b.mean(0)) / 2
    return unit_rows(a - joint), unit_rows(b - joint)


def goodness(name: str, values: list[float]) -> np.ndarray:
    """Values of a criterion turned so that larger is better; the worst finite value in place of nan."""
    turned = np.array(values, float) * (1 if CRITERIA[name].larger_is_better else -1)
    finite = np.isfinite(turned)
    least = turned[finite].min() if finite.any() else 0.0
    result: np.ndarray = np.where(finite, turned, least)
    return result
