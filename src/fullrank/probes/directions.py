"""Accuracy in a few directions of the features: principal ones, large or small, random ones, or channels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from fullrank.errors import UsageError, unknown_name
from fullrank.linalg import Moments, shared_coordinates
from fullrank.probes.groups import per_class
from fullrank.probes.linear import LinearProbe, refitted
from fullrank.probes.probe import joint_numbers, labelled_rows
from fullrank.statistics import Estimate, live_dimensions

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
    """Accuracy, 0 to 1, in `dimensions` directions.

    Attributes:
        dimensions: The number of directions.
        mean: The mean accuracy over draws.
        accuracies: The accuracy of each draw.
        worst_class: The accuracy of the worst class of each draw, as a mean over draws.
    """

    dimensions: int
    mean: float
    accuracies: tuple[float, ...]
    worst_class: float

    @property
    def interval(self) -> Estimate:
        """The mean with its 95 % t interval over draws, which a single draw does not have."""
        return Estimate.of(self.accuracies)


@dataclass(frozen=True, eq=False)
class ProbedRows:
    """Labelled rows to learn from and to score, and the probe that every choice of directions repeats.

    Attributes:
        train: Training features (N, D).
        labels: Training labels (N,), whole numbers.
        test: Test features (M, D).
        test_labels: Test labels (M,), whole numbers.
        span: Both features in coordinates of the rows, if D is above N + M; otherwise as they are.
        probe: A probe that was fitted on all features; its settings and penalty are used again.
        accuracy: Its accuracy on all features, 0 to 1.
        worst_class: The accuracy of its worst class.
    """

    train: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor
    span: tuple[Tensor, Tensor]
    probe: LinearProbe
    accuracy: float
    worst_class: float

    @classmethod
    def of(
        cls,
        features: Any,
        labels: Any,
        test_features: Any,
        test_labels: Any,
        probe: LinearProbe | None = None,
        seed: int = 0,
    ) -> "ProbedRows":
        """Leave out unlabelled rows, and fit a probe if none is given.

        Args:
            features: Training features (N, D).
            labels: Training labels (N,), whole numbers or words.
            test_features: Test features (M, D).
            test_labels: Test labels (M,), of the same kind.
            probe: A probe that was fitted on all features.
            seed: The seed of the rows that a new probe holds out.

        Raises:
            UsageError: If the widths differ, or shapes do not fit.
            DataError: If there are fewer than two classes, no labelled test row, or features are not finite.
        """
        (labels, test_labels), words = joint_numbers(labels, test_labels)
        train, labels = labelled_rows(features, labels)
        test, test_labels = labelled_rows(test_features, test_labels)
        if train.shape[1] != test.shape[1]:
            raise UsageError(
                f"Training features have the width {train.shape[1]}, but test features {test.shape[1]}; "
                "use the same place."
            )
        span = shared_coordinates(train, test)
        scored = test
        if probe is None:
            probe, scored = LinearProbe(seed=seed).fit(span[0], labels), span[1]
        elif words is not None:
            probe = refitted(probe, train, labels)
        accuracy, worst = _accuracies(probe, scored, test_labels)
        return cls(train, labels, test, test_labels, span, probe, accuracy, worst)

    @property
    def width(self) -> int:
        """The number of channels, D."""
        return self.train.shape[1]

    def in_directions(self, projections: Sequence[Projection], k: int, *, span: bool = False) -> Reduced:
        """The accuracy of the probe that gets only the coordinates in k directions.

        Args:
            projections: The projection of each draw.
            k: The number of directions.
            span: Whether the projections are those of `span`.
        """
        train, test = self.span if span else (self.train, self.test)
        accuracies, worst = [], []
        for project in projections:
            probe = refitted(self.probe, project(train, k), self.labels)
            each = _accuracies(probe, project(test, k), self.test_labels)
            accuracies.append(each[0])
            worst.append(each[1])
        return Reduced(k, fmean(accuracies), tuple(accuracies), fmean(worst))


def _accuracies(probe: LinearProbe, features: Tensor, labels: Tensor) -> tuple[float, float]:
    """The accuracy of a probe, and that of its worst class."""
    predicted = probe.predict(features)
    by_class = per_class(predicted, labels)
    return float((predicted == labels).double().mean()), by_class.worst


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
    - `least`: the k smallest ones. Directions without variance in training come first and give a constant
      prediction.
    - `random`: an orthonormal basis of k Gaussian vectors, so the k directions are uniformly random.
    - `channels`: k random channels.

    Features of different widths are compared at the same k. In all kinds, k = D gives the accuracy on all
    raw features. In `channels`, the result depends on the basis of the features.

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
    rows = ProbedRows.of(features, labels, test_features, test_labels, probe)
    sizes = checked_dimensions(rows.width, powers_of_two(rows.width) if dimensions is None else dimensions)
    projections = kind.projections(rows.train, max(sizes), seed)
    return [rows.in_directions(projections, k) for k in sizes]


def checked_dimensions(width: int, dimensions: Sequence[int]) -> list[int]:
    """The numbers of directions as a list; UsageError unless there are some, all from 1 to the width.

    Args:
        width: The width of the features.
        dimensions: The numbers of directions.
    """
    sizes = list(dimensions)
    if not sizes or min(sizes) < 1 or max(sizes) > width:
        raise UsageError(
            f"dimensions must be from 1 to {width}, the width of the features, but got {sizes}; change them."
        )
    return sizes


def _kind(directions: str | Directions) -> Directions:
    if isinstance(directions, Directions):
        return directions
    if directions not in DIRECTIONS:
        names = list(DIRECTIONS)
        raise unknown_name("kind of directions", directions, names, f"there are {', '.join(names)}")
    return DIRECTIONS[directions]


def _principal(features: Tensor, largest: int, generator: torch.Generator) -> Projection:
    basis, _, mean = _principal_axes(features)
    return _onto(basis, mean)


def _least(features: Tensor, largest: int, generator: torch.Generator) -> Projection:
    basis, variances, mean = _principal_axes(features)
    rank = live_dimensions(variances.cpu().numpy())
    smallest_first, dead = _onto(basis[:, :rank].flip(1), mean), features.shape[1] - rank

    def project(rows: Tensor, k: int) -> Tensor:
        # Without variance in training there is only rounding, from which a probe would read other directions.
        if k <= dead:
            return rows.new_zeros(len(rows), 1, dtype=torch.float64)
        return smallest_first(rows, k - dead)

    return project


def _principal_axes(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Principal directions (D, R), the largest first, their scatter (R,), and the mean (D,); R <= rows."""
    moments = Moments.of(features)
    if features.shape[1] > len(features):  # there are no more directions than rows
        centred = features.double() - moments.mean
        _, values, axes = torch.linalg.svd(centred, full_matrices=False)
        return axes.T, values.square(), moments.mean
    values, axes = torch.linalg.eigh(moments.scatter)
    return axes.flip(1), values.flip(0), moments.mean


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
LEAST = Directions("least", _least)
RANDOM = Directions("random", _random, DRAWS)
CHANNELS = Directions("channels", _channels, DRAWS)
DIRECTIONS = {kind.name: kind for kind in (PRINCIPAL, RANDOM, CHANNELS, LEAST)}
