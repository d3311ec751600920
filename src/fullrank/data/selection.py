"""Which rows: seeded, stratified, and the same on every machine."""

import numpy as np

from fullrank.errors import DataError, UsageError, count_of

_TEST_SHARE = 0.2


def generator(seed: int, *more: int) -> np.random.Generator:
    """The random numbers that belong to `seed` and nothing else; a negative seed raises UsageError."""
    if seed < 0:
        raise UsageError(f"The seed must be 0 or more, but got {seed}; choose another.")
    return np.random.default_rng(np.random.SeedSequence([seed, *more]))


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """All rows of `labels` (N,) in an order whose every beginning holds each label in proportion."""
    shuffled, quantiles = _shuffled(labels, seed)
    order: np.ndarray = shuffled[np.argsort(quantiles, kind="stable")]
    return order


def stratified_share(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The rows of `share` of each label of `labels` (N,), in order; a larger share contains them."""
    shuffled, quantiles = _shuffled(labels, seed)
    return np.sort(shuffled[quantiles <= share])


def _shuffled(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """All rows in a random order, and for the r-th of the m rows of a label (r + 1/2) / m."""
    shuffled = generator(seed).permutation(len(labels))
    _, code, counts = np.unique(labels[shuffled], return_inverse=True, return_counts=True)
    by_label = np.argsort(code, kind="stable")
    rank = np.empty(len(labels))
    rank[by_label] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return shuffled, (rank + 0.5) / counts[code]


def fixed_split(labels: np.ndarray, split: str, name: str) -> np.ndarray:
    """The rows of `split`, 80 % train or 20 % test of each label, always the same; DataError below 2 rows."""
    if len(labels) < 2:
        raise DataError(
            f"{name} has {count_of(len(labels), 'image')}, but its two splits need 2 or more; add images."
        )
    order = stratified_order(labels, seed=0)
    test = max(1, round(_TEST_SHARE * len(labels)))
    return np.sort(order[:test] if split == "test" else order[test:])
