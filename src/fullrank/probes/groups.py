"""Accuracy by class and by group, and the prediction bias of each class."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.probes.probe import label_table, label_vector


@dataclass(frozen=True)
class _Accuracies:
    """The share of correctly predicted rows, 0 to 1, and the number of rows, by class or group."""

    accuracy: dict[int, float]
    counts: dict[int, int]

    @property
    def mean(self) -> float:
        """Mean accuracy over the classes or groups with equal weights (for classes: balanced accuracy)."""
        return float(np.mean(list(self.accuracy.values())))

    @property
    def worst(self) -> float:
        """The lowest accuracy of a class or group."""
        return min(self.accuracy.values())


@dataclass(frozen=True)
class PerClass(_Accuracies):
    """Accuracy and prediction bias of each class with labelled rows, in ascending order.

    Attributes:
        accuracy: Class -> accuracy, 0 to 1.
        counts: Class -> number of rows.
        bias: Class -> number of predictions of the class over its number of rows; above 1 are too many.
        absent: The classes below `num_classes` without a row; they occur nowhere else.
    """

    bias: dict[int, float]
    absent: tuple[int, ...] = ()

    @property
    def std(self) -> float:
        """Standard deviation of the accuracies over the classes (1/C)."""
        return float(np.std(list(self.accuracy.values())))

    @property
    def worst_class(self) -> int:
        """The class with the lowest accuracy; among equal ones the smallest number."""
        return min(self.accuracy, key=self.accuracy.__getitem__)

    @property
    def best_class(self) -> int:
        """The class with the highest accuracy; among equal ones the smallest number."""
        return max(self.accuracy, key=self.accuracy.__getitem__)

    @property
    def best(self) -> float:
        """The highest accuracy of a class."""
        return max(self.accuracy.values())


def per_class(predicted: Any, labels: Any, num_classes: int | None = None) -> PerClass:
    r"""Accuracy and prediction bias of each class that occurs in `labels`.

    .. math:: a_c = \frac{|\{i : \hat y_i = y_i = c\}|}{|\{i : y_i = c\}|}, \qquad
              b_c = \frac{|\{i : \hat y_i = c\}|}{|\{i : y_i = c\}|}

    A prediction of a class without rows counts as an error of the true class. Such a class has no bias.

    Args:
        predicted: Predicted labels (N,).
        labels: Labels (N,); rows with the label -1 are left out.
        num_classes: Classes are 0 to num_classes - 1; those without rows are `absent`.

    Raises:
        UsageError: If shapes do not fit, values are not whole numbers, or a label is beyond `num_classes`.
        DataError: If no row is labelled.

    >>> result = per_class([0, 1, 1, 1], [0, 0, 1, -1], num_classes=3)
    >>> result.accuracy, result.bias, result.mean, result.worst_class, result.absent
    ({0: 0.5, 1: 1.0}, {0: 0.5, 1: 2.0}, 0.75, 0, (2,))

    Source: the bias is that of "Classes Are Not Equal" (arXiv 2402.18133).
    """
    table = label_table("Predictions and labels", predicted, labels)
    guess, truth = table[table[:, 1] != -1].unbind(1)
    if not len(truth):
        raise DataError("No row is labelled (all labels are -1); accuracy by class needs 1 labelled row.")
    absent = _missing(truth, num_classes, "Labels must be class numbers", "classes")
    accuracy, counts = _accuracies(guess == truth, truth)
    bias = {value: int((guess == value).sum()) / count for value, count in counts.items()}
    return PerClass(accuracy, counts, bias, absent)


@dataclass(frozen=True)
class GroupAccuracy(_Accuracies):
    """Accuracy of each group with rows, in ascending order.

    Attributes:
        accuracy: Group -> accuracy, 0 to 1.
        counts: Group -> number of rows.
        empty: The groups below `num_groups` without a row; they occur nowhere else.
    """

    empty: tuple[int, ...] = ()

    @property
    def worst_group(self) -> int:
        """The group with the lowest accuracy; among equal ones the smallest number."""
        return min(self.accuracy, key=self.accuracy.__getitem__)

    @property
    def average(self) -> float:
        """Accuracy over all rows, so that each group has the weight of its rows."""
        return float(np.average(list(self.accuracy.values()), weights=list(self.counts.values())))

    def weighted(self, train_groups: Any) -> float:
        r"""Mean accuracy with the group sizes of training as weights: Waterbirds' average accuracy.

        .. math:: \frac{\sum_g n_g a_g}{\sum_g n_g}, \quad n_g
                  \text{ the rows of group } g \text{ among } \texttt{train\_groups}

        A group without test rows is left out of both sums.

        Args:
            train_groups: Groups of the training rows (M,); -1 if unknown.

        Raises:
            DataError: If no group has both training and test rows.

        >>> group_accuracy([1, 1, 0], [1, 0, 0], [4, 5, 5]).weighted([4, 4, 4, 5])
        0.875

        Source: Sagawa et al. 2020 (arXiv 1911.08731), on Waterbirds.
        """
        times = Counter(label_vector(train_groups).tolist())
        weights = [times[group] for group in self.accuracy]
        if not any(weights):
            groups = f"the {len(self.accuracy)} groups with test rows"
            raise DataError(f"None of {groups} has a training row; use the same group numbers in both.")
        return float(np.average(list(self.accuracy.values()), weights=weights))


def group_accuracy(predicted: Any, labels: Any, groups: Any, num_groups: int | None = None) -> GroupAccuracy:
    r"""Accuracy in each group that occurs.

    .. math:: a_g = \frac{|\{i : \hat y_i = y_i,\ g_i = g\}|}{|\{i : g_i = g\}|}

    Groups can be any division of the rows, such as label and background together.

    Args:
        predicted: Predicted labels (N,).
        labels: Labels (N,). Rows with -1 as label or group are left out.
        groups: Groups (N,).
        num_groups: Groups are 0 to num_groups - 1; those without rows are listed in `empty` and have no
            accuracy.

    Raises:
        UsageError: If shapes do not fit, values are not whole numbers, or a group is beyond `num_groups`.
        DataError: If no row is left.

    >>> result = group_accuracy([0, 1, 1, 1], [0, 0, 1, 1], [0, 1, 2, 2], num_groups=4)
    >>> result.accuracy, result.worst_group, result.mean, result.average, result.empty
    ({0: 1.0, 1: 0.0, 2: 1.0}, 1, 0.6666666666666666, 0.75, (3,))
    """
    table = label_table("Predictions, labels and groups", predicted, labels, groups)
    guess, truth, group = table[(table[:, 1:] != -1).all(1)].unbind(1)
    if not len(group):
        raise DataError("No row has both a label and a group; accuracy by group needs 1 such row.")
    empty = _missing(group, num_groups, "Groups must be numbers", "groups")
    return GroupAccuracy(*_accuracies(guess == truth, group), empty)


def _accuracies(right: Tensor, values: Tensor) -> tuple[dict[int, float], dict[int, int]]:
    """The share of correct rows, and the number of rows, for each value that occurs, ascending."""
    names, numbers, counts = torch.unique(values, return_inverse=True, return_counts=True)
    shares = torch.bincount(numbers[right], minlength=len(names)) / counts.double()
    return (
        dict(zip(names.tolist(), shares.tolist(), strict=True)),
        dict(zip(names.tolist(), counts.tolist(), strict=True)),
    )


def _missing(values: Tensor, count: int | None, must_be: str, what: str) -> tuple[int, ...]:
    """The numbers below `count` that do not occur; UsageError for a value that is not below it."""
    if count is None:
        return ()
    if values.min() < 0 or values.max() >= count:
        ends = f"{int(values.min())} to {int(values.max())}"
        raise UsageError(f"{must_be} from 0 to {count - 1}, but got {ends}; correct the number of {what}.")
    return tuple(sorted(set(range(count)) - set(values.tolist())))
