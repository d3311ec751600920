"""How far a choice is from the best: regret, corrected for the best of many noisy numbers."""

from collections.abc import Sequence

import numpy as np

from fullrank.statistics import correlations, mean_ranks


def expected_best(hits: np.ndarray, samples: int = 500, seed: int = 0) -> float:
    r"""The accuracy, 0 to 1, to expect of the best of m candidates on other test images.

    .. math:: a^* - \mathrm{E}_b \big[\, a^{(b)}_{k_b} - a_{k_b} \,\big], \qquad
              k_b = \arg\max_k a^{(b)}_k

    The largest of m noisy accuracies is too high. In bootstrap samples of the test images, the candidate that
    wins a sample is compared with its accuracy on all images: the mean difference is the excess.

    Args:
        hits: Whether each candidate is right on each test image, (m, n).
        samples: The number of bootstrap samples.
        seed: The seed of the samples.

    >>> hits = np.random.default_rng(0).random((50, 400)) < 0.9
    >>> bool(0.89 < expected_best(hits) < hits.mean(1).max())
    True

    Source: the bootstrap estimate of optimism (Efron and Tibshirani 1993, section 17.6).
    """
    table = np.asarray(hits, float)
    count = table.shape[1]
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=samples)
    drawn = weights @ table.T / count
    means = table.mean(1)
    winners = drawn.argmax(1)
    excess = (drawn[np.arange(samples), winners] - means[winners]).mean()
    return float(means.max() - excess)


def regret(hits: np.ndarray, chosen: Sequence[int], samples: int = 500, seed: int = 0) -> float:
    """Points of accuracy that the best of the chosen candidates loses to the best of all, both as expected.

    Both are corrected by `expected_best`. For noisy accuracies the regret may be slightly below 0.

    Args:
        hits: Whether each candidate is right on each test image, (m, n).
        chosen: The numbers of the chosen candidates.
        samples: The number of bootstrap samples.
        seed: The seed of the samples.

    >>> hits = np.stack([np.arange(100) < 90, np.arange(100) < 70])
    >>> round(regret(hits, [1])), round(regret(hits, [0, 1]))
    (20, 0)
    """
    return 100 * (expected_best(hits, samples, seed) - expected_best(hits[list(chosen)], samples, seed))


def rank_correlation(values: np.ndarray, accuracies: np.ndarray) -> float:
    """Spearman's correlation of a criterion and the accuracies over candidates; nan if one is constant.

    >>> round(rank_correlation(np.array([1.0, 2.0, 9.0]), np.array([0.1, 0.5, 0.6])), 6)
    1.0
    """
    return float(correlations(mean_ranks(np.asarray(values)), mean_ranks(np.asarray(accuracies))))


def median_interval(
    values: Sequence[float], groups: Sequence[str], samples: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """The median and its 95 % bootstrap interval over groups of cases, such as those that share runs.

    Args:
        values: A number of each case.
        groups: The group of each case; whole groups are drawn.
        samples: The number of bootstrap samples.
        seed: The seed of the samples.

    >>> median_interval([1.0, 1.0, 1.0], ["a", "b", "c"])
    (1.0, 1.0, 1.0)
    """
    table, names = np.asarray(values, float), np.asarray(groups)
    members = [table[names == name] for name in np.unique(names)]
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(samples):
        picked = generator.integers(len(members), size=len(members))
        drawn.append(np.median(np.concatenate([members[number] for number in picked])))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.median(table)), float(low), float(high)
