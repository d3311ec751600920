"""Deep feature reweighting: a linear probe fitted on subsets in which all groups have the same size."""

from collections.abc import Sequence
from copy import copy
from statistics import median_high
from typing import Any

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.probes.linear import LinearProbe, Treatment
from fullrank.probes.probe import label_table, labelled_rows, rows_by_value, shuffled


def balanced_probe(
    features: Any,
    labels: Any,
    groups: Any,
    *,
    num_groups: int | None = None,
    draws: int = 10,
    penalties: Sequence[float] | None = None,
    treatment: Treatment = "raw",
    seed: int = 0,
) -> LinearProbe:
    r"""A linear probe fitted on group-balanced subsets, so that large groups do not dominate.

    Each of `draws` random subsets has :math:`\min_g n_g` rows of every group. A `LinearProbe` is fitted on
    each and chooses its penalty. The median choice (of two the larger) is then used for all subsets, and the
    weights and biases of the solutions are averaged:

    .. math:: W = \frac1E \sum_e W_e, \qquad b = \frac1E \sum_e b_e

    As with a linear probe, a shift, an overall scale or a rotation of the features changes no prediction. The
    penalty is L2. The authors use L1 on standardised features and choose it by worst-group accuracy on a
    validation split.

    Args:
        features: Features (N, D).
        labels: Labels (N,); rows with the label -1 are left out.
        groups: Groups (N,); rows with the group -1 are left out.
        num_groups: Groups are 0 to num_groups - 1, and one without rows is an error.
        draws: Number of subsets.
        penalties: The penalties to choose from, see `LinearProbe`.
        treatment: What is done to the features first, see `LinearProbe`.
        seed: Seed of the subsets.

    Returns:
        A fitted `LinearProbe`. Its `penalty` is the common one, and its `held_out` that of the first subset.

    Raises:
        UsageError: If `draws` is below 1 or shapes do not fit.
        DataError: If a group is empty or there are fewer than two groups. Also whatever `LinearProbe` raises.

    >>> generator = torch.Generator().manual_seed(0)
    >>> y, cue = torch.arange(400) % 2, (torch.arange(400) + (torch.arange(400) % 20 < 2)) % 2
    >>> x = torch.stack([y, 5 * cue], 1) + 0.5 * torch.randn(400, 2, generator=generator)
    >>> probe = balanced_probe(x, y, 2 * y + cue)
    >>> bool(probe.weight[1, 0] > 10 * probe.weight[1, 1].abs())
    True

    Source: Kirichenko, Izmailov, Wilson 2023 (arXiv 2204.02937), as DFR on a subset of the training rows.
    """
    if draws < 1:
        raise UsageError(f"A balanced probe needs 1 draw or more, but got {draws}; the default is 10.")
    classes, group = label_table("Labels and groups", labels, groups).unbind(1)
    rows, truth = labelled_rows(features, torch.where(group != -1, classes, -1))
    members = _members(group[(group != -1) & (classes != -1)].to(rows.device), num_groups)
    size = min(map(len, members))
    generator = torch.Generator().manual_seed(seed)
    subsets = [torch.cat([each[:size] for each in shuffled(members, generator)]) for _ in range(draws)]

    def fit(subset: Tensor, choices: Sequence[float] | None) -> LinearProbe:
        return LinearProbe(choices, features=treatment, seed=seed).fit(rows[subset], truth[subset])

    chosen = [fit(subset, penalties) for subset in subsets]
    penalty = median_high(probe.penalty for probe in chosen)
    pairs = zip(chosen, subsets, strict=True)
    solved = [probe if probe.penalty == penalty else fit(subset, [penalty]) for probe, subset in pairs]
    averaged = copy(chosen[0])
    averaged.weight = torch.stack([probe.weight for probe in solved]).mean(0)
    averaged.bias = torch.stack([probe.bias for probe in solved]).mean(0)
    averaged.penalty = penalty
    return averaged


def _members(groups: Tensor, num_groups: int | None) -> list[Tensor]:
    """The row numbers of each group, ascending; DataError for an empty group or fewer than two groups."""
    values = set(groups.tolist())
    if num_groups is not None and (empty := sorted(set(range(num_groups)) - values)):
        raise DataError(
            f"{len(empty)} of {num_groups} groups have no labelled row, the first is {empty[0]}; give 1 or "
            "more of each, or leave the groups out."
        )
    if len(values) < 2:
        raise DataError(
            f"A balanced probe needs rows of at least 2 groups, but got {len(values)} in {len(groups)} "
            "labelled rows; give more, or fit a LinearProbe."
        )
    return rows_by_value(groups)
