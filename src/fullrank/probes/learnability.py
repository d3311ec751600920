"""Cluster learnability: how soon a nearest neighbour knows the clusters that features form themselves."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fullrank.errors import DataError, UsageError
from fullrank.probes.clusters import cluster_ids
from fullrank.probes.probe import feature_matrix


def cluster_learnability(features: Tensor, clusters: int, *, sample: int = 2000, seed: int = 0) -> float:
    r"""The share of rows whose cluster is that of their nearest earlier row, 0 to 1.

    .. math:: \frac1{n - 1} \sum_{i = 2}^n \big[\, y_i = y_{j(i)} \,\big], \qquad
              j(i) = \arg\max_{j < i} x_i \cdot x_j

    y are k-means ids of the unit rows x themselves, in random order.

    What it cannot see: whether the clusters mean anything. It judges features by themselves, so few tight
    groups or a collapsed space win.

    Args:
        features: Features (N, D).
        clusters: The number of clusters.
        sample: Of more rows than this a random sample is taken.
        seed: The seed of the order and of the clusters.

    Raises:
        UsageError: For fewer than two clusters, a sample below them, or features that are not a matrix.
        DataError: For fewer rows than clusters, or features that are not finite.

    >>> noise = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> x = torch.eye(4).repeat(25, 1) + 0.01 * noise
    >>> cluster_learnability(x, 4) > 0.9
    True

    Source: after Lu et al. 2022 (2206.01251), with one neighbour. The preprint scored rows in order, as here.
    The published version takes the mean validation accuracy, which does not depend on the order.
    """
    rows = feature_matrix(features)
    if len(rows) < 2:
        raise DataError(f"Cluster learnability needs 2 rows or more, but got {len(rows)}; give more.")
    if sample < clusters:
        raise UsageError(f"{clusters} clusters need a sample of as many rows, but got {sample}; raise it.")
    order = np.random.default_rng(seed).permutation(len(rows))[:sample]
    some = rows[torch.from_numpy(order)]
    ids = torch.from_numpy(cluster_ids(some, clusters, seed=seed))
    unit = normalize(some.double(), eps=torch.finfo(torch.float64).tiny)
    cosines = (unit @ unit.T).tril(-1) + torch.full((len(unit), len(unit)), -torch.inf).triu()
    nearest = cosines[1:].argmax(1)
    return float((ids[1:] == ids[nearest]).double().mean())
