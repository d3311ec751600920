"""What correction vectors do to each channel, by group: the explanation of a correction."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError


@dataclass(frozen=True, eq=False)
class CorrectionEffect:
    """Means of correction vectors by group, in float64.

    Attributes:
        groups: The numbers of the groups that have rows, ascending, (G,).
        counts: The number of rows of each, (G,).
        mean: The mean of w_j over the rows of each group, (G, D): above 0 a bonus, below 0 a penalty.
        size: The mean of |w_j| over the rows of each group, (G, D).
        common: The share of the mean of |w|^2 that is the squared mean over all rows, 0 to 1.
        between: The share that is the variance of the groups' means; the rest varies within groups. Both
            shares are 0 where w is 0.
    """

    groups: Tensor
    counts: Tensor
    mean: Tensor
    size: Tensor
    common: float
    between: float

    def differing(self, most: int) -> Tensor:
        """At most `most` channels, those whose means differ most between groups first, then the largest."""
        by_size = self.size.amax(0).argsort(descending=True, stable=True)
        ranges = self.mean.amax(0) - self.mean.amin(0)
        return by_size[ranges[by_size].argsort(descending=True, stable=True)][:most]


def correction_effect(vectors: Tensor, groups: Tensor) -> CorrectionEffect:
    r"""The mean of w_j and of \|w_j\| for each channel j and each group of rows.

    Args:
        vectors: The correction vectors w of N rows, (N, D).
        groups: The group of each row, (N,) int64; rows of -1 are left out.

    Raises:
        UsageError: The shapes do not match.
        DataError: No row has a group, or a vector is not finite.

    >>> vectors = torch.tensor([[1.0, -1.0], [1.0, 1.0], [0.0, 4.0]])
    >>> effect = correction_effect(vectors, torch.tensor([0, 0, 2]))
    >>> effect.groups.tolist(), effect.mean.tolist(), effect.size.tolist()
    ([0, 2], [[1.0, 0.0], [0.0, 4.0]], [[1.0, 1.0], [0.0, 4.0]])
    >>> round(effect.common, 3), round(effect.between, 3)
    (0.333, 0.567)

    What it cannot see: how the corrections of two channels go together, and whether a correction helps. A
    shift that is equal in all groups does not bring them closer.

    Source: Cerrato et al. 2022 (2201.06343), which reads w as a bonus or penalty for each feature.
    """
    if vectors.ndim != 2 or groups.shape != vectors.shape[:1]:
        raise UsageError(
            f"Expected vectors (N, D) and a group for each, but got {tuple(vectors.shape)} and "
            f"{tuple(groups.shape)}; give one group number for each row."
        )
    known = groups >= 0
    if not known.any():
        raise DataError(f"None of the {len(groups)} rows has a group; give numbers of 0 or more.")
    rows = vectors.detach()[known].double()
    if not rows.isfinite().all():
        raise DataError("A correction vector is not finite; check the features and the training.")
    present, place, counts = torch.unique(groups[known], return_inverse=True, return_counts=True)
    member = (place == torch.arange(len(present), device=place.device)[:, None]).double() / counts[:, None]
    mean, total, power = member @ rows, rows.mean(0), float(rows.square().sum(1).mean())
    variance = float((counts.double() @ (mean - total).square()).sum()) / len(rows)
    shares = (float(total.square().sum()) / power, variance / power) if power else (0.0, 0.0)
    return CorrectionEffect(present, counts, mean, member @ rows.abs(), *shares)
