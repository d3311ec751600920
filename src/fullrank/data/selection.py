"""Select rows: seeded, stratified, and the same on every machine."""

from collections.abc import Sequence

import numpy as np

from fullrank.errors import DataError, UsageError, count_of

_TEST_SHARE = 0.2


def generator(seed: int, *more: int) -> np.random.Generator:
    """A generator of random numbers that depends only on `seed` and `more`.

    Raises:
        UsageError: If the seed is negative.
    """
    if seed < 0:
        raise UsageError(f"The seed must be 0 or more, but got {seed}; choose another.")
    return np.random.default_rng(np.random.SeedSequence([seed, *more]))


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """All rows of `labels` (N,) in an order whose first k rows have each label in proportion, for every k."""
    shuffled, quantiles = _shuffled(labels, seed)
    order: np.ndarray = shuffled[np.argsort(quantiles, kind="stable")]
    return order


def stratified_share(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The rows of a random share of each label in `labels` (N,), in order; a larger share contains them."""
    shuffled, quantiles = _shuffled(labels, seed)
    return np.sort(shuffled[quantiles <= share])


def _shuffled(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """All rows in a random order, and (r + 1/2) / m for the r-th of the m rows of a label."""
    shuffled = generator(seed).permutation(len(labels))
    _, code, counts = np.unique(labels[shuffled], return_inverse=True, return_counts=True)
    by_label = np.argsort(code, kind="stable")
    rank = np.empty(len(labels))
    rank[by_label] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return shuffled, (rank + 0.5) / counts[code]


def fixed_split(labels: np.ndarray, split: str, name: str) -> np.ndarray:
    """The rows of a fixed split: 80 % of each label for "train", 20 % for "test".

    Raises:
        DataError: If there are fewer than 2 rows.
    """
    if len(labels) < 2:
        raise DataError(
            f"{name} has {count_of(len(labels), 'image')}, but its two splits need 2 or more; add images."
        )
    order = stratified_order(labels, seed=0)
    test = max(1, round(_TEST_SHARE * len(labels)))
    return np.sort(order[:test] if split == "test" else order[test:])


def grouped_split(labels: np.ndarray, groups: Sequence[str], split: str, name: str) -> np.ndarray:
    """As `fixed_split`, but no group is in both splits; each row with the group "" is a group of its own.

    Whole groups become test groups, in an order that is stratified by their most frequent label, as long as
    their images come closer to 20 %.

    Args:
        labels: The labels (N,).
        groups: The group of each row.
        split: "train" or "test".
        name: The name of the source, for messages.

    Raises:
        DataError: If there are fewer than 2 groups.

    >>> groups = ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e"]
    >>> grouped_split(np.zeros(10, int), groups, "test", "x").tolist()
    [4, 5]
    """
    own = [group or f"\0{row}" for row, group in enumerate(groups)]
    distinct, group_of = np.unique(own, return_inverse=True)
    if len(distinct) < 2:
        raise DataError(f"{name} has 1 group, but its two splits need 2 or more; leave out the groups.")
    frequent = np.zeros((len(distinct), labels.max() + 2), np.int64)
    np.add.at(frequent, (group_of, labels + 1), 1)
    order = stratified_order(frequent.argmax(1), seed=0)
    reached = np.bincount(group_of)[order].cumsum()
    nearest = int(np.abs(reached - _TEST_SHARE * len(labels)).argmin())
    in_test = np.isin(group_of, order[: min(nearest + 1, len(distinct) - 1)])
    return np.flatnonzero(in_test if split == "test" else ~in_test)
