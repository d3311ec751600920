"""Accuracies of two sets of features on the same rows, and whether they differ by more than chance."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from fullrank.diagnosis.layers import Labels
from fullrank.errors import DataError, UsageError
from fullrank.linalg import shared_coordinates
from fullrank.probes import LinearProbe, NearestProbe
from fullrank.probes.linear import refitted
from fullrank.probes.probe import label_vector
from fullrank.probes.recall import ranked_queries
from fullrank.record import PairedScore

DRAWS = 2000
# A smaller difference is no difference: average precisions differ a little in every copy of a file.
ROUNDED = 0.001
# An interval over fewer test rows is not reliable.
LEAST_TESTED = 20
SCORES = ("linear", "nearest", "recall_at_1", "mean_average_precision")
# In retrieval each row is a query and is searched. Draws of queries show a part of the standard error: half
# for a mean over pairs (Hoeffding 1948), more for recall, since a row is the nearest of about one other row.
_WIDER = np.array([1.0, 1.0, 2.0**0.5, 2.0])
# Parts of a set for cross-validation: each is scored once by probes of the others.
_FOLDS = 5
# Cross-validation needs so many labelled rows.
LEAST_FOLDED = _FOLDS * LEAST_TESTED
# Bootstrap weights in memory at once: 2^22 numbers are 32 MiB.
_WEIGHTS = 2**22


@dataclass(frozen=True, eq=False)
class RowScores:
    """What each test row scores, 0 to 1.

    Attributes:
        values: One column for each of `SCORES`, (M, 4), float64; NaN where a row has nothing to find.
    """

    values: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """The accuracies, (4,); NaN where no row has anything to find."""
        return _means(self.values)


def row_scores(train: Tensor, test: Tensor, labels: Labels, *, seed: int = 0) -> RowScores:
    """Whether probes and retrieval are right about each labelled test row.

    Probes follow their default protocol; retrieval is among the test rows. The means are those of
    `layer_rows`.

    Args:
        train: Features (N, D) to learn from.
        test: Features (M, D) to score.
        labels: The labels of both, -1 where unlabelled.
        seed: The seed of the linear probe.

    Raises:
        FullrankError: What probes raise.

    >>> x, y = torch.eye(3).repeat(8, 1), torch.arange(24) % 3
    >>> row_scores(x, x, (y, y)).means
    array([1., 1., 1., 1.])
    """
    learnt, tested = map(label_vector, labels)
    train, test = shared_coordinates(train, test[tested != -1])
    tested = tested[tested != -1]
    probes = LinearProbe(seed=seed), NearestProbe()
    right = [probe.fit(train, learnt).predict(test).cpu() == tested for probe in probes]
    return RowScores(np.column_stack([*(each.double() for each in right), _retrieved(test, tested)]))


def _retrieved(test: Tensor, labels: Tensor) -> np.ndarray:
    """Recall at 1 and average precision of each row among the others, (M, 2)."""
    found = np.full((len(labels), 2), np.nan)
    try:
        ranked = ranked_queries(test, labels)
    except DataError:  # no label occurs twice
        return found
    found[ranked.queries.cpu(), 0] = (ranked.first == 1).double().cpu()
    found[ranked.queries.cpu(), 1] = ranked.precision.cpu()
    return found


def paired_scores(
    rows: Mapping[tuple[str, str], tuple[RowScores, RowScores]], *, draws: int = DRAWS, seed: int = 0
) -> list[PairedScore]:
    r"""The scores of two targets on the same test rows, and their differences with intervals.

    The bootstrap draws the same test rows for both and for all scores. `low` and `high` are the percentiles
    2.5 and 97.5 of the differences. `apart` uses an interval that holds for all scores together,

    .. math:: d_s \pm c \, \mathrm{se}_s, \qquad
              c = \text{the 95th percentile of } \max_s |d_s^* - d_s| / \mathrm{se}_s

    with d* the difference in a draw and se its standard deviation over the draws. A difference below 0.001 is
    not `apart`. Because rows are also searched, intervals are wider than the draws: by the root of 2 for
    recall, and by 2 for the average precision.

    - The noise of training either target is not in it, nor is that of the rows that probes learn from.

    Args:
        rows: What each test row scores, now and before, by place now and place before.
        draws: The number of draws.
        seed: The seed of the draws.

    Raises:
        UsageError: The rows of two targets are not as many.

    >>> before = RowScores(np.tile([[0.0], [1.0]], (50, 4)))
    >>> score = paired_scores({("h", "h"): (RowScores(np.ones((100, 4))), before)})[0]
    >>> score.name, score.difference, score.apart
    ('linear', 0.5, True)

    Source: the simultaneous interval of the largest t, Romano and Wolf 2005 (Econometrica 73).
    """
    if not rows:
        return []
    counts = sorted({len(side.values) for sides in rows.values() for side in sides})
    if len(counts) > 1:
        raise UsageError(f"Scores must be of the same test rows, but got {counts[0]} and {counts[-1]} rows.")
    now, before = (np.hstack([sides[side].values for sides in rows.values()]) for side in (0, 1))
    difference = _means(now) - _means(before)
    # Swapped targets have the negative draws.
    sign = np.sign(difference[np.flatnonzero(difference)[:1]]).sum() or 1.0
    drawn = sign * _drawn_differences(sign * (now - before), draws, seed)
    drawn = difference + np.tile(_WIDER, len(rows)) * (drawn - difference)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    errors = drawn.std(0)
    sizes = np.abs(drawn - np.nan_to_num(difference)) / np.where(errors > 0, errors, np.inf)
    least = np.maximum(np.quantile(sizes.max(1), 0.95) * errors, ROUNDED)
    apart = (np.abs(difference) > least) & ((low > 0) | (high < 0))
    names = [(place, against, name) for place, against in rows for name in SCORES]
    return [
        PairedScore(
            place=place,
            against=against,
            name=name,
            now=float(_means(now)[s]),
            before=float(_means(before)[s]),
            difference=float(difference[s]),
            low=float(low[s]),
            high=float(high[s]),
            tested=int(np.isfinite(now[:, s]).sum()),
            apart=bool(apart[s]),
        )
        for s, (place, against, name) in enumerate(names)
        if np.isfinite(difference[s])
    ]


@dataclass(frozen=True, eq=False)
class _Folds:
    """The accuracies of one set in each part, (5, 4), and how many rows were scored."""

    values: np.ndarray
    tested: int

    @property
    def variance(self) -> np.ndarray:
        """The variance of the mean over other rows to learn from and to score, (4,)."""
        spread: np.ndarray = self.values.var(0, ddof=1) * (1 / _FOLDS + 1 / (_FOLDS - 1))
        return spread


def unpaired_scores(
    now: tuple[Tensor, Tensor], before: tuple[Tensor, Tensor], *, place: str = "embedding", seed: int = 0
) -> list[PairedScore]:
    r"""The scores of two sets of unlike rows, by cross-validation in 5 parts of each.

    Each part is scored by probes of the other four, and searches these for its label. With s the standard
    deviation over the J parts,

    .. math:: \mathrm{se}^2 = \Big(\frac1J + \frac1{J - 1}\Big) (s_x^2 + s_y^2)

    The second term is for rows that several probes learn from. For retrieval se is larger, as in
    `paired_scores`. Intervals are of Student's t with 2J - 2 degrees of freedom, and `apart` is Bonferroni's
    over the scores.

    Args:
        now: Features (N, D) and labels (N,) of one set. Both sets should have as many rows, because
            accuracies grow with the rows to learn from.
        before: Features (M, E) and labels (M,) of the other set.
        place: The name of the place, for the record.
        seed: The seed of the parts and of the linear probe.

    Raises:
        FullrankError: What probes raise.

    >>> x, y = torch.eye(3).repeat(40, 1), torch.arange(120) % 3
    >>> [score.apart for score in unpaired_scores((x, y), (2 * x, y))]
    [False, False, False, False]

    Source: the corrected variance of Nadeau and Bengio 2003 (Machine Learning 52).
    """
    folds = [_in_folds(*side, seed) for side in (now, before)]
    values = [each.values.mean(0) for each in folds]
    differences = values[0] - values[1]
    errors = _WIDER * np.sqrt(folds[0].variance + folds[1].variance)
    free = 2 * _FOLDS - 2
    half, wide = (stdtrit(free, 1 - level / 2) * errors for level in (0.05, 0.05 / len(SCORES)))
    return [
        PairedScore(
            place=place,
            against=place,
            name=name,
            now=float(values[0][s]),
            before=float(values[1][s]),
            difference=float(differences[s]),
            low=float(differences[s] - half[s]),
            high=float(differences[s] + half[s]),
            tested=min(each.tested for each in folds),
            paired=False,
            apart=bool(abs(differences[s]) > max(wide[s], ROUNDED)),
        )
        for s, name in enumerate(SCORES)
    ]


def _in_folds(features: Tensor, labels: Tensor, seed: int) -> _Folds:
    labels = label_vector(labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    linear: LinearProbe | None = None
    means = []
    for part in order.tensor_split(_FOLDS):
        rest = torch.ones(len(labels), dtype=torch.bool)
        rest[part] = False
        train, test = shared_coordinates(features[rest], features[part])
        learnt, tested = labels[rest], labels[part]
        linear = refitted(linear, train, learnt) if linear else LinearProbe(seed=seed).fit(train, learnt)
        ranked = ranked_queries(test, tested, train, learnt)
        means.append(
            [
                linear.score(test, tested),
                NearestProbe().fit(train, learnt).score(test, tested),
                float((ranked.first == 1).double().mean()),
                float(ranked.precision.mean()),
            ]
        )
    return _Folds(np.array(means), len(labels))


def _means(values: np.ndarray) -> np.ndarray:
    """The mean of each column over rows that have something to find; NaN where none has."""
    scored = np.isfinite(values)
    count = scored.sum(0)
    total = np.where(scored, values, 0.0).sum(0)
    means: np.ndarray = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return means


def _drawn_differences(difference: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """The mean differences (draws, S) of bootstrap draws of rows (M, S), whatever the order of rows."""
    ordered = difference[np.lexsort(np.nan_to_num(difference, nan=2.0).T)]
    scored = np.isfinite(ordered)
    sums = np.hstack([np.where(scored, ordered, 0.0), scored])
    generator, count = np.random.default_rng(np.random.SeedSequence([seed])), len(sums)
    means = []
    for start in range(0, draws, step := max(1, _WEIGHTS // count)):
        some = min(step, draws - start)
        picked = generator.integers(0, count, (some, count)) + count * np.arange(some)[:, None]
        weights = np.bincount(picked.ravel(), minlength=some * count).reshape(some, count)
        total, number = np.hsplit(weights @ sums, 2)
        means.append(np.divide(total, number, out=np.zeros_like(total), where=number > 0))
    return np.concatenate(means)
