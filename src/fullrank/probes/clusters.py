"""Clusters of one representation, predicted from another: a probe whose labels nobody gave."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.probes.probe import feature_matrix
from fullrank.probes.ridge import Ridge

# One start and few steps: the ids are labels to predict, and need not be those of the best clusters.
_STEPS = 30
# The penalty of the probe, relative to the mean variance of a channel.
PENALTY = 0.01


def cluster_ids(features: Tensor, clusters: int, *, seed: int = 0) -> np.ndarray:
    """The numbers of the k-means clusters of unit rows, (N,).

    Args:
        features: Features (N, D).
        clusters: The number of clusters k.
        seed: The seed of the first centres.

    Raises:
        UsageError: For fewer than two clusters, or features that are not a matrix.
        DataError: For fewer rows than clusters, or features that are not finite.

    >>> x = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0]])
    >>> ids = cluster_ids(x, 2)
    >>> bool(ids[0] == ids[1] != ids[2] == ids[3])
    True
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    rows = feature_matrix(features)
    if clusters < 2:
        raise UsageError(f"Clusters must be 2 or more, but got {clusters}; the usual number is sqrt(N).")
    if len(rows) < clusters:
        raise DataError(f"{clusters} clusters need as many rows, but got {len(rows)}; give more rows.")
    largest = rows.abs().max()
    rows = rows.double() / (largest if largest > 0 else 1.0)  # so that no square leaves its range
    lengths = rows.norm(dim=1, keepdim=True)
    unit = (rows / lengths.clamp_min(torch.finfo(rows.dtype).tiny)).float().cpu().numpy()
    with warnings.catch_warnings():
        # Fewer different rows than clusters: some clusters stay empty, which changes nothing here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        ids: np.ndarray = KMeans(clusters, n_init=1, max_iter=_STEPS, random_state=seed).fit_predict(unit)
    return ids


def predicted_clusters(
    features: Tensor, ids: Sequence[np.ndarray], fit: np.ndarray, penalty: float = PENALTY
) -> np.ndarray:
    r"""Whether a few-shot probe on features gives the cluster ids that others gave, for each image.

    A ridge regression from the features of the rows `fit` to the one-hot ids of each teacher r. The largest
    output is the prediction. One decomposition serves all teachers.

    .. math:: \hat y_r(x) = \arg\max_k\, (W_r x + b_r)_k, \qquad
              \min_{W, b} \frac{1}{|F|} \sum_{i \in F} \|e_{y_{ri}} - W x_i - b\|^2 + \lambda \|W\|_F^2

    Args:
        features: Features (N, D) of all rows.
        ids: The cluster numbers of each of R teachers, (N,), from 0.
        fit: The numbers of the rows F to learn from, (F,).
        penalty: :math:`\lambda` over the mean variance of a channel on the rows to learn from.

    Returns:
        Whether each prediction is right, (R, N - F), for the rows that are not in `fit`, in order.

    Raises:
        UsageError: For ids of another length, rows out of range, none to learn from or none left.
        DataError: For features that are not finite.

    >>> x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    >>> ids = (x[:, 0] > 0).long().numpy()
    >>> bool(predicted_clusters(x, [ids], np.arange(50)).mean() > 0.9)
    True

    Source: a proposal of our own.
    """
    rows = feature_matrix(features)
    fit = np.asarray(fit)
    rest = np.setdiff1d(np.arange(len(rows)), fit)
    if len(fit) < 2 or not len(rest) or fit.min() < 0 or fit.max() >= len(rows):
        raise UsageError(
            f"A probe learns from 2 rows or more and is scored on others, but got {len(fit)} of {len(rows)}."
        )
    if any(each.shape != (len(rows),) for each in ids):
        raise UsageError(f"Each teacher needs an id for each of {len(rows)} rows; give as many ids as rows.")
    ridge = Ridge.of(rows[torch.from_numpy(fit)])
    scale = float(ridge.variances.sum()) / rows.shape[1]
    sizes = [int(each.max()) + 1 for each in ids]
    ends = np.cumsum(sizes)
    one_hot = torch.zeros(len(fit), int(ends[-1]), dtype=torch.float64)
    for each, end, size in zip(ids, ends, sizes, strict=True):
        one_hot[torch.arange(len(fit)), torch.from_numpy(end - size + each[fit])] = 1
    outputs = ridge.predict(one_hot, penalty * scale, rows[torch.from_numpy(rest)]).numpy()
    hits = [
        outputs[:, end - size : end].argmax(1) == each[rest]
        for each, end, size in zip(ids, ends, sizes, strict=True)
    ]
    return np.stack(hits)


def cluster_predictability(
    features: Tensor, ids: Sequence[np.ndarray], fit: np.ndarray, penalty: float = PENALTY
) -> np.ndarray:
    r"""How well a few-shot probe on features predicts the clusters of other representations, (R,).

    .. math:: a_r = \frac{\mathrm{acc}_r - m_r}{1 - m_r}

    :math:`m_r` is the share of the largest cluster of teacher r on the rows that are scored. So 1 is perfect
    and 0 is a constant guess. It imitates a probe with labels, and agreeing with oneself wins nothing, since
    the clusters are those of others.

    What it cannot see: a structure that no teacher has. If most teachers cluster by a shortcut, such as a
    background, features of that shortcut get the best value.

    Args:
        features: Features (N, D) of all rows.
        ids: The cluster numbers of each of R teachers, (N,), from 0.
        fit: The numbers of the rows to learn from, (F,).
        penalty: As in `predicted_clusters`.

    Returns:
        A value for each teacher, (R,); 0 for a teacher with one cluster.

    Raises:
        UsageError: As `predicted_clusters`.
        DataError: As `predicted_clusters`.

    >>> x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    >>> own, chance = (x[:, 0] > 0).long().numpy(), np.arange(200) % 2
    >>> good, none = cluster_predictability(x, [own, chance], np.arange(50))
    >>> bool(good > 0.7), bool(abs(none) < 0.3)
    (True, True)

    Source: as `predicted_clusters`; the correction for chance is that of Cohen's kappa for a constant guess.
    """
    fit = np.asarray(fit)
    hits = predicted_clusters(features, ids, fit, penalty)
    rest = np.setdiff1d(np.arange(len(features)), fit)
    majority = np.array([majority_share(each[rest]) for each in ids])
    values: np.ndarray = (hits.mean(1) - majority) / np.where(majority < 1, 1 - majority, 1.0)
    return values


def majority_share(ids: np.ndarray) -> float:
    """The share of the largest cluster, 0 to 1.

    >>> majority_share(np.array([0, 0, 0, 2]))
    0.75
    """
    return float(np.bincount(ids).max() / len(ids))
