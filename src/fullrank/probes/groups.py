"""Accuracy by class and by group, and what the predictions of each class say about it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.probes.probe import joint_numbers, label_table, label_vector
from fullrank.statistics import binomial_error, correlations, extreme_count, mean_ranks

Value = TypeVar("Value")


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
    """Accuracy and predictions of each class with labelled rows, in ascending order.

    A class is a number, or a word where the labels were words.

    Attributes:
        accuracy: Class -> accuracy, 0 to 1.
        counts: Class -> number of rows.
        bias: Class -> number of predictions of the class over its number of rows; above 1 are too many.
        absent: The classes below `num_classes` without a row; they occur nowhere else.
        false_positives: Class -> number of rows of other classes that are predicted as it.
        confusions: Class -> the class that it is most often taken for, and how many of its rows are; among
            equal ones the smallest. A class without an error is left out.
    """

    bias: dict[int, float]
    absent: tuple[int, ...] = ()
    false_positives: dict[int, int] = field(default_factory=dict)
    confusions: dict[int, tuple[int, int]] = field(default_factory=dict)

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

    @property
    def errors(self) -> dict[int, float]:
        """Class -> the binomial standard error of its accuracy, from its number of rows."""
        return {label: binomial_error(share, self.counts[label]) for label, share in self.accuracy.items()}

    @property
    def ranked(self) -> tuple[int, ...]:
        """The classes by accuracy, the lowest first; among equal ones the smallest first."""
        return tuple(sorted(self.accuracy, key=self.accuracy.__getitem__))

    @property
    def extremes(self) -> int:
        """How many classes `worst_group` and `best_group` have: 1 in 20, at least 2 and at most half."""
        return extreme_count(len(self.accuracy))

    @property
    def worst_group(self) -> float:
        """Mean accuracy of the `extremes` classes with the lowest accuracies."""
        return float(np.mean([self.accuracy[label] for label in self.ranked[: self.extremes]]))

    @property
    def best_group(self) -> float:
        """Mean accuracy of the `extremes` classes with the highest accuracies."""
        return float(np.mean([self.accuracy[label] for label in self.ranked[-self.extremes :]]))

    @property
    def bias_correlation(self) -> float | None:
        """Pearson correlation of bias and accuracy over classes; None below 3, or where one is constant."""
        return _correlation(list(self.bias.values()), list(self.accuracy.values()))


def per_class(predicted: Any, labels: Any, num_classes: int | None = None) -> PerClass:
    r"""Accuracy, prediction bias and false positives of each class that occurs in `labels`.

    .. math:: a_c = \frac{|\{i : \hat y_i = y_i = c\}|}{|\{i : y_i = c\}|}, \qquad
              b_c = \frac{|\{i : \hat y_i = c\}|}{|\{i : y_i = c\}|}, \qquad
              f_c = |\{i : \hat y_i = c \neq y_i\}|

    A prediction of a class without rows counts as an error of the true class. Such a class has no bias.
    The bias divides by the number of rows of the class, also where classes have different numbers of rows.
    A small class beside large ones then has a bias far above 1 from few errors of the large ones. An
    accuracy of few rows is uncertain: see `errors`, and compare `std` with them.

    Args:
        predicted: Predicted labels (N,).
        labels: Labels (N,), whole numbers or words; rows with the label -1 or "" are left out.
        num_classes: Classes are 0 to num_classes - 1; those without rows are `absent`.

    Raises:
        UsageError: If shapes or kinds of labels do not fit, or a label is beyond `num_classes`.
        DataError: If no row is labelled.

    >>> result = per_class([0, 1, 1, 1], [0, 0, 1, -1], num_classes=3)
    >>> result.accuracy, result.bias, result.mean, result.worst_class, result.absent
    ({0: 0.5, 1: 1.0}, {0: 0.5, 1: 2.0}, 0.75, 0, (2,))
    >>> result.false_positives, result.confusions
    ({0: 0, 1: 1}, {0: (1, 1)})

    Source: the bias is that of "Classes Are Not Equal" (arXiv 2402.18133).
    """
    (predicted, labels), words = joint_numbers(predicted, labels)
    if words is not None and num_classes is not None:
        raise UsageError(f"num_classes is {num_classes}, but the labels are words; leave it out.")
    table = label_table("Predictions and labels", predicted, labels)
    guess, truth = table[table[:, 1] != -1].unbind(1)
    if not len(truth):
        raise DataError("No row is labelled (all labels are -1); accuracy by class needs 1 labelled row.")
    absent = _missing(truth, num_classes, "Labels must be class numbers", "classes")
    accuracy, counts = _accuracies(guess == truth, truth)
    times, right = (Counter(values.tolist()) for values in (guess, truth[guess == truth]))
    bias = {value: times[value] / count for value, count in counts.items()}
    false = {value: times[value] - right[value] for value in counts}
    confusions = _confusions(guess, truth)
    if words is None:
        return PerClass(accuracy, counts, bias, absent, false, confusions)
    taken_for = {value: (_word(words, other), count) for value, (other, count) in confusions.items()}
    return PerClass(
        accuracy=_by_word(words, accuracy),
        counts=_by_word(words, counts),
        bias=_by_word(words, bias),
        false_positives=_by_word(words, false),
        confusions=_by_word(words, taken_for),
    )


def agreement(one: PerClass, other: PerClass) -> float | None:
    r"""Spearman correlation of two probes' accuracies over the classes that both have.

    1: the two rank the classes alike. 0: what is hard for the one says nothing about the other. None for
    fewer than 3 classes, or where all accuracies of one are equal. Equal accuracies have their mean rank.
    It compares ranks alone: it is 1 also where one probe is far better than the other. The chance errors of
    accuracies from few rows lower it.

    Args:
        one: The accuracies of one probe.
        other: Those of another probe on the same rows.

    >>> one = per_class([0, 0, 1, 0, 2, 2], [0, 0, 1, 1, 2, 1])
    >>> agreement(one, one), agreement(one, per_class([0, 1], [0, 1]))
    (1.0, None)

    Source: Spearman 1904, with mean ranks for ties.
    """
    shared = [label for label in one.accuracy if label in other.accuracy]
    accuracies = np.array([[each.accuracy[label] for label in shared] for each in (one, other)])
    return _correlation(*mean_ranks(accuracies))


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


def _confusions(guess: Tensor, truth: Tensor) -> dict[int, tuple[int, int]]:
    """Value -> the other value that its rows are most often predicted as, and the number of these rows."""
    wrong = guess != truth
    pairs, counts = torch.unique(torch.stack([truth[wrong], guess[wrong]], 1), dim=0, return_counts=True)
    most: dict[int, tuple[int, int]] = {}
    for (value, other), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        if count > most.get(value, (value, 0))[1]:
            most[value] = (other, count)
    return most


def _by_word(words: Sequence[str], values: dict[int, Value]) -> dict[Any, Value]:
    return {_word(words, number): value for number, value in values.items()}


def _word(words: Sequence[str], number: int) -> Any:
    """The word of a number; a prediction without a label has the number -1."""
    return words[number] if number >= 0 else number


def _correlation(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> float | None:
    """Pearson correlation; None below 3 pairs or where one is constant."""
    value = float(correlations(np.asarray(one), np.asarray(other))) if len(one) > 2 else math.nan
    return value if math.isfinite(value) else None


def _missing(values: Tensor, count: int | None, must_be: str, what: str) -> tuple[int, ...]:
    """The numbers below `count` that do not occur; UsageError for a value that is not below it."""
    if count is None:
        return ()
    if values.min() < 0 or values.max() >= count:
        ends = f"{int(values.min())} to {int(values.max())}"
        raise UsageError(f"{must_be} from 0 to {count - 1}, but got {ends}; correct the number of {what}.")
    return tuple(sorted(set(range(count)) - set(values.tolist())))
