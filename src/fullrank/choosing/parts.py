"""The parts of the score: what each says of every candidate, and what each image adds to it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fullrank.choosing.candidates import Candidate, Pool
from fullrank.errors import UsageError
from fullrank.probes.clusters import cluster_ids, majority_share, predicted_clusters
from fullrank.spectrum import two_nn_influence

STRUCTURE, DIMENSION = "structure", "dimension"


@dataclass(frozen=True, eq=False)
class Part:
    """What one part of the score says of C candidates; larger is better.

    Attributes:
        name: The name of the part.
        criterion: The name of the criterion that it is.
        values: The value of each candidate, (C,).
        images: The numbers of the images that it looked at, (m,).
        influence: What each of these images adds, (C, m), with mean 0: in a sample with weights w of the
            images the value is near ``values + influence @ w / w.sum()``.
    """

    name: str
    criterion: str
    values: np.ndarray
    images: np.ndarray
    influence: np.ndarray

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        """The values (B, C) in B samples of the images, from their weights (B, N)."""
        own = weights[:, self.images]
        moved: np.ndarray = self.values + own @ self.influence.T / own.sum(1, keepdims=True)
        return moved


def structure(pool: Pool, *, clusters: int, few: float, penalty: float, seed: int = 0) -> Part:
    r"""How well a few-shot probe on each candidate predicts the clusters of the other runs.

    .. math:: S_s = \frac{\sum_r w_r\, a_{rs}}{\sum_r w_r}, \qquad
              a_{rs} = \frac{\mathrm{acc}_{rs} - m_r}{1 - m_r}

    Each candidate r is a teacher with its k-means ids. :math:`w_r` is how reliable they are: the normalised
    mutual information of ids of two views of the same images, or 1 without views. Teachers of the own run are
    left out, because places of one net agree with each other; if there is one run, only the own place is.

    Args:
        pool: The candidates.
        clusters: The number of clusters.
        few: The share of the images that the probe learns from, 0 to 1.
        penalty: The penalty of the probe, see `predicted_clusters`.
        seed: The seed of the clusters and of the images to learn from.
    """
    candidates, count = pool.candidates, len(pool.ids)
    order = np.random.default_rng(seed).permutation(count)
    fit = np.sort(order[: max(2, round(few * count))])
    rest = np.setdiff1d(np.arange(count), fit)
    ids = [cluster_ids(each.clean, clusters, seed=seed) for each in candidates]
    reliable = np.array([reliability(each, clusters, seed) for each in candidates])
    majority = np.array([majority_share(each[rest]) for each in ids])
    room = np.where(majority < 1, 1 - majority, 1.0)
    several = len({each.run for each in candidates}) > 1
    by_image = np.empty((len(candidates), len(rest)))
    for number, student in enumerate(candidates):
        others = np.array(
            [
                teacher.run != student.run if several else other != number
                for other, teacher in enumerate(candidates)
            ]
        )
        weights = reliable * others / max(float((reliable * others).sum()), np.finfo(float).tiny)
        hits = predicted_clusters(student.clean, ids, fit, penalty)
        by_image[number] = (weights / room) @ (hits - majority[:, None])
    values = by_image.mean(1)
    return Part(STRUCTURE, "cluster_predictability", values, rest, by_image - values[:, None])


def reliability(candidate: Candidate, clusters: int, seed: int = 0) -> float:
    """The normalised mutual information, 0 to 1, of the clusters of two views of the same images.

    It is 1 for a candidate without views: nothing is known against its clusters.
    """
    from sklearn.metrics import normalized_mutual_info_score

    if candidate.views is None:
        return 1.0
    count = min(clusters, candidate.views.shape[1])
    first, second = (cluster_ids(candidate.views[view], count, seed=seed + view) for view in (0, 1))
    return float(normalized_mutual_info_score(first, second))


def dimension(pool: Pool, *, rows: int, seed: int = 0) -> Part:
    """Along how many directions the clean features vary near each other: TwoNN.

    Candidates with equally many different images are compared. It counts twice in the score: among all
    candidates, and among the places of the same run.
    """
    values, influences, counted = [], [], np.arange(len(pool.ids))
    order = np.random.default_rng(seed).permutation(len(pool.ids))[:rows]
    for each in pool.candidates:
        some = each.clean[torch.from_numpy(order)]
        found = two_nn_influence(some, sample=rows)
        spread = np.zeros(len(pool.ids))
        spread[order[found.rows]] = found.added * len(pool.ids) / len(found.rows)
        values.append(found.value)
        influences.append(spread)
    return Part(DIMENSION, "two_nn", np.array(values), counted, np.stack(influences))


def views_of(candidate: Candidate) -> Tensor:
    """The features of the views of a candidate that has them."""
    if candidate.views is None:
        name = f"{candidate.run} {candidate.place}"
        raise UsageError(f"{name} has no views, which this measure needs; give runs.")
    return candidate.views
