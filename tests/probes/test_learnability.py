"""Cluster learnability: each row is predicted by its nearest earlier row."""

import numpy as np
import pytest
import torch

from fullrank.errors import DataError, UsageError
from fullrank.probes.clusters import cluster_ids
from fullrank.probes.learnability import cluster_learnability


def spread(rows: int = 90, width: int = 5) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("sample", [40, 90, 2000])
def test_it_equals_a_loop_over_rows_that_looks_back_only(sample):
    features = spread()
    order = np.random.default_rng(3).permutation(90)[:sample]
    ids = cluster_ids(features[order], 6, seed=3)
    unit = [row / np.sqrt(row @ row) for row in features.double().numpy()[order]]
    right = 0
    for i in range(1, len(unit)):
        distances = [np.sum((unit[i] - unit[j]) ** 2) for j in range(i)]
        right += ids[i] == ids[int(np.argmin(distances))]
    measured = cluster_learnability(features, 6, sample=sample, seed=3)
    assert measured == pytest.approx(right / (len(unit) - 1))


def test_tight_groups_miss_only_the_first_row_of_each():
    centres = torch.eye(6).repeat(20, 1)
    features = centres + 1e-3 * spread(120, 6)
    assert cluster_learnability(features, 6) == pytest.approx(1 - 5 / 119)


def test_scale_of_rows_changes_nothing():
    features = spread()
    scales = 2.0 ** (torch.arange(90) % 7)[:, None]
    assert cluster_learnability(features * scales, 6) == cluster_learnability(features, 6)


@pytest.mark.parametrize(
    ("error", "rows", "clusters", "sample"),
    [(UsageError, 90, 1, 2000), (UsageError, 90, 6, 5), (DataError, 1, 2, 2000), (DataError, 4, 6, 2000)],
)
def test_it_refuses_what_has_no_clusters(error, rows, clusters, sample):
    with pytest.raises(error):
        cluster_learnability(spread()[:rows], clusters, sample=sample)
