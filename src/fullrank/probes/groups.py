"""Accuracy by class and by group, and which classes get more predictions than they have rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fullrank.errors import DataError, UsageError
from fullrank.probes.probe import label_vector


@dataclass(frozen=True)
class PerClass:
    """Predictions by true class, in ascending order of the classes that have labelled rows.

    `counts` is how many rows a class has, `accuracy` the share of them that is predicted right, 0 to 1, and
    `bias` the number of rows predicted to be of the class over the number that are: above 1 it gets too many.
    `absent` are the classes asked for that have no row; they stand nowhere else.
    """

    accuracy: dict[int, float]
    counts: dict[int, int]
    bias: dict[int, float]
    absent: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """Mean accuracy over the classes, each counted once (balanced accuracy)."""
        return float(np.mean(list(self.accuracy.values())))

    @property
    def std(self) -> float:
        """Standard deviation of the accuracies over the classes (1/C)."""
        return float(np.std(list(self.accuracy.values())))

    @property
    def worst_class(self) -> int:
        """The class of lowest accuracy; of several the smallest."""
        return min(self.accuracy, key=self.accuracy.__getitem__)

    @property
    def best_class(self) -> int:
        """The class of highest accuracy; of several the smallest."""
        return max(self.accuracy, key=self.accuracy.__getitem__)

    @property
    def worst(self) -> float:
        """The lowest accuracy of a class."""
        return self.accuracy[self.worst_class]

    @property
    def best(self) -> float:
        """The highest accuracy of a class."""
        return self.accuracy[self.best_class]


def per_class(predicted: Any, labels: Any, num_classes: int | None = None) -> PerClass:
    r"""Accuracy and prediction bias of each class that occurs in `labels`.

    .. math:: a_c = \frac{|\{i : \hat y_i = y_i = c\}|}{|\{i : y_i = c\}|}, \qquad
              b_c = \frac{|\{i : \hat y_i = c\}|}{|\{i : y_i = c\}|}

    Predictions of a class that has no rows count as misses of the true class, and no bias is given for it.
    `num_classes` says that classes are 0 to num_classes - 1, and so which are absent.

    Shapes: predicted (N,), labels (N,), -1 where unlabelled; such rows are left out. Raises UsageError for
    shapes that do not fit, values that are not whole numbers, or a label beyond `num_classes`, DataError
    where nothing is labelled.

    >>> found = per_class([0, 1, 1, 1], [0, 0, 1, -1], num_classes=3)
    >>> found.accuracy, found.bias, found.mean, found.worst_class, found.absent
    ({0: 0.5, 1: 1.0}, {0: 0.5, 1: 2.0}, 0.75, 0, (2,))

    Source: the bias is that of "Classes Are Not Equal" (arXiv 2402.18133).
    """
    guess, truth = label_vector(predicted), label_vector(labels)
    if len(guess) != len(truth):
        raise UsageError(
            f"Predictions and labels must have the same length, but got {len(guess)} and {len(truth)}; give "
            "one of each a row."
        )
    labelled = truth != -1
    guess, truth = guess[labelled.to(guess.device)].to(truth.device), truth[labelled]
    if not len(truth):
        raise DataError("No row is labelled (all labels are -1); accuracy by class needs 1 labelled row.")
    if num_classes is not None and (truth.min() < 0 or truth.max() >= num_classes):
        raise UsageError(
            f"Labels must be class numbers from 0 to {num_classes - 1}, but got {int(truth.min())} to "
            f"{int(truth.max())}; give the number of classes there are."
        )
    classes, numbers, counts = torch.unique(truth, return_inverse=True, return_counts=True)
    hits = torch.bincount(numbers[guess == truth], minlength=len(classes))
    # A guess that is no class of the truth gets a number behind them all, and is cut off.
    places = torch.searchsorted(classes, guess)
    known = classes[places.clamp(max=len(classes) - 1)] == guess
    given = torch.bincount(torch.where(known, places, len(classes)), minlength=len(classes))[: len(classes)]
    names = classes.tolist()
    return PerClass(
        accuracy=dict(zip(names, (hits / counts.double()).tolist(), strict=True)),
        counts=dict(zip(names, counts.tolist(), strict=True)),
        bias=dict(zip(names, (given / counts.double()).tolist(), strict=True)),
        absent=tuple(sorted(set(range(num_classes or 0)) - set(names))),
    )


@dataclass(frozen=True)
class GroupAccuracy:
    """Hits by group, in ascending order of the groups that have rows.

    `counts` is how many rows a group has, `accuracy` the share of them that is predicted right, 0 to 1.
    `empty` are the groups asked for that have no row; they stand nowhere else.
    """

    accuracy: dict[int, float]
    counts: dict[int, int]
    empty: tuple[int, ...] = ()

    @property
    def worst_group(self) -> int:
        """The group of lowest accuracy; of several the smallest."""
        return min(self.accuracy, key=self.accuracy.__getitem__)

    @property
    def worst(self) -> float:
        """The lowest accuracy of a group."""
        return self.accuracy[self.worst_group]

    @property
    def mean(self) -> float:
        """Mean accuracy over the groups, each counted once."""
        return float(np.mean(list(self.accuracy.values())))

    @property
    def average(self) -> float:
        """Accuracy over the rows, so each group counts as many times as it has rows."""
        return float(np.average(list(self.accuracy.values()), weights=list(self.counts.values())))

    def weighted(self, train_groups: Any) -> float:
        r"""Accuracy where each group counts as often as it occurs in training: Waterbirds' average accuracy.

        .. math:: \frac{\sum_g n_g a_g}{\sum_g n_g}, \quad n_g
                  \text{ the rows of group } g \text{ among } \texttt{train\_groups}

        A group that is empty here is left out of both sums. Shapes: train_groups (M,), -1 where unknown.
        Raises DataError where no group has rows both here and in training.

        >>> group_accuracy([1, 1, 0], [1, 0, 0], [4, 5, 5]).weighted([4, 4, 4, 5])
        0.875

        Source: Sagawa et al. 2020 (arXiv 1911.08731), on Waterbirds.
        """
        values, counts = torch.unique(label_vector(train_groups), return_counts=True)
        times = dict(zip(values.tolist(), counts.tolist(), strict=True))
        weights = [times.get(group, 0) for group in self.accuracy]
        if not sum(weights):
            raise DataError(
                f"None of the {len(self.accuracy)} groups with test rows has a training row; number the "
                "groups alike in both."
            )
        return float(np.average(list(self.accuracy.values()), weights=weights))


def group_accuracy(predicted: Any, labels: Any, groups: Any, num_groups: int | None = None) -> GroupAccuracy:
    r"""Accuracy in each group that occurs, of predictions of the labels.

    .. math:: a_g = \frac{|\{i : \hat y_i = y_i,\ g_i = g\}|}{|\{i : g_i = g\}|}

    A group is any division of the rows, as label and background together. `num_groups` says that groups are 0
    to num_groups - 1, and so which are empty: these are named, and count neither as 0 nor otherwise.

    Shapes: predicted, labels and groups (N,); rows whose label or group is -1 are left out. Raises UsageError
    for shapes that do not fit, values that are not whole numbers, or a group beyond `num_groups`, DataError
    where no row is left.

    >>> found = group_accuracy([0, 1, 1, 1], [0, 0, 1, 1], [0, 1, 2, 2], num_groups=4)
    >>> found.accuracy, found.worst_group, found.mean, found.average, found.empty
    ({0: 1.0, 1: 0.0, 2: 1.0}, 1, 0.6666666666666666, 0.75, (3,))
    """
    guess, truth, group = label_vector(predicted), label_vector(labels), label_vector(groups)
    if not len(guess) == len(truth) == len(group):
        raise UsageError(
            f"Predictions, labels and groups must have the same length, but got {len(guess)}, {len(truth)} "
            f"and {len(group)}; give one of each a row."
        )
    guess, truth, group = guess.cpu(), truth.cpu(), group.cpu()
    known = (truth != -1) & (group != -1)
    hits, group = (guess == truth)[known], group[known]
    if not len(group):
        raise DataError(
            "No row has both a label and a group, so every group is empty; accuracy by group needs 1 such "
            "row."
        )
    if num_groups is not None and (group.min() < 0 or group.max() >= num_groups):
        raise UsageError(
            f"Groups must be numbers from 0 to {num_groups - 1}, but got {int(group.min())} to "
            f"{int(group.max())}; give the number of groups there are."
        )
    values, numbers, counts = torch.unique(group, return_inverse=True, return_counts=True)
    right = torch.bincount(numbers[hits], minlength=len(values))
    names = values.tolist()
    return GroupAccuracy(
        accuracy=dict(zip(names, (right / counts.double()).tolist(), strict=True)),
        counts=dict(zip(names, counts.tolist(), strict=True)),
        empty=tuple(sorted(set(range(num_groups or 0)) - set(names))),
    )
