"""The criteria of a choice without labels, each a number for every candidate of a pool."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fullrank.choosing.candidates import Candidate, Pool
from fullrank.choosing.frozen import settings
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
        name: The name; `fullrank.record.criteria.CRITERIA_TEXTS` says what is known about it.
        measure: The value of each candidate of a pool; nan where it cannot be measured.
        needs_views: Whether it needs views.
    """

    name: str
    measure: Callable[[Pool], list[float]]
    needs_views: bool = False

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
    rule = settings()
    clusters = rule.clusters_of(len(pool.ids))
    values: list[float] = structure(
        pool, clusters=clusters, few=rule.few, penalty=rule.penalty
    ).values.tolist()
    return values


def _learnability(features: Tensor) -> float:
    return cluster_learnability(features, max(5, int(math.sqrt(min(len(features), _ROWS)))), sample=_ROWS)


_ALL = [
    Criterion("rankme", _clean(rankme)),
    Criterion("effective_rank", _clean(effective_rank)),
    Criterion("participation_ratio", _clean(participation_ratio)),
    Criterion("isotropy", _clean(isotropy_ratio)),
    Criterion("alpha_req", _clean(_alpha)),
    Criterion("gride", _clean(lambda x: gride(x, 4, 8, sample=_ROWS).value)),
    Criterion("two_nn", _clean(lambda x: two_nn(x, sample=_ROWS).value)),
    Criterion("mst_dimension", _clean(mst_dimension)),
    Criterion("self_cluster", _clean(self_cluster)),
    Criterion("uniformity", _clean(lambda x: uniformity(x, sample=_ROWS))),
    Criterion("cluster_learnability", _clean(_learnability)),
    Criterion("alignment", _pair(lambda a, b: alignment(*_centred(a, b))), needs_views=True),
    Criterion("infonce", _pair(infonce_at_place), needs_views=True),
    Criterion("view_recall", _pair(lambda a, b: float(recalled_views(a, b).mean())), needs_views=True),
    Criterion("dime", _pair(dime), needs_views=True),
    Criterion("lidar", _each(lambda one: lidar(views_of(one).transpose(0, 1))), needs_views=True),
    Criterion("cluster_predictability", _predictability),
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
