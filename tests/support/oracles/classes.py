"""Accuracy by class from its definition: counts, extremes, spread, correlations, nearest class mean."""

import math
from collections.abc import Mapping, Sequence


def counts(predicted: Sequence[int], labels: Sequence[int]) -> dict[int, tuple[int, int, int, int]]:
    """Class -> its rows, right ones among them, predictions of it, and false positives; -1 is unlabelled.

    >>> counts([0, 1, 1, 1, 2], [0, 0, 1, -1, 0])
    {0: (3, 1, 1, 0), 1: (1, 1, 2, 1)}
    """
    rows = [(p, y) for p, y in zip(predicted, labels, strict=True) if y != -1]
    result = {}
    for c in sorted({y for _, y in rows}):
        n = right = guessed = wrong = 0
        for p, y in rows:
            n += y == c
            right += y == c and p == c
            guessed += p == c
            wrong += y != c and p == c
        result[c] = (n, right, guessed, wrong)
    return result


def accuracy(predicted: Sequence[int], labels: Sequence[int]) -> dict[int, float]:
    """Class -> a_c."""
    return {c: right / n for c, (n, right, _, _) in counts(predicted, labels).items()}


def bias(predicted: Sequence[int], labels: Sequence[int]) -> dict[int, float]:
    """Class -> b_c = predictions of c over rows of c."""
    return {c: guessed / n for c, (n, _, guessed, _) in counts(predicted, labels).items()}


def false_positives(predicted: Sequence[int], labels: Sequence[int]) -> dict[int, int]:
    """Class -> rows predicted as c that are not of c."""
    return {c: wrong for c, (_, _, _, wrong) in counts(predicted, labels).items()}


def errors(predicted: Sequence[int], labels: Sequence[int]) -> dict[int, float]:
    """Class -> sqrt(a_c (1 - a_c) / n_c)."""
    table = counts(predicted, labels)
    return {c: math.sqrt((r / n) * (1 - r / n) / n) for c, (n, r, _, _) in table.items()}


def ranked(shares: Mapping[int, float]) -> list[float]:
    """The accuracies in ascending order."""
    return sorted(shares.values())


def extremes(classes: int) -> int:
    """Classes at each end: 2 of 10, 5 of 100, 1 of 2 or 3.

    >>> [extremes(c) for c in (1, 2, 3, 4, 10, 60, 100, 1000)]
    [1, 1, 1, 2, 2, 3, 5, 50]
    """
    # C / 20 rounded to the nearest whole number; halves (C = 10, 30, 50) as Python's round, to the even one.
    below, rest = divmod(classes, 20)
    nearest = below + (rest > 10 or (rest == 10 and below % 2 == 1))
    return max(1, min(classes // 2, max(2, nearest)))


def worst_group(shares: Mapping[int, float]) -> float:
    """Mean accuracy of the worst classes."""
    m = extremes(len(shares))
    return math.fsum(ranked(shares)[:m]) / m


def best_group(shares: Mapping[int, float]) -> float:
    """Mean accuracy of the best classes."""
    m = extremes(len(shares))
    return math.fsum(ranked(shares)[-m:]) / m


def spread(shares: Mapping[int, float]) -> float:
    """Standard deviation over classes, with 1/C."""
    values = list(shares.values())
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def pearson(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Correlation of two lists; None below three entries or where one list is constant.

    >>> pearson([1, 2, 3], [2, 4, 6]), pearson([1, 2, 3], [1, 1, 1]), pearson([1, 2], [2, 1])
    (1.0, None, None)
    """
    if len(one) < 3 or len(set(one)) == 1 or len(set(other)) == 1:
        return None
    a, b = math.fsum(one) / len(one), math.fsum(other) / len(other)
    both = math.fsum((x - a) * (y - b) for x, y in zip(one, other, strict=True))
    return both / math.sqrt(math.fsum((x - a) ** 2 for x in one) * math.fsum((y - b) ** 2 for y in other))


def average_ranks(values: Sequence[float]) -> list[float]:
    """Rank from 1; equal values share the mean of their ranks.

    >>> average_ranks([0.5, 0.1, 0.5, 0.9])
    [2.5, 1.0, 2.5, 4.0]
    """
    ranks = []
    for value in values:
        below = sum(other < value for other in values)
        equal = sum(other == value for other in values)
        ranks.append(below + (1 + equal) / 2)
    return ranks


def agreement(one: Mapping[int, float], other: Mapping[int, float]) -> float | None:
    """Spearman correlation over the classes in both."""
    shared = sorted(set(one) & set(other))
    return pearson(average_ranks([one[c] for c in shared]), average_ranks([other[c] for c in shared]))


def sampling_spread(shares: Sequence[float], sizes: Sequence[int]) -> float:
    """The bound of the spread of 3 equally hard classes; chi-square with 2 degrees has P(x > q) = e^(-q/2).

    The spread's square times C over the mean variance a (1 - a) / n has that distribution.
    """
    mean = math.fsum(a * n for a, n in zip(shares, sizes, strict=True)) / sum(sizes)
    variance = math.fsum(mean * (1 - mean) / n for n in sizes) / 3
    return math.sqrt(-2 * math.log(0.05) / 3 * variance)


def nearest_mean(
    train: Sequence[Sequence[float]], labels: Sequence[int], test: Sequence[Sequence[float]]
) -> list[int]:
    """The class whose mean is nearest to each test row; of equally near ones the smallest.

    >>> nearest_mean([[0.0], [2.0], [10.0], [99.0]], [0, 0, 1, -1], [[4.0], [9.0], [5.5]])
    [0, 1, 0]
    """
    means = {}
    for c in sorted(set(labels) - {-1}):
        rows = [row for row, y in zip(train, labels, strict=True) if y == c]
        means[c] = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
    return [
        min(means, key=lambda c: math.fsum((x - m) ** 2 for x, m in zip(row, means[c], strict=True)))
        for row in test
    ]
