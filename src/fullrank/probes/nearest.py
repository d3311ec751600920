"""Probes without trained weights: a vote of the nearest training rows, and the nearest class mean."""

import math
from typing import final

import torch
from torch import Tensor

from fullrank.errors import UsageError
from fullrank.probes.probe import Probe

# Queries and training rows in a tile of similarities, 16 MiB: the fastest of several shapes on a CPU.
_QUERIES, _ROWS = 1024, 4096


@final
class NearestProbe(Probe):
    r"""The label with the most votes among the k training rows of highest cosine similarity.

    .. math:: \hat y(x) = \arg\max_c \sum_{i \in N_k(x)} \mathbb 1[y_i = c]\, e^{s_i / \tau},
              \qquad s_i = \frac{x^\top x_i}{\|x\|\,\|x_i\|}

    Features are L2-normalised and nothing else; similarities are float32. A zero vector has similarity 0 with
    everything. If several rows tie for the last vote, it is undefined which of them vote.
    Among labels with equal votes the smallest wins. Queries are processed in tiles, so memory is O(N D) plus
    a constant. Nothing is trained or drawn. Shapes: features (N, D), labels (N,).

    Args:
        k: The number of neighbours that vote, 1 or more; with fewer training rows all of them vote.
        temperature: The temperature tau of the votes, above 0.

    Raises:
        UsageError: A setting is outside its limits; `fit`, `predict` and `score` raise what `Probe` raises.

    >>> train = torch.tensor([[1.0, 0.1], [2.0, 0.0], [0.0, 1.0], [0.2, 3.0]])
    >>> probe = NearestProbe(k=2).fit(train, torch.tensor([5, 5, 7, 7]))
    >>> probe.predict(torch.tensor([[9.0, 1.0], [0.1, 0.3]]))
    tensor([5, 7])

    Source: Wu et al. 2018 (arXiv 1805.01978), Section 3.4; k = 20 and 0.07 are DINO's (arXiv 2104.14294).
    """

    def __init__(self, k: int = 20, temperature: float = 0.07):
        if not k >= 1:
            raise UsageError(f"NearestProbe: k must be 1 or more, but got {k}; the usual value is 20.")
        if not (temperature > 0 and math.isfinite(temperature)):
            raise UsageError(
                f"NearestProbe: temperature must be positive, but got {temperature}; the usual value is 0.07."
            )
        self.k, self.temperature = k, temperature

    def _learn(self, features: Tensor, targets: Tensor, num_classes: int) -> None:
        self._directions, self._targets, self._num_classes = directions(features), targets, num_classes

    def _decide(self, features: Tensor) -> Tensor:
        return torch.cat([self._vote(some) for some in torch.split(directions(features), _QUERIES)])

    def _vote(self, queries: Tensor) -> Tensor:
        """The winning class numbers (B,) of unit queries (B, D)."""
        # The similarities and numbers (B, k) of the k training rows nearest to each query, nearest first.
        best = queries.new_empty(len(queries), 0)
        numbers = best.long()
        for start in range(0, len(self._directions), _ROWS):
            tile = queries @ self._directions[start : start + _ROWS].T
            values, rows = tile.topk(min(self.k, tile.shape[1]))
            best, numbers = torch.cat([best, values], 1), torch.cat([numbers, rows + start], 1)
            best, order = best.topk(min(self.k, best.shape[1]))
            numbers = numbers.gather(1, order)
        # Relative to the nearest, so that no temperature overflows; the order of the votes is the same.
        weights = ((best - best[:, :1]).double() / self.temperature).exp()
        votes = weights.new_zeros(len(queries), self._num_classes)
        return votes.scatter_add_(1, self._targets[numbers], weights).argmax(1)


@final
class ClassMeanProbe(Probe):
    r"""The label whose training rows have the nearest mean.

    .. math:: \hat y(x) = \arg\min_c \|x - m_c\|, \qquad m_c = \frac1{n_c} \sum_{i : y_i = c} x_i

    Distances are Euclidean and float64. Among labels at equal distances the smallest wins. Nothing is trained
    or drawn, so no class gains from weights that were fitted to it. Queries are processed in tiles, so memory
    is O(N D) plus a constant. Shapes: features (N, D), labels (N,).

    It cannot see the shape of a class: a class of several clusters has its mean between them. Features are
    used as they are, so channels of large variance decide.

    Raises:
        UsageError: `fit`, `predict` and `score` raise what `Probe` raises.

    >>> train = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 4.0]])
    >>> probe = ClassMeanProbe().fit(train, torch.tensor([5, 5, 7, 7]))
    >>> probe.predict(torch.tensor([[1.0, 0.5], [0.5, 9.0]])), probe.means.tolist()
    (tensor([5, 7]), [[2.0, 0.0], [0.0, 3.0]])

    Source: Mensink et al. 2013 (IEEE TPAMI 35), with the plain Euclidean distance.
    """

    means: Tensor

    def _learn(self, features: Tensor, targets: Tensor, num_classes: int) -> None:
        features = features.double()
        sums = features.new_zeros(num_classes, features.shape[1]).index_add_(0, targets, features)
        self.means = sums / torch.bincount(targets, minlength=num_classes)[:, None]

    def _decide(self, features: Tensor) -> Tensor:
        # Relative to the middle of the means: a large common part would cost the digits of the distances.
        middle = self.means.mean(0)
        means = self.means - middle
        halves = means.square().sum(1) / 2
        tiles = torch.split(features, _QUERIES)
        return torch.cat([(halves - (tile.double() - middle) @ means.T).argmin(1) for tile in tiles])


def directions(features: Tensor) -> Tensor:
    """Rows (N, D) normalised to unit length in float32; a zero row stays zero."""
    features = features.double()
    norms = features.norm(dim=1, keepdim=True)
    return (features / torch.where(norms > 0, norms, 1.0)).float()
