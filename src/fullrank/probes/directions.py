"""Accuracy in a few directions of the features: principal ones, random ones, or channels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from fullrank.errors import UsageError, unknown_name
from fullrank.linalg import Moments
from fullrank.probes.linear import LinearProbe, refitted
from fullrank.probes.probe import feature_matrix, joint_numbers, labelled_rows

# Features (N, D) and k -> their coordinates (N, k) in the first k directions.
Projection = Callable[[Tensor, int], Tensor]
DRAWS = 3
_ROWS = 2**14


@dataclass(frozen=True)
class Directions:
    """A kind of directions, ordered so that the first k of them contain the first k - 1.

    Attributes:
        name: Its name.
        projection: Training features (N, D), the largest k and a generator -> a projection.
        draws: The number of draws; 1 for directions that are not random.
    """

    name: str
    projection: Callable[[Tensor, int, torch.Generator], Projection]
    draws: int = 1

    def projections(self, features: Tensor, largest: int, seed: int = 0) -> list[Projection]:
        """The projection of each draw.

        Args:
            features: Training features (N, D).
            largest: The largest k that is asked for.
            seed: The seed of all draws.
        """
        generator = torch.Generator().manual_seed(seed)
        return [self.projection(features, largest, generator) for _ in range(self.draws)]


@dataclass(frozen=True)
class Reduced:
    """Accuracy, 0 to 1, in `dimensions` directions: of each draw, and their mean."""

    dimensions: int
    mean: float
    accuracies: tuple[float, ...]


def powers_of_two(width: int) -> list[int]:
    """1, 2, 4, ... up to a width of 1 or more.

    Args:
        width: The largest number that may be reached.

    >>> powers_of_two(24)
    [1, 2, 4, 8, 16]
    """
    return [2**power for power in range(width.bit_length())]


def reduced_accuracy(
    features: Any,
    labels: Any,
    test_features: Any,
    test_labels: Any,
    *,
    directions: str | Directions = "principal",
    dimensions: Sequence[int] | None = None,
    probe: LinearProbe | None = None,
    seed: int = 0,
) -> list[Reduced]:
    r"""Accuracy of a linear probe that is given the features in k directions alone.

    .. math:: x \mapsto V_k^\top x, \qquad V_k \in \mathbb{R}^{D \times k}, \quad V_k^\top V_k = I

    - `principal`: the k largest principal directions of the training features.
    - `random`: an orthonormal basis of k Gaussian vectors, so the k directions are uniformly random.
    - `channels`: k random channels.

    Features of different widths are compared at the same k. In `principal` and `random` directions, k = D
    gives the accuracy on all features. In `channels`, the result depends on the basis of the features.

    It cannot see whether other k directions would be better: classes may lie in directions of low variance,
    which the principal ones miss.

    Args:
        features: Training features (N, D).
        labels: Training labels (N,), whole numbers or words; rows with the label -1 or "" are left out.
        test_features: Test features (M, D).
        test_labels: Test labels (M,), of the same kind.
        directions: A name of `DIRECTIONS`, or a kind of your own.
        dimensions: The values of k, from 1 to D; None is 1, 2, 4, ... up to D.
        probe: A probe fitted on all features, whose settings and penalty every k uses. None fits one.
        seed: Seed of the draws.

    Returns:
        One result for each k, in the given order.

    Raises:
        UsageError: If k is below 1 or above D, the directions are unknown, or shapes do not fit.
        DataError: If there are fewer than two classes, or features are not finite.

    >>> x = torch.tensor([[3.0, 1], [3, -1], [-3, 1], [-3, -1]]).repeat(10, 1)
    >>> [result.mean for result in reduced_accuracy(x, x[:, 1] > 0, x, x[:, 1] > 0)]
    [0.5, 1.0]

    Source: Nanda et al. 2023 (arXiv 2306.00183) for the three kinds as controls of one another.
    """
    kind = _kind(directions)
    (labels, test_labels), _ = joint_numbers(labels, test_labels)
    features, labels = labelled_rows(features, labels)
    test_features, width = feature_matrix(test_features), features.shape[1]
    sizes = powers_of_two(width) if dimensions is None else list(dimensions)
    if not sizes or min(sizes) < 1 or max(sizes) > width:
        raise UsageError(
            f"dimensions must be from 1 to {width}, the width of the features, but got {sizes}; change them."
        )
    if probe is None:
        probe = LinearProbe().fit(features, labels)
    projections = kind.projections(features, max(sizes), seed)
    results = []
    for k in sizes:
        accuracies = [
            refitted(probe, project(features, k), labels).score(project(test_features, k), test_labels)
            for project in projections
        ]
        results.append(Reduced(k, fmean(accuracies), tuple(accuracies)))
    return results


def _kind(directions: str | Directions) -> Directions:
    if isinstance(directions, Directions):
        return directions
    if directions not in DIRECTIONS:
        names = list(DIRECTIONS)
        raise unknown_name("kind of directions", directions, names, f"there are {', '.join(names)}")
    return DIRECTIONS[directions]


def _principal(features: Tensor, largest: int, generator: torch.Generator) -> Projection:
    moments = Moments.of(features)
    if features.shape[1] > len(features):  # there are no more directions than rows
        centred = features.double() - moments.mean
        return _onto(torch.linalg.svd(centred, full_matrices=False)[2].T, moments.mean)
    return _onto(torch.linalg.eigh(moments.scatter)[1].flip(1), moments.mean)


def _random(features: Tensor, largest: int, generator: torch.Generator) -> Projection:
    width = features.shape[1]
    # All directions are drawn, so that those of this draw and the next do not depend on the largest k.
    gaussian = torch.randn(width, width, generator=generator, dtype=torch.float64).to(features.device)
    return _onto(torch.linalg.qr(gaussian[:, :largest])[0], gaussian.new_zeros(width))


def _channels(features: Tensor, largest: int, generator: torch.Generator) -> Projection:
    order = torch.randperm(features.shape[1], generator=generator).to(features.device)
    return lambda rows, k: rows[:, order[:k]]


def _onto(basis: Tensor, origin: Tensor) -> Projection:
    """The projection onto the first columns of a basis (D, R), of differences from `origin` (D,)."""

    def project(rows: Tensor, k: int) -> Tensor:
        # In parts, so that not all features are in memory in float64.
        return torch.cat([(part.double() - origin) @ basis[:, :k] for part in torch.split(rows, _ROWS)])

    return project


PRINCIPAL = Directions("principal", _principal)
RANDOM = Directions("random", _random, DRAWS)
CHANNELS = Directions("channels", _channels, DRAWS)
DIRECTIONS = {kind.name: kind for kind in (PRINCIPAL, RANDOM, CHANNELS)}
