"""Deep feature reweighting: the linear probe fitted on subsets in which all groups are of one size."""

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
    r"""A linear probe that cannot gain by what distinguishes large groups from small ones.

    Each of `draws` subsets holds :math:`\min_g n_g` rows of every group, drawn at random from `seed`. On each
    a `LinearProbe` is fitted, its penalty chosen as that class does; the median choice (of two the larger)
    then holds for all, and the weights and biases of the solutions are averaged:

    .. math:: W = \frac1E \sum_e W_e, \qquad b = \frac1E \sum_e b_e

    Like a linear probe's, its predictions change under no shift, overall scale or rotation. The penalty is
    L2; the authors' is L1, on standardised features, chosen by worst-group accuracy on a validation split.

    Shapes: features (N, D), labels and groups (N,); rows whose label or group is -1 are left out. Returns a
    fitted `LinearProbe`, whose `penalty` is the one in force and whose `held_out` is the first draw's.
    `num_groups` says that groups are 0 to num_groups - 1, so that one without rows is an error. Raises
    UsageError for draws below 1 or shapes that do not fit, DataError for an empty group or fewer than two
    groups, and what `LinearProbe` raises.

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
    """The row numbers of each group, in ascending order; DataError for one without rows, or for one alone."""
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
