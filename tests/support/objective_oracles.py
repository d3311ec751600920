"""The objectives of today's methods in plain NumPy, written from the papers before their code was seen.

Everything is float64. Nothing is differentiated here: `slope` takes finite differences of a value. What an
objective holds constant in its gradient is an argument of its own, so that finite differences hold it too.

`z` is (V, N, K), the embeddings of V views, of which the first `global_views` are global. Where the papers
leave a choice, this is the one of our documentation:

1. A loss of views is the mean over pairs of views, and not their sum. One of the two is global.
2. SIGReg and its relatives are means over views. The covariance of Weak-SIGReg is over N - 1.
3. VISReg has the defaults of its paper for large data, and divides by deviations that have no gradient.
4. A predictor has the batch statistics of one view.
5. The negatives of a queue are its rows alone. All global views of a step enter it, one after the other.
6. KoLeo is summed over the global views, as DINOv2 does.
7. Whitening shrinks a covariance over N towards its own mean eigenvalue, and adds 1e-5.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Rows = np.ndarray


def slope(value: Callable[[Rows], float], at: Rows, step: float = 1e-5) -> Rows:
    """The gradient of `value` by central differences, one coordinate after the other."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        ahead, behind = at.copy(), at.copy()
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (value(ahead) - value(behind)) / (2 * step)
    return gradient


def unit(x: Rows) -> Rows:
    """Rows at length 1."""
    return np.stack([row / math.sqrt(float(row @ row)) for row in x])


def both_ways(views: int, global_views: int) -> list[tuple[int, int]]:
    """(v, w): view v predicts global view w, another one."""
    return [(v, w) for v in range(views) for w in range(global_views) if v != w]


def one_way(views: int, global_views: int) -> list[tuple[int, int]]:
    """Each pair of views once, with a global view first."""
    return [(v, w) for v in range(global_views) for w in range(v + 1, views)]


def log_softmax(logits: Rows) -> Rows:
    """Of one row."""
    highest = logits.max()
    return logits - highest - math.log(sum(math.exp(each - highest) for each in logits))


# SIGReg and its relatives: views close to their centre, and all of them like a standard normal


def invariance(z: Rows, global_views: int) -> float:
    """The mean square of z minus the mean over the global views."""
    centre = sum(z[view] for view in range(global_views)) / global_views
    return float(np.mean([(view - centre) ** 2 for view in z]))


def knots_of(last: float, count: int) -> tuple[Rows, Rows]:
    """Knots from 0 to `last`, and their weights for an even function on both sides, with a normal window."""
    knots = np.array([last * j / (count - 1) for j in range(count)])
    apart = last / (count - 1)
    ends = np.array([0.5 if j in (0, count - 1) else 1.0 for j in range(count)])
    return knots, 2 * apart * ends * np.exp(-(knots**2) / 2)


def epps_pulley(samples: Rows, last: float = 3.0, count: int = 17) -> Rows:
    """N times the weighted squared distance of characteristic functions from the normal's, (N, M) -> (M,)."""
    knots, weights = knots_of(last, count)
    distance = np.zeros(samples.shape[1])
    for knot, weight in zip(knots, weights, strict=True):
        characteristic = np.exp(1j * knot * samples).mean(0)
        distance += weight * np.abs(characteristic - math.exp(-(knot**2) / 2)) ** 2
    return len(samples) * distance


def sigreg(
    z: Rows, drawn: Rows, share: float, global_views: int, last: float = 3.0, count: int = 17
) -> float:
    """(1 - share) invariance + share * the mean over views and directions, columns of `drawn` (K, M)."""
    directions = unit(drawn.T).T
    statistics = [epps_pulley(view @ directions, last, count).mean() for view in z]
    return (1 - share) * invariance(z, global_views) + share * float(np.mean(statistics))


def covariance(x: Rows, lost: int = 1) -> Rows:
    """(K, K), over N - `lost`."""
    centred = x - x.mean(0)
    return sum(np.outer(row, row) for row in centred) / (len(x) - lost)


def weak_sigreg(z: Rows, sketch: Rows, share: float, global_views: int, lost: int = 1) -> float:
    """The covariance of each view, sketched by (m, K), against the identity: the Frobenius distance."""
    apart = []
    for view in z:
        matrix = covariance(view @ sketch.T, lost) - np.eye(len(sketch))
        apart.append(math.sqrt(float((matrix**2).sum())))
    return (1 - share) * invariance(z, global_views) + share * float(np.mean(apart))


def visreg(
    z: Rows,
    drawn: Rows,
    share: float,
    global_views: int,
    weights: Sequence[float] = (1.0, 1.0, 1.0),
    eps: float = 1e-4,
    scales_of: Rows | None = None,
) -> float:
    """Scale, shape and centre of each view; the shape divides by the deviations of `scales_of`."""
    held = z if scales_of is None else scales_of
    quantiles = [NormalDist().inv_cdf(i / (z.shape[1] + 1)) for i in range(1, z.shape[1] + 1)]
    scale, shape, centre = [], [], []
    for view, fixed in zip(z, held, strict=True):
        mean, deviation = view.mean(0), np.sqrt(((view - view.mean(0)) ** 2).mean(0))
        scale.append(((1 - deviation) ** 2).mean())
        centre.append((mean**2).mean())
        standard = (view - mean) / (np.sqrt(((fixed - fixed.mean(0)) ** 2).mean(0)) + eps)
        for column in unit(drawn.T):
            shape.append(((np.sort(standard @ column) - quantiles) ** 2).mean())
    parts = [np.mean(scale), np.mean(shape), np.mean(centre)]
    whole = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    return (1 - share) * invariance(z, global_views) + share * float(whole)


# SimSiam and BYOL: a predictor, and targets without gradient


@dataclass(frozen=True)
class Predictor:
    """Linear, batch norm of the rows at hand, ReLU, linear. A bias is None where a layer has none."""

    first: Rows
    first_bias: Rows | None
    scale: Rows
    shift: Rows
    second: Rows
    second_bias: Rows | None

    @classmethod
    def of(cls, parameters: Sequence[Rows]) -> "Predictor":
        """From parameters in the order of the layers, told apart by their shapes."""
        matrices = [place for place, each in enumerate(parameters) if each.ndim == 2]
        assert len(matrices) == 2, [each.shape for each in parameters]
        between = list(parameters[matrices[0] + 1 : matrices[1]])
        after = list(parameters[matrices[1] + 1 :])
        first_bias = between.pop(0) if len(between) == 3 else None
        return cls(
            parameters[matrices[0]],
            first_bias,
            between[0],
            between[1],
            parameters[matrices[1]],
            after[0] if after else None,
        )

    def __call__(self, rows: Rows, eps: float = 1e-5) -> Rows:
        """What the predictor makes of the rows (N, K) of one view."""
        hidden = rows @ self.first.T + (0 if self.first_bias is None else self.first_bias)
        mean = hidden.mean(0)
        variance = ((hidden - mean) ** 2).mean(0)
        hidden = np.maximum((hidden - mean) / np.sqrt(variance + eps) * self.scale + self.shift, 0)
        return hidden @ self.second.T + (0 if self.second_bias is None else self.second_bias)


def cosines(x: Rows, y: Rows) -> float:
    """The mean cosine of rows."""
    return float(np.mean([a @ b for a, b in zip(unit(x), unit(y), strict=True)]))


def simsiam(z: Rows, predictor: Predictor, targets: Rows, global_views: int) -> float:
    """Minus the cosine of each prediction with the target of each other global view, the mean over pairs."""
    predicted = [predictor(view) for view in z]
    pairs = both_ways(len(z), global_views)
    return float(np.mean([-cosines(predicted[v], targets[w]) for v, w in pairs]))


def byol(z: Rows, predictor: Predictor, teacher: Rows, global_views: int) -> float:
    """The squared distance of unit predictions from the teacher's unit embeddings, the mean over pairs."""
    predicted = [predictor(view) for view in z]
    pairs = both_ways(len(z), global_views)
    apart = [((unit(predicted[v]) - unit(teacher[w])) ** 2).sum(1).mean() for v, w in pairs]
    return float(np.mean(apart))


def cosine_momentum(start: float, progress: float) -> float:
    """From `start` to 1 along half a cosine: BYOL and DINO."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


# DINO


def dino(
    z: Rows,
    prototypes: Rows,
    teacher: Rows,
    centre: Rows,
    teacher_temperature: float,
    global_views: int,
    student_temperature: float = 0.1,
) -> float:
    """The cross-entropy of the student against the teacher's centred, sharpened outputs (G, N, P)."""
    unit_prototypes, terms = unit(prototypes), []
    student = [unit(view) @ unit_prototypes.T for view in z]
    for v, w in both_ways(len(z), global_views):
        for row, target in zip(student[v], teacher[w], strict=True):
            expected = np.exp(log_softmax((target - centre) / teacher_temperature))
            terms.append(-expected @ log_softmax(row / student_temperature))
    return float(np.mean(terms))


def moved_centre(centre: Rows, teacher: Rows, momentum: float = 0.9) -> Rows:
    """The centre after a step that saw `teacher` (G, N, P)."""
    seen = [row for view in teacher for row in view]
    return momentum * centre + (1 - momentum) * sum(seen) / len(seen)


def warmed_temperature(progress: float, first: float, last: float, warmup: float) -> float:
    """Linear from `first` to `last` over the share `warmup` of the training."""
    return last if progress >= warmup else first + (last - first) * progress / warmup


# MMCR, alignment, InfoNCE with a queue, KoLeo


def mmcr(z: Rows, local: float) -> float:
    """Minus the nuclear norm of the centroids of unit rows, plus `local` times that of each image's views."""
    views = np.stack([unit(view) for view in z])
    centroids = sum(views) / len(views)
    spread = np.mean([nuclear_norm(views[:, image]) for image in range(z.shape[1])])
    return -nuclear_norm(centroids) + local * float(spread)


def nuclear_norm(matrix: Rows) -> float:
    """The sum of the square roots of the eigenvalues of the smaller Gram matrix."""
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0)).sum())


def align(z: Rows, global_views: int) -> float:
    """The mean squared distance of unit rows."""
    apart = [((unit(z[v]) - unit(z[w])) ** 2).sum(1).mean() for v, w in one_way(len(z), global_views)]
    return float(np.mean(apart))


def queue_infonce(z: Rows, teacher: Rows, queue: Rows, temperature: float, global_views: int) -> float:
    """Each view's rows tell their own key from those of the queue (Q, K), the mean over pairs."""
    terms = []
    for v, w in both_ways(len(z), global_views):
        for query, key in zip(unit(z[v]), unit(teacher[w]), strict=True):
            logits = np.array([query @ key, *(queue @ query)]) / temperature
            terms.append(-log_softmax(logits)[0])
    return float(np.mean(terms))


def enqueued(queue: Rows, oldest: int, keys: Rows) -> tuple[Rows, int]:
    """The queue after unit keys (M, K) took the places of its oldest rows, and where its oldest now is."""
    after = queue.copy()
    for number, key in enumerate(unit(keys)):
        after[(oldest + number) % len(queue)] = key
    return after, (oldest + len(keys)) % len(queue)


def koleo(h: Rows, global_views: int, eps: float = 1e-8) -> float:
    """Minus the mean log distance of unit rows to the nearest other row, the sum over the global views."""
    total = 0.0
    for view in h[:global_views]:
        rows = unit(view)
        for number, row in enumerate(rows):
            apart = [math.sqrt(float(((row - other) ** 2).sum())) for other in np.delete(rows, number, 0)]
            total -= math.log(min(apart) + eps) / len(rows)
    return total


# Whitening


def whitened(x: Rows, group: int, shrinkage: float = 1e-3, floor: float = 1e-5) -> Rows:
    """Groups of channels times the inverse root of their covariance, shrunk towards its mean eigenvalue.

    The groups are as many as `group` channels each need, and as even as the first ones all alike allow.
    """
    count = math.ceil(x.shape[1] / group)
    size, parts = math.ceil(x.shape[1] / count), []
    for first in range(0, x.shape[1], size):
        part = x[:, first : first + size]
        matrix = covariance(part, lost=0)
        added = shrinkage * np.trace(matrix) / len(matrix) + floor
        values, vectors = np.linalg.eigh((1 - shrinkage) * matrix + added * np.eye(len(matrix)))
        root = sum(np.outer(v, v) / math.sqrt(value) for value, v in zip(values, vectors.T, strict=True))
        parts.append((part - part.mean(0)) @ root)
    return np.concatenate(parts, 1)
