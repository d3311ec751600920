"""Criteria of a choice without labels, its ranks and its regret, from their definitions, pair by pair."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import ndtr

Kernel = Callable[[np.ndarray, np.ndarray], float]


def unit(row: np.ndarray) -> np.ndarray:
    """A row (D,) of length 1."""
    return row / math.sqrt(math.fsum(row * row))


def infonce_by_image(a: np.ndarray, b: np.ndarray, temperature: float) -> np.ndarray:
    """The InfoNCE of each image (n,), the mean of both directions, of two views (n, D) of n images."""
    n = len(a)
    mean = np.concatenate([a, b]).astype(np.float64).mean(0)
    x, y = [unit(row - mean) for row in a], [unit(row - mean) for row in b]
    losses = np.zeros(n)
    for one, other in ((x, y), (y, x)):
        for i in range(n):
            logits = [math.fsum(one[i] * row) / temperature for row in other]
            top = max(logits)
            losses[i] += (top + math.log(math.fsum(math.exp(v - top) for v in logits)) - logits[i]) / 2
    return losses


def self_cluster(features: np.ndarray) -> float:
    """How far squared cosines of different rows (N, D) exceed those of random directions; 1 for one line."""
    n, d = features.shape
    rows = [unit(row) for row in features.astype(np.float64)]
    total = math.fsum(math.fsum(a * b) ** 2 for a in rows for b in rows)
    expected = n * (n - 1) / d
    return (total - n - expected) / (n * n - n - expected)


def covariance(features: np.ndarray) -> np.ndarray:
    """The covariance (D, D) of rows (N, D), with 1/N."""
    mean = features.astype(np.float64).mean(0)
    return sum(np.outer(row - mean, row - mean) for row in features) / len(features)


def isotropy(features: np.ndarray) -> float:
    """(sum of variances)^2 / sum of squared variances / D, by the traces of C and of C C."""
    c = covariance(features)
    return float(np.trace(c) ** 2 / np.trace(c @ c) / len(c))


def tree_length(rows: np.ndarray) -> float:
    """The length of the shortest tree that joins all rows (N, D), by Prim's algorithm."""
    outside, nearest = list(range(1, len(rows))), {}
    for i in outside:
        nearest[i] = math.dist(rows[0], rows[i])
    total = 0.0
    while outside:
        new = min(outside, key=nearest.__getitem__)
        outside.remove(new)
        total += nearest[new]
        for i in outside:
            nearest[i] = min(nearest[i], math.dist(rows[new], rows[i]))
    return total


def von_neumann(matrix: np.ndarray) -> float:
    """The entropy in nats of the eigenvalues of a positive matrix, divided by their sum."""
    values = np.linalg.eigvalsh(matrix)
    shares = values[values > 1e-14 * values.max()] / values.sum()
    return -math.fsum(share * math.log(share) for share in shares)


def gram(rows: np.ndarray, kernel: Kernel) -> np.ndarray:
    """The kernel of each pair of rows, (N, N)."""
    return np.array([[kernel(a, b) for b in rows] for a in rows])


def dime(a: np.ndarray, b: np.ndarray) -> float:
    """The mean over all permutations of S(A o P B P') less S(A o B), for kernel matrices (N, N)."""
    n = len(a)
    shuffled = [
        von_neumann(a * b[np.ix_(order, order)]) for order in map(list, itertools.permutations(range(n)))
    ]
    return math.fsum(shuffled) / len(shuffled) - von_neumann(a * b)


def ridge_predictions(features: np.ndarray, ids: np.ndarray, fit: np.ndarray, weight: float) -> np.ndarray:
    """The id with the largest output at each row (N,), of a ridge with an intercept that learnt rows `fit`.

    The outputs solve min sum_i |y_i - W x_i - c|^2 + weight |W|^2, over the intercept c as well, which has no
    penalty; y_i is the one-hot id. Solved as one system with a column of ones.
    """
    names = sorted(set(ids.tolist()))
    design = np.column_stack([features[fit], np.ones(len(fit))])
    targets = np.array([[float(ids[i] == name) for name in names] for i in fit])
    penalty = np.diag([weight] * features.shape[1] + [0.0])
    solved = np.linalg.solve(design.T @ design + penalty, design.T @ targets)
    outputs = np.column_stack([features, np.ones(len(features))]) @ solved
    return np.array(names)[outputs.argmax(1)]


def above_majority(predicted: Sequence[int], ids: Sequence[int]) -> float:
    """(accuracy - share of the most frequent id) / (1 - that share)."""
    n, right = len(ids), sum(p == y for p, y in zip(predicted, ids, strict=True))
    most = max(list(ids).count(y) for y in set(ids)) / n
    return (right / n - most) / (1 - most)


def ranks(values: Sequence[float], kept: Sequence[bool]) -> list[float | None]:
    """Ranks from 0 (least) to 1 (most) among the kept values; equal ones share; None for the others."""
    inside = [value for value, keep in zip(values, kept, strict=True) if keep]
    result: list[float | None] = []
    for value, keep in zip(values, kept, strict=True):
        below = sum(other < value for other in inside)
        equal = sum(other == value for other in inside)
        result.append((below + (equal - 1) / 2) / (len(inside) - 1) if keep else None)
    return result


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """The correlation of ranks; ties share."""
    everyone = [True] * len(one)
    a, b = np.array(ranks(one, everyone), float), np.array(ranks(other, everyone), float)
    a, b = a - a.mean(), b - b.mean()
    return float((a @ b) / math.sqrt((a @ a) * (b @ b)))


def expected_maximum(truth: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    r"""E max_i a_i, and the expected truth of the i that is the maximum, of independent a_i ~ N(t_i, s_i^2).

    The second is sum_i t_i P(i is the largest). Their difference is by how much the largest number is too
    high. Both are sums over a fine grid of the density of a_i times the chance that all others lie below.
    """
    t, s = np.array(truth, float), np.array(errors, float)
    grid = np.linspace((t - 9 * s).min(), (t + 9 * s).max(), 4001)
    below = np.array([ndtr((grid - m) / e) for m, e in zip(t, s, strict=True)])
    step, largest, owner = grid[1] - grid[0], 0.0, 0.0
    for i, (m, e) in enumerate(zip(t, s, strict=True)):
        density = np.exp(-0.5 * ((grid - m) / e) ** 2) / (e * math.sqrt(2 * math.pi))
        wins = density * np.delete(below, i, 0).prod(0)
        largest += float((grid * wins).sum() * step)
        owner += float(m * wins.sum() * step)
    return largest, owner


def shrunk(accuracies: Sequence[float], errors: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each truth, given noisy numbers and a normal spread of the truths.

    The variance of the truths is that of the numbers (with 1/(m - 1)) less the mean squared error, 0 or more.
    """
    a, s = np.array(accuracies, float), np.array(errors, float)
    middle = a.mean()
    between = max(0.0, ((a - middle) ** 2).sum() / (len(a) - 1) - (s**2).mean())
    share = between / (between + s**2)
    return middle + share * (a - middle), np.sqrt(share) * s


def corrected_best(accuracies: Sequence[float], errors: Sequence[float]) -> float:
    """The expected largest truth, given noisy numbers and a normal spread of the truths."""
    means, deviations = shrunk(accuracies, errors)
    return expected_maximum(means, deviations)[0] if deviations.all() else float(means.max())


def entropy_of(counts: Sequence[int]) -> float:
    """The entropy in nats of counts."""
    total = sum(counts)
    return -math.fsum(c / total * math.log(c / total) for c in counts if c)


def mutual_information_share(one: Sequence[int], other: Sequence[int]) -> float:
    """The mutual information of two clusterings over the mean of their entropies."""
    pairs = list(zip(one, other, strict=True))
    h_a = entropy_of([list(one).count(v) for v in set(one)])
    h_b = entropy_of([list(other).count(v) for v in set(other)])
    h_ab = entropy_of([pairs.count(pair) for pair in set(pairs)])
    return (h_a + h_b - h_ab) / ((h_a + h_b) / 2)
