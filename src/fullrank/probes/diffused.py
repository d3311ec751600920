"""Diffused redundancy: how few channels, or other directions, reach nearly the accuracy of all of them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fullrank.errors import UsageError, unknown_name
from fullrank.probes.directions import (
    CHANNELS,
    LEAST,
    PRINCIPAL,
    RANDOM,
    ProbedRows,
    Projection,
    Reduced,
    checked_dimensions,
    powers_of_two,
)
from fullrank.probes.linear import LinearProbe

DRAWS = 5
DELTA = 0.9
KINDS = (CHANNELS, PRINCIPAL, LEAST, RANDOM)
# Accuracies are shares of rows: two that differ by less are equal.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Redundancy:
    """Accuracies of a linear probe in k of D directions, for four kinds of directions.

    Attributes:
        width: The number of channels, D.
        full: The accuracy on all features, 0 to 1.
        full_worst_class: The accuracy of the worst class on all features.
        curves: Kind of directions -> its accuracies, k ascending. The last k is D.
    """

    width: int
    full: float
    full_worst_class: float
    curves: dict[str, tuple[Reduced, ...]]

    def least_dimensions(self, delta: float = DELTA, kind: str = "channels") -> int:
        """The least k of the grid with at least `delta` times the accuracy of all D.

        Args:
            delta: The share of the full accuracy, above 0 and at most 1.
            kind: The kind of directions.

        Raises:
            UsageError: If the share or the kind does not exist.
        """
        if kind not in self.curves:
            names = list(self.curves)
            raise unknown_name("kind of directions", kind, names, f"there are {', '.join(names)}")
        curve = self.curves[kind]
        return least_dimensions([each.dimensions for each in curve], [each.mean for each in curve], delta)

    def diffused(self, delta: float = DELTA, kind: str = "channels") -> float:
        """Diffused redundancy 1 - k* / D, with k* the `least_dimensions`.

        Args:
            delta: The share of the full accuracy, above 0 and at most 1.
            kind: The kind of directions.

        Raises:
            UsageError: If the share or the kind does not exist.
        """
        return 1 - self.least_dimensions(delta, kind) / self.width


def least_dimensions(dimensions: Sequence[int], accuracies: Sequence[float], delta: float = DELTA) -> int:
    r"""The least number of dimensions on a curve that keeps a share of the full accuracy.

    .. math:: k^* = \min \{ k : a_k \ge \delta \, a_D \}

    Args:
        dimensions: The numbers k of dimensions, ascending. The last one is D, all of them.
        accuracies: The accuracy a_k at each of them, in any unit.
        delta: The share of the full accuracy, above 0 and at most 1.

    Raises:
        UsageError: If the curve is empty, its two lengths differ, or the share is outside its limits.

    >>> least_dimensions([1, 2, 4, 6], [0.3, 0.72, 0.7, 0.8])
    2
    """
    if not dimensions or len(dimensions) != len(accuracies):
        counts = f"{len(dimensions)} and {len(accuracies)}"
        raise UsageError(f"A curve needs as many dimensions as accuracies, 1 or more, but got {counts}.")
    if not 0 < delta <= 1:
        raise UsageError(f"delta is a share above 0 and at most 1, but got {delta:g}; {DELTA:g} is usual.")
    enough = _enough(delta, accuracies[-1])
    return next(k for k, accuracy in zip(dimensions, accuracies, strict=True) if accuracy >= enough)


def _enough(delta: float, full: float) -> float:
    return delta * full * (1 - _ROUNDING)


def diffused_redundancy(
    dimensions: Sequence[int], accuracies: Sequence[float], delta: float = DELTA
) -> float:
    r"""Diffused redundancy of a curve of accuracies: the share of dimensions that can be left out.

    .. math:: \mathrm{DR}(\delta) = 1 - k^* / D

    k* is that of `least_dimensions`: only values of the grid are tried, so DR is a lower bound of what a
    finer grid gives. It cannot see chance: if a constant guess reaches the share, DR is near 1 and says
    nothing.

    Args:
        dimensions: The numbers k of dimensions, ascending. The last one is D, all of them.
        accuracies: The accuracy a_k at each of them, in any unit.
        delta: The share of the full accuracy, above 0 and at most 1.

    Raises:
        UsageError: If the curve is empty, its two lengths differ, or the share is outside its limits.

    >>> diffused_redundancy([1, 2, 4, 8], [0.3, 0.72, 0.78, 0.8])
    0.75

    Source: Nanda et al. 2023 (arXiv 2306.00183), diffused redundancy.
    """
    return 1 - least_dimensions(dimensions, accuracies, delta) / dimensions[-1]


def redundancy(
    features: Any,
    labels: Any,
    test_features: Any,
    test_labels: Any,
    *,
    draws: int = DRAWS,
    dimensions: Sequence[int] | None = None,
    probe: LinearProbe | None = None,
    seed: int = 0,
) -> Redundancy:
    r"""How the accuracy of a linear probe grows with the number of directions, for four kinds of directions.

    .. math:: \mathrm{DR}(\delta) = 1 - k^* / D, \qquad k^* = \min \{ k : a_k \ge \delta \, a_D \}

    - `channels`: k random channels. This is the diffused redundancy of the source.
    - `principal`: the k largest principal directions of the training features.
    - `least`: the k smallest ones.
    - `random`: k random orthonormal directions, the control.

    The accuracy a_k is the mean over draws. At k = D, all kinds have the accuracy of the probe on all
    features, by definition. DR of `channels` depends on the basis: a rotation of the features changes it,
    although no accuracy on all features changes. DR of the other kinds does not depend on the basis. So
    redundancy of channels alone is a matter of the basis if `random` does not share it.

    With fewer rows than channels, or with constant channels, some directions have no variance in training.
    They count as directions of `least`, come first there, and give a constant prediction. If D is above
    N + M, random directions are drawn in the span of all rows, and more directions than it has give the full
    accuracy.

    It cannot see chance: if a constant guess reaches the share, DR is near 1 and says nothing. A high DR
    may still cost single classes their accuracy, so each point has that of the worst class too.

    Args:
        features: Training features (N, D).
        labels: Training labels (N,), whole numbers or words; rows with the label -1 or "" are left out.
        test_features: Test features (M, D).
        test_labels: Test labels (M,), of the same kind. A class that training lacks counts as an error.
        draws: The number of draws of channels and of random directions.
        dimensions: The values of k, from 1 to D; None is 1, 2, 4, ... D is always added.
        probe: A probe fitted on all features, whose settings and penalty every k uses. None fits one.
        seed: Seed of the draws.

    Returns:
        The curves, the accuracy on all features, and DR for any share.

    Raises:
        UsageError: If k is below 1 or above D, draws are below 1, or shapes do not fit.
        DataError: If there are fewer than two classes, no test label, or features are not finite.

    >>> import torch
    >>> y = torch.arange(80) % 2
    >>> x = y[:, None].expand(80, 8).float()  # eight copies of one channel
    >>> result = redundancy(x, y, x, y)
    >>> result.least_dimensions(), result.diffused(), result.diffused(kind="least")
    (1, 0.875, 0.0)

    Source: Nanda et al. 2023 (arXiv 2306.00183), whose code has these four kinds. The grid of k is ours.
    """
    if draws < 1:
        raise UsageError(f"draws must be 1 or more, but got {draws}; the default is {DRAWS}.")
    rows = ProbedRows.of(features, labels, test_features, test_labels, probe)
    sizes = powers_of_two(rows.width) if dimensions is None else dimensions
    below = [k for k in sorted(set(checked_dimensions(rows.width, sizes))) if k < rows.width]
    return redundancy_of(rows, below, draws, seed)


def redundancy_of(
    rows: ProbedRows,
    below: Iterable[int],
    draws: int = DRAWS,
    seed: int = 0,
    brief: Collection[str] = (),
) -> Redundancy:
    """`redundancy` of rows with a probe.

    Args:
        rows: The rows and the probe.
        below: The values of k below D, ascending. All kinds of one k are measured before the next.
        draws: The number of draws of random kinds.
        seed: Seed of the draws.
        brief: Kinds whose curves, to save time, leave out what is between k* and D, for DR(0.9).
    """
    by_kind = _projections(rows, draws, seed)
    curves: dict[str, list[Reduced]] = {name: [] for name in by_kind}
    enough = _enough(DELTA, rows.accuracy)
    for k in below:
        for name, projections in by_kind.items():
            if name in brief and curves[name] and curves[name][-1].mean >= enough:
                continue
            curves[name].append(rows.in_directions(projections, k, span=name != CHANNELS.name))
    for name, projections in by_kind.items():
        accuracies = (rows.accuracy,) * len(projections)
        curves[name].append(Reduced(rows.width, rows.accuracy, accuracies, rows.worst_class))
    ascending = {name: tuple(curve) for name, curve in curves.items()}
    return Redundancy(rows.width, rows.accuracy, rows.worst_class, ascending)


def _projections(rows: ProbedRows, draws: int, seed: int) -> dict[str, list[Projection]]:
    """The projections of each kind: of channels for the features, of the others for their span."""
    by_kind = {}
    for kind in KINDS:
        features = rows.train if kind is CHANNELS else rows.span[0]
        drawn = kind if kind.draws == 1 else replace(kind, draws=draws)
        by_kind[kind.name] = drawn.projections(features, features.shape[1], seed)
    outside = rows.width - rows.span[0].shape[1]
    # Directions outside the span of all rows have no variance, so they are the first of the least.
    by_kind[LEAST.name] = [_after(outside, project) for project in by_kind[LEAST.name]]
    return by_kind


def _after(outside: int, project: Projection) -> Projection:
    return lambda rows, k: project(rows, k - outside)
