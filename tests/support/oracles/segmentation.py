"""Emergent segmentation from its definition: masks of attention, overlaps, best heads, permuted controls."""

import math
from itertools import combinations, permutations, product

import numpy as np


def attention_mask(attention: np.ndarray, mass: float) -> np.ndarray:
    """The fewest patches (P,), the largest first and of equal ones the lower index, that hold `mass`.

    >>> attention_mask(np.array([1.0, 3.0, 1.0, 5.0]), 0.9).astype(int).tolist()
    [1, 1, 0, 1]
    >>> attention_mask(np.ones(10), 0.6).sum()
    np.int64(6)
    """
    total = math.fsum(attention)
    order = sorted(range(len(attention)), key=lambda patch: (-attention[patch], patch))
    for count in range(1, len(order) + 1):
        if math.fsum(attention[order[:count]]) / total >= mass * (1 - 1e-12):
            break
    mask = np.zeros(len(attention), dtype=bool)
    mask[order[:count]] = True
    return mask


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    """|A and B| / |A or B|."""
    either = sum(bool(a) or bool(b) for a, b in zip(mask.flat, truth.flat, strict=True))
    return sum(bool(a) and bool(b) for a, b in zip(mask.flat, truth.flat, strict=True)) / either


def enlarged(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map (h, w) at (Y, X) by nearest neighbour: index floor(y h / Y)."""
    h, w = mask.shape
    return np.array([[mask[y * h // height, x * w // width] for x in range(width)] for y in range(height)])


def overlaps(attention: np.ndarray, mask: np.ndarray, mass: float) -> np.ndarray:
    """The overlap (objects, H) of each head's map (H, h, w) with each object of a mask (Y, X)."""
    heads, h, w = attention.shape
    found = [
        enlarged(attention_mask(attention[head].reshape(-1), mass).reshape(h, w), *mask.shape)
        for head in range(heads)
    ]
    objects = sorted(set(mask.reshape(-1).tolist()) - {0, 255})
    kept = mask != 255
    return np.array([[overlap(each[kept], (mask == o)[kept]) for each in found] for o in objects])


def expected_best(values: np.ndarray, count: int) -> float:
    """The mean over all sets of `count` heads of the best value in the set.

    >>> expected_best(np.array([1.0, 2.0, 4.0]), 2), expected_best(np.array([1.0, 2.0, 4.0]), 3)
    (3.3333333333333335, 4.0)
    """
    sets = list(combinations(values.tolist(), count))
    return math.fsum(max(each) for each in sets) / len(sets)


def jaccard(
    attention: np.ndarray, masks: np.ndarray, mass: float = 0.6, heads: int | None = None
) -> np.ndarray:
    """Of each image, the mean over objects of the best (or expected best) overlap; nan without an object."""
    result = []
    for maps, mask in zip(attention, masks, strict=True):
        table = overlaps(maps, mask, mass)
        best = [expected_best(row, len(row) if heads is None else heads) for row in table]
        result.append(math.fsum(best) / len(best) if best else math.nan)
    return np.array(result)


def permuted_by_enumeration(attention: np.ndarray, mask: np.ndarray, mass: float, heads: int) -> float:
    """The expected Jaccard of an image whose heads (H, h, w) are permuted independently, over all orders."""
    count, h, w = attention.shape
    orders = list(permutations(range(h * w)))
    found = []
    for chosen in product(orders, repeat=count):
        maps = np.array([attention[head].reshape(-1)[list(chosen[head])] for head in range(count)])
        found.append(jaccard(maps.reshape(1, count, h, w), mask[None], mass, heads)[0])
    return math.fsum(found) / len(found)


def permuted_by_sets(attention: np.ndarray, mask: np.ndarray, mass: float, heads: int) -> float:
    """The same expectation for larger grids: a permuted map is a uniformly random set of as many patches."""
    count, h, w = attention.shape
    sizes = [int(attention_mask(attention[head].reshape(-1), mass).sum()) for head in range(count)]
    kept, objects = mask != 255, sorted(set(mask.reshape(-1).tolist()) - {0, 255})
    means = []
    for o in objects:
        spread = []
        for size in sizes:
            values = []
            for patches in combinations(range(h * w), size):
                chosen = np.zeros(h * w, dtype=bool)
                chosen[list(patches)] = True
                values.append(overlap(enlarged(chosen.reshape(h, w), *mask.shape)[kept], (mask == o)[kept]))
            spread.append(values)
        means.append(_mean_of_best(spread, heads))
    return math.fsum(means) / len(means)


def _mean_of_best(spread: list[list[float]], heads: int) -> float:
    """The mean over sets of heads of E[max], each head uniform over its own list: sum of x (F(x) - F(x-))."""
    sets = list(combinations(spread, heads))
    total = 0.0
    for chosen in sets:
        before = 0.0
        for x in sorted({value for values in chosen for value in values}):
            below = math.prod(sum(value <= x for value in values) / len(values) for values in chosen)
            total += x * (below - before)
            before = below
    return total / len(sets)


def foreground_share(gradients: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The share of s = sqrt(mean over V of sum over channels of g^2) on objects, without pixels of 255.

    Gradients are (N, C, Y, X) or (V, N, C, Y, X). As with `jaccard`, an image without an object has none.
    """
    if gradients.ndim == 4:
        gradients = gradients[None]
    result = []
    for n, mask in enumerate(masks):
        inside = everywhere = 0.0
        for y, x in np.ndindex(*mask.shape):
            size = math.sqrt(sum(float(g @ g) for g in gradients[:, n, :, y, x]) / len(gradients))
            everywhere += size if mask[y, x] != 255 else 0.0
            inside += size if mask[y, x] not in (0, 255) else 0.0
        has_object = bool(set(mask.reshape(-1).tolist()) - {0, 255})
        result.append(inside / everywhere if has_object and everywhere else math.nan)
    return np.array(result)


def area_share(masks: np.ndarray) -> np.ndarray:
    """The share of pixels on objects; those of 255 are left out."""
    return foreground_share(np.ones((len(masks), 1, *masks.shape[1:])), masks)
