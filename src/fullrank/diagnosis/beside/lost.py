"""What was lost: the principal directions of one set of features that a linear map of another cannot find."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fullrank.embeddings.columns import UNLABELLED
from fullrank.record import LostDirection
from fullrank.spectrum.similarity import JointMoments

# So many directions are named.
_MOST = 8
# A direction is lost if a linear map explains less than this share of its variance.
LOST = 0.5
# Smaller directions are not named: together, all that are smaller are rarely more than noise.
_LEAST_VARIANCE = 0.005
# A direction separates two classes whose means are as far apart as rows of one class spread.
_APART = 1.0


def lost_directions(
    moments: JointMoments,
    place: str,
    *,
    features: Tensor | None = None,
    labels: np.ndarray | None = None,
    classes: Sequence[str] = (),
) -> list[LostDirection]:
    """The largest principal directions of the first set that the second has lost, at most 8.

    A direction is lost if a linear map of the second set explains less than half of its variance. Directions
    with less than 0.5 % of all variance are left out.

    - A direction that is kept in a nonlinear form counts as lost.
    - A direction may have held nothing but noise.

    Args:
        moments: The joint moments of both sets.
        place: The name of the place, for the record.
        features: Some rows of the first set, (n, D), in the coordinates of the moments.
        labels: Their labels, (n,), -1 for none. With them each direction has the two classes whose means it
            sets furthest apart, if these are further apart than rows of one class spread.
        classes: The name of each label. The default is its number.

    >>> from fullrank.spectrum import joint_moments
    >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 2.0, 1.0])
    >>> [direction.number for direction in lost_directions(joint_moments([(x, x[:, 1:])]), "h")]
    [1]
    """
    kept = moments.kept
    variances = kept.variances / kept.variances.sum()
    lost = ((kept.shares < LOST) & (variances >= _LEAST_VARIANCE)).nonzero()[:_MOST, 0]
    named: list[list[str]] = [[] for _ in lost]
    if features is not None and labels is not None and len(lost):
        named = _most_separated(features.double() @ kept.directions[:, lost], labels, classes)
    return [
        LostDirection(
            place=place,
            number=int(k) + 1,
            variance=float(variances[k]),
            kept=max(float(kept.shares[k]), 0.0),
            classes=names,
        )
        for k, names in zip(lost, named, strict=True)
    ]


def _most_separated(values: Tensor, labels: np.ndarray, classes: Sequence[str]) -> list[list[str]]:
    """For each column of values (n, K) the two classes with the most unlike means; none if they overlap."""
    numbers, codes = np.unique(labels[labels != UNLABELLED], return_inverse=True)
    if len(numbers) < 2:
        return [[] for _ in range(values.shape[1])]
    columns = values[torch.from_numpy(labels != UNLABELLED)]
    members = torch.from_numpy(codes)
    counts = torch.bincount(members).double()[:, None]
    means = columns.new_zeros(len(numbers), columns.shape[1]).index_add_(0, members, columns) / counts
    within = (columns - means[members]).square().mean(0).sqrt()
    names = [classes[number] if len(classes) else str(number) for number in numbers]
    separated = means.amax(0) - means.amin(0) >= _APART * within
    ends = zip(means.argmax(0).tolist(), means.argmin(0).tolist(), separated.tolist(), strict=True)
    return [sorted((names[high], names[low])) if apart else [] for high, low, apart in ends]
