"""How well columns of a table predict another column, over all its runs. Torch-free."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fullrank.record import TableEntry
from fullrank.statistics import Estimate, rank_correlation

DRAWS = 1000
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
    return Predictor(title, *(_estimate(measure, values, target) for measure in (rank_correlation, _r2)))


def _r2(values: np.ndarray, target: np.ndarray) -> float | None:
    """The squared correlation; None where one of the two is constant."""
    if np.ptp(values) == 0 or np.ptp(target) == 0:
        return None
    return float(np.corrcoef(values, target)[0, 1] ** 2)


def _estimate(
    measure: Callable[[np.ndarray, np.ndarray], float | None],
    values: Sequence[Sequence[float]],
    target: Sequence[Sequence[float]],
) -> Estimate | None:
    """A measure over all runs, with its interval by bootstrap over rows."""
    whole = measure(np.concatenate(values), np.concatenate(target))
    if whole is None:
        return None
    random, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        rows = random.integers(len(values), size=len(values))
        one = measure(*(np.concatenate([part[row] for row in rows]) for part in (values, target)))
        if one is not None:
            found.append(one)
    if len(values) < 3 or len(found) < DRAWS // 2:
        return Estimate(whole)
    low, high = np.quantile(found, [0.025, 0.975]).tolist()
    return Estimate(whole, low, high)
