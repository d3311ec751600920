"""Diffused redundancy from its definition: the grid, principal directions, curves, k* and DR."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

# Training features (N, k), training labels (N,), test features (M, k) -> predictions (M,).
Rule = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def grid(width: int) -> list[int]:
    """1, 2, 4, ... below the width, and the width.

    >>> grid(1), grid(6), grid(8)
    ([1], [1, 2, 4, 6], [1, 2, 4, 8])
    """
    sizes, k = [], 1
    while k < width:
        sizes.append(k)
        k *= 2
    return [*sizes, width]


def principal_directions(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances (D,) and directions (D, D) in columns, the largest variance first."""
    centred = features - features.mean(0)
    covariance = np.zeros((features.shape[1],) * 2)
    for row in centred:
        covariance += np.outer(row, row) / len(features)
    variances, directions = np.linalg.eigh(covariance)
    order = np.argsort(-variances)
    return variances[order], directions[:, order]


def basis_of(train: np.ndarray, kind: str, k: int) -> np.ndarray:
    """The k largest (`principal`) or smallest (`least`) directions of the training rows, (D, k).

    A direction in which the training rows do not vary is a zero: it tells no rule anything.
    """
    variances, directions = principal_directions(train)
    directions = directions * (variances > 1e-10 * variances[0])
    return directions[:, :k] if kind == "principal" else directions[:, ::-1][:, :k]


def projected(train: np.ndarray, rows: np.ndarray, kind: str, k: int) -> np.ndarray:
    """Rows (M, D) in k directions of the training rows."""
    return (rows - train.mean(0)) @ basis_of(train, kind, k)


def accuracies(predicted: np.ndarray, labels: np.ndarray) -> tuple[Fraction, Fraction]:
    """The share of right rows and that of the class with the lowest share; labels of -1 are left out."""
    rows = [(p, y) for p, y in zip(predicted.tolist(), labels.tolist(), strict=True) if y != -1]
    shares = []
    for label in {y for _, y in rows}:
        guesses = [p for p, y in rows if y == label]
        shares.append(Fraction(sum(p == label for p in guesses), len(guesses)))
    return Fraction(sum(p == y for p, y in rows), len(rows)), min(shares)


def nearest_mean(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """A rule that no rotation, reflection or shift of the features changes."""
    names = np.unique(labels[labels != -1])
    means = np.array([train[labels == name].mean(0) for name in names])
    return np.array([names[np.argmin([np.sum((row - mean) ** 2) for mean in means])] for row in test])


def least_k(
    sizes: Sequence[int], draws: Sequence[Sequence[Fraction]], full: Fraction, delta: Fraction, width: int
) -> int:
    """The least k whose mean accuracy over draws is delta * full or more; the width is, by definition.

    In whole numbers, so that an accuracy that equals the threshold reaches it.

    >>> half, most = Fraction(1, 2), Fraction(9, 10)
    >>> least_k([1, 2, 4], [[half, half], [Fraction(4, 5), 1], [0, 0]], Fraction(1), most, 4)
    2
    >>> least_k([1, 2, 4], [[half], [half], [0]], Fraction(1), most, 4)
    4
    """
    for k, values in sorted(zip(sizes, draws, strict=True)):
        if k == width or sum(values, Fraction(0)) / len(values) >= delta * full:
            return k
    return width


def diffused(k: int, width: int) -> float:
    """DR = 1 - k*/d.

    >>> diffused(2, 8), diffused(8, 8)
    (0.75, 0.0)
    """
    return float(1 - Fraction(k, width))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % t interval of the mean of 2, 3 or 5 draws, whose quantiles have closed forms (Shaw 2006).

    >>> [round(end, 3) for end in interval([1.0, 3.0])]  # 2 +- 12.706 * sqrt(2) / sqrt(2)
    [-10.706, 14.706]
    >>> [round(end, 3) for end in interval([0.0, 0.0, 3.0])]  # 1 +- 4.303
    [-3.303, 5.303]
    >>> [round(end, 3) for end in interval([0.0, 0.0, 0.0, 0.0, 5.0])]  # 1 +- 2.776
    [-1.776, 3.776]
    """
    n, mean = len(values), math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    spread = 4 * 0.975 * 0.025
    quantiles = {
        2: math.tan(math.pi * 0.475),
        3: 2 * 0.475 * math.sqrt(2 / spread),
        5: 2 * math.sqrt(math.cos(math.acos(math.sqrt(spread)) / 3) / math.sqrt(spread) - 1),
    }
    half = quantiles[n] * math.sqrt(variance / n)
    return mean - half, mean + half
