"""Corrections from their definitions: MMD within classes, difference of means, LEACE, the correction head."""

import math
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np

SCALES = (1, 2, 4, 8)


def median_distance(features: np.ndarray, labels: np.ndarray, values: np.ndarray) -> float:
    """The median distance of all pairs i < j of rows whose label and value are known."""
    rows = [x for x, y, v in zip(features, labels, values, strict=True) if y != -1 and v != -1]
    distances = sorted(math.dist(a, b) for a, b in combinations(rows, 2))
    middle = len(distances) // 2
    if len(distances) % 2:
        return distances[middle]
    return (distances[middle - 1] + distances[middle]) / 2 if distances else 0.0


def kernel(x: np.ndarray, y: np.ndarray, m: float) -> float:
    """The mean of four Gaussians whose widths are multiples of m."""
    return sum(math.exp(-(math.dist(x, y) ** 2) / (2 * (s * m) ** 2)) for s in SCALES) / len(SCALES)


def squared_mmd(u: np.ndarray, v: np.ndarray, m: float) -> float:
    """The unbiased estimate: no row is compared with itself.

    >>> one = np.array([[0.0], [0.0]])
    >>> squared_mmd(one, one, 1.0)
    0.0
    >>> squared_mmd(one, one + 1e9, 1.0)
    2.0
    """
    within = [
        np.mean([kernel(rows[i], rows[j], m) for i, j in product(range(len(rows)), repeat=2) if i != j])
        for rows in (u, v)
    ]
    return float(within[0] + within[1] - 2 * np.mean([kernel(x, y, m) for x in u for y in v]))


def within_class_mmd(
    features: np.ndarray, labels: np.ndarray, values: np.ndarray, median: float | None = None
) -> float:
    """The mean of MMD^2 over every class and pair of values that have two rows or more each in the class.

    `median` fixes the bandwidth, as the detached median does when one differentiates.
    """
    m = median_distance(features, labels, values) if median is None else median
    if m == 0:
        return 0.0
    found = []
    for c in sorted(set(labels.tolist()) - {-1}):
        groups = [features[(labels == c) & (values == v)] for v in sorted(set(values.tolist()) - {-1})]
        for u, v in combinations([rows for rows in groups if len(rows) >= 2], 2):
            found.append(squared_mmd(u, v, m))
    return sum(found) / len(found) if found else 0.0


def mmd_gradient(features: np.ndarray, labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The slope of `within_class_mmd` at each entry with the bandwidth held, by a five-point difference."""
    m, gradient = median_distance(features, labels, values), np.zeros_like(features)
    step = 1e-3 * m
    for index in np.ndindex(*features.shape):
        ends = []
        for times in (-2, -1, 1, 2):
            moved = features.copy()
            moved[index] += times * step
            ends.append(within_class_mmd(moved, labels, values, m))
        gradient[index] = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step) if m else 0.0
    return gradient


def mean_differences(features: np.ndarray, labels: np.ndarray, values: np.ndarray) -> dict[int, np.ndarray]:
    """Value v -> mean over classes c of mu_{c,v} minus the mean over v' of mu_{c,v'}.

    A class that lacks a value has no such mean and is left out.
    """
    known = (labels != -1) & (values != -1)
    names, shifts = sorted(set(values[known].tolist())), []
    for c in sorted(set(labels[known].tolist())):
        groups = [features[known & (labels == c) & (values == v)] for v in names]
        if all(len(rows) for rows in groups):
            means = [rows.sum(0) / len(rows) for rows in groups]
            shifts.append([mean - sum(means) / len(means) for mean in means])
    return {v: sum(each[i] for each in shifts) / len(shifts) for i, v in enumerate(names)}


def moments(
    features: np.ndarray, cues: Sequence[np.ndarray], classes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (D,), Cov(x) (D, D) and Cov(x, onehot(v)) (D, V), with 1/N over rows of which all is known.

    Several cues have the columns of all of them. With classes (N,), covariances are within classes.
    """
    columns = [*cues] if classes is None else [*cues, classes]
    known = np.all([column != -1 for column in columns], 0)
    x = features[known].copy()
    pairs = [(cue[known], name) for cue in cues for name in sorted({*cue[known].tolist()})]
    shown = np.array([[float(v == name) for v in values] for values, name in pairs]).T
    mean = x.sum(0) / len(x)
    groups = np.zeros(len(x)) if classes is None else classes[known]
    for c in set(groups.tolist()):
        for part in (x, shown):
            part[groups == c] -= part[groups == c].sum(0) / np.sum(groups == c)
    covariance, cross = np.zeros((x.shape[1],) * 2), np.zeros((x.shape[1], shown.shape[1]))
    for row, flags in zip(x, shown, strict=True):
        covariance += np.outer(row, row) / len(x)
        cross += np.outer(row, flags) / len(x)
    return mean, covariance, cross


def leace(
    features: np.ndarray, cues: Sequence[np.ndarray], classes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and P (D, D) of r(x) = mean + P (x - mean): P = I - W^+ Q W by eigen-decomposition."""
    mean, covariance, cross = moments(features, cues, classes)
    spectrum, vectors = np.linalg.eigh(covariance)
    live = spectrum > 1e-10 * spectrum.max()
    whiten = (vectors[:, live] / np.sqrt(spectrum[live])) @ vectors[:, live].T
    unwhiten = (vectors[:, live] * np.sqrt(spectrum[live])) @ vectors[:, live].T
    left, sizes, _ = np.linalg.svd(whiten @ cross, full_matrices=False)
    left = left[:, sizes > 1e-7]
    return mean, np.eye(len(mean)) - unwhiten @ left @ left.T @ whiten


def leace_by_lagrange(
    features: np.ndarray, cues: Sequence[np.ndarray], classes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The same from the problem that LEACE solves: least E|r(x) - x|^2 with Cov(r(x), onehot(v)) = 0.

    For a row b of P - I: minimise b^T S b where C^T (b + e) = 0, that is 2 S b + C l = 0 and C^T b = -C^T e.
    Where S is singular, the shortest b leaves alone what does not vary.
    """
    mean, covariance, cross = moments(features, cues, classes)
    width, count = cross.shape
    system = np.block([[2 * covariance, cross], [cross.T, np.zeros((count, count))]])
    right = np.vstack([np.zeros((width, width)), -cross.T])
    rows = np.linalg.lstsq(system, right, rcond=1e-10)[0][:width]
    return mean, np.eye(width) + rows.T


def corrected_by(erasure: tuple[np.ndarray, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """r(x) of each row."""
    mean, matrix = erasure
    return np.array([mean + matrix @ (row - mean) for row in rows])


def correction_vectors(
    rows: np.ndarray, w1: np.ndarray, b1: np.ndarray, w2: np.ndarray, b2: np.ndarray
) -> np.ndarray:
    """w(h) = W2 relu(W1 h + b1) + b2 of each row; z = h + w(h)."""
    return np.array([w2 @ np.array([max(value, 0.0) for value in w1 @ h + b1]) + b2 for h in rows])


def effect(vectors: np.ndarray, groups: np.ndarray) -> tuple[dict, dict, float, float]:
    """Group -> mean of w_j and of |w_j|; the shares of mean |w|^2 that are common to all and between groups.

    Total = common + between + within: the squared mean of all rows, the variance of the groups' means, and
    the rest, which is summed here row by row so that the second share follows from the others.
    """
    rows, numbers = vectors[groups != -1], groups[groups != -1]
    means = {g: sum(rows[numbers == g]) / np.sum(numbers == g) for g in sorted(set(numbers.tolist()))}
    sizes = {g: sum(np.abs(rows[numbers == g])) / np.sum(numbers == g) for g in means}
    power = sum(row @ row for row in rows)
    middle = sum(rows) / len(rows)
    within = sum((row - means[g]) @ (row - means[g]) for row, g in zip(rows, numbers.tolist(), strict=True))
    common = len(rows) * (middle @ middle) / power
    return means, sizes, common, 1 - common - within / power
