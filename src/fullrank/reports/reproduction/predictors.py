"""How well columns of a table predict another column, over all its runs. Torch-free."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fullrank.record import TableEntry
from fullrank.statistics import Estimate, correlations, mean_ranks

DRAWS = 1000
_TOGETHER = 50
MEANING = (
    "Over all runs: Spearman's rank correlation, and R², the squared correlation. In brackets: 95 % of {} "
    "draws of the rows with replacement, each with all its seeds. A correlation need not be a cause."
)


@dataclass(frozen=True)
class Predictor:
    """A column as a predictor: its rank correlation with the target and its R2, None where it is constant."""

    title: str
    rank: Estimate | None
    r2: Estimate | None


def predictors(table: TableEntry) -> list[Predictor]:
    """The predictors that a table names, in its order; none without the key `predicts`."""
    if table.predicts is None:
        return []
    numbers = {title: number for number, title in enumerate(table.columns)}
    target = [row.values[numbers[table.predicts.target]] for row in table.rows]
    return [
        _predictor(title, [row.values[numbers[title]] for row in table.rows], target)
        for title in table.predicts.by
    ]


def predictor_sentence(table: TableEntry) -> str:
    """Which predictors are separated from 0, in a sentence; "" without predictors."""
    found = predictors(table)
    if not found or table.predicts is None:
        return ""
    apart = [each.title for each in found if each.rank is not None and each.rank.separated]
    others = [each.title for each in found if each.rank is not None and not each.rank.separated]
    runs = sum(len(row.seeds) for row in table.rows)
    parts = [f"excludes 0 for {_quoted(apart)}"] if apart else []
    parts += [f"does not exclude 0 for {_quoted(others)}"] if others else []
    if not parts or any(each.rank is not None and each.rank.low is None for each in found):
        return ""
    return (
        f"Predicting {table.predicts.target} over {runs} runs: the interval of the rank correlation "
        f"{', and '.join(parts)}."
    )


def _quoted(titles: Sequence[str]) -> str:
    return ", ".join(f"“{title}”" for title in titles)


def _predictor(title: str, values: Sequence[Sequence[float]], target: Sequence[Sequence[float]]) -> Predictor:
    """Both measures over all runs, with their intervals by bootstrap over rows."""
    together = [np.concatenate(each) for each in (values, target)]
    draws: list[np.ndarray] = []
    if len(values) > 2 and len({len(row) for row in values}) == 1:
        rows = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
        draws = [np.array(each)[rows].reshape(DRAWS, -1) for each in (values, target)]
    rank = _estimate(_rank, together, draws)
    return Predictor(
        title, rank, _estimate(lambda one, other: correlations(one, other) ** 2, together, draws)
    )


def _rank(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    # A few draws at a time, since ranks compare all pairs of runs.
    parts = zip(*(np.array_split(each, -(-len(each) // _TOGETHER)) for each in (one, other)), strict=True)
    return np.concatenate([correlations(mean_ranks(a), mean_ranks(b)) for a, b in parts])


def _estimate(
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
    whole: Sequence[np.ndarray],
    draws: Sequence[np.ndarray],
) -> Estimate | None:
    """A measure of all runs, and the middle 95 % of it over draws; None where a column is constant."""
    mean = float(measure(*(each[None] for each in whole))[0])
    if np.isnan(mean):
        return None
    found = measure(*draws) if draws else np.array([])
    found = found[~np.isnan(found)]
    if len(found) < DRAWS // 2:
        return Estimate(mean)
    low, high = np.quantile(found, [0.025, 0.975]).tolist()
    return Estimate(mean, low, high)
