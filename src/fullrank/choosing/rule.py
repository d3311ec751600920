"""The rule: ranks of the parts, their weighted mean, ties by default, and a shortlist. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fullrank.choosing.candidates import Candidate
from fullrank.choosing.parts import DIMENSION, STRUCTURE, Part
from fullrank.specs import Spec
from fullrank.statistics import mean_ranks

# A normal variable is above its mean by one standard deviation or more in this share of draws.
_ONE_ERROR = 0.16
# Less than this share of the median structure is nearly none.
_LEAST_SHARED = 0.5
# The part that is ranked a second time, among the places of the same run, and what that rank is called.
WITHIN_RUN = "dimension in its run"
# How many candidates are on the shortlist.
SHORTLIST = 3


@dataclass(frozen=True, eq=False)
class Ranking:
    """The scores of C candidates, and those in B bootstrap samples of the images.

    Attributes:
        parts: Name of a part -> the rank of each candidate in it, (C,), from 0 (worst) to 1 (best).
        scores: The weighted mean of the ranks, (C,).
        drawn: The scores in each sample, (B, C).
        tied: Whether the score of each candidate cannot be told from the best one, (C,).
    """

    parts: Mapping[str, np.ndarray]
    scores: np.ndarray
    drawn: np.ndarray
    tied: np.ndarray


def relative_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks (..., C) from 0 (least) to 1 (most) along the last axis; equal values share their mean rank.

    >>> relative_ranks(np.array([3.0, 1.0, 2.0, 2.0])).tolist()
    [1.0, 0.0, 0.5, 0.5]
    >>> relative_ranks(np.array([7.0])).tolist()
    [1.0]
    """
    count = values.shape[-1]
    if count == 1:
        return np.ones_like(values, dtype=float)
    ranks: np.ndarray = (mean_ranks(values) - 1) / (count - 1)
    return ranks


def ranks_within(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Ranks (..., C) from 0 to 1 among the candidates of the same group; one alone has 0.5.

    >>> ranks_within(np.array([1.0, 9.0, 5.0, 4.0]), np.array(["a", "a", "b", "c"])).tolist()
    [0.0, 1.0, 0.5, 0.5]
    """
    ranks = np.full(values.shape, 0.5)
    for group in np.unique(groups):
        own = groups == group
        if own.sum() > 1:
            ranks[..., own] = relative_ranks(values[..., own])
    return ranks


def weighted_scores(ranks: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """The weighted mean (..., C) of the ranks of parts; parts without a rank are left out.

    >>> weighted_scores({"a": np.array([0.0, 1.0]), "b": np.array([1.0, 0.0])}, {"a": 3, "b": 1}).tolist()
    [0.25, 0.75]
    """
    total = sum(weights[name] for name in ranks)
    scores: np.ndarray = sum(weights[name] * ranks[name] for name in ranks) / total  # type: ignore[assignment]
    return scores


def image_weights(images: int, samples: int, seed: int) -> np.ndarray:
    """How often each of N images is in each of B bootstrap samples of N images, (B, N)."""
    generator = np.random.default_rng(seed)
    weights: np.ndarray = generator.multinomial(images, np.full(images, 1 / images), size=samples)
    return weights.astype(float)


def rank(
    parts: Sequence[Part],
    weights: Mapping[str, float],
    candidates: Sequence[Candidate],
    images: int,
    *,
    samples: int,
    seed: int = 0,
) -> Ranking:
    r"""Score candidates, and score them again in bootstrap samples of the images.

    .. math:: \mathrm{score}_c = \frac{\sum_p w_p\, \mathrm{rank}_p(c)}{\sum_p w_p}

    Each part is ranked among all candidates, and the dimension also among the places of the same run. All
    ranks are from 0 to 1. Noise has many dimensions, so where a candidate has less than half of the median
    structure, its dimension counts as the least. A candidate is tied with the best one if it does as well or
    better in 16 % of the samples or more: one standard error of a normal difference.

    Args:
        parts: The parts of the score.
        weights: Name of a part -> its weight.
        candidates: The candidates, C.
        images: The number N of images.
        samples: The number B of bootstrap samples.
        seed: The seed of the samples.
    """
    runs = np.array([each.run for each in candidates])

    shared = next((part.values for part in parts if part.name == STRUCTURE), np.zeros(len(runs)))
    alone = shared < _LEAST_SHARED * np.median(shared)

    def ranks_of(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if DIMENSION in values:
            values = {**values, DIMENSION: np.where(alone, -np.inf, values[DIMENSION])}
        ranks = {name: relative_ranks(each) for name, each in values.items()}
        if DIMENSION in values:
            ranks[WITHIN_RUN] = ranks_within(values[DIMENSION], runs)
        return ranks

    ranks = ranks_of({part.name: part.values for part in parts})
    scores = weighted_scores(ranks, weights)
    drawn_weights = image_weights(images, samples, seed)
    drawn = weighted_scores(ranks_of({part.name: part.resampled(drawn_weights) for part in parts}), weights)
    best = int(scores.argmax())
    tied = (drawn >= drawn[:, [best]]).mean(0) >= _ONE_ERROR
    return Ranking(ranks, scores, drawn, tied)


def in_order(ranking: Ranking, defaults: np.ndarray, ties: bool = True) -> np.ndarray:
    """The numbers of the candidates, the best first; tied ones come first, in the default order.

    Args:
        ranking: The scores.
        defaults: The position of each candidate in the default order, (C,); the least is preferred.
        ties: Whether the default order breaks ties. Otherwise only equal scores follow it.
    """
    tied = ranking.tied if ties else np.zeros(len(defaults), bool)
    preferred = np.where(tied, defaults, 0)
    order: np.ndarray = np.lexsort((defaults, -ranking.scores, preferred, ~tied))
    return order


def shortlist(order: Sequence[int], candidates: Sequence[Candidate], size: int = SHORTLIST) -> list[int]:
    """The first candidate, then the next ones that differ from all listed ones in place and in recipe.

    Three seeds of one recipe at one place are one idea. If there are too few such candidates, those that
    differ in one of the two follow, then any.

    Args:
        order: The numbers of the candidates, the best first.
        candidates: The candidates.
        size: How many are listed at most.
    """
    listed: list[int] = []

    def differs(number: int, least: int) -> bool:
        one = candidates[number]
        return all(
            (one.place != other.place) + (one.recipe != other.recipe) >= least
            for other in (candidates[each] for each in listed)
        )

    for least in (2, 1, 0):
        for number in order:
            if len(listed) < size and number not in listed and differs(number, least):
                listed.append(int(number))
    return listed


def default_order(candidates: Sequence[Candidate], heads: Sequence[str]) -> np.ndarray:
    """The position of each candidate in the default order: h first, then its neighbours, then by head.

    Args:
        candidates: The candidates.
        heads: Names of heads, the one that leads on average first, with ",norm=batch" where they have it.
    """
    h = {each.run: each.depth for each in candidates if each.place == "h"}

    def key(number: int) -> tuple[float, bool, int, int]:
        one = candidates[number]
        from_h = one.depth - h.get(one.run, one.depth)
        family = "" if one.head is None else head_family(one.head)
        standing = heads.index(family) if family in heads else len(heads)
        return abs(from_h), from_h > 0, standing, number

    order = sorted(range(len(candidates)), key=key)
    positions = np.empty(len(order), int)
    positions[order] = np.arange(len(order))
    return positions


def head_family(head: Spec) -> str:
    """The name of a head without its value, and whether it standardises first.

    >>> from fullrank.heads import HEADS
    >>> head_family(HEADS.parse("mlp:48,norm=batch")), head_family(HEADS.parse("subvector:24"))
    ('mlp,norm=batch', 'subvector')
    """
    return f"{head.name},norm=batch" if dict(head.options).get("norm") == "batch" else head.name
