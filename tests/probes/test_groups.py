"""Accuracy by class and by group: by hand, and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from refusals import refuses
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix
from sklearn.utils.class_weight import compute_sample_weight

from fullrank.errors import DataError, UsageError
from fullrank.probes import group_accuracy, per_class


def test_by_hand():
    #         four of class 2       two of 5   one of 9
    labels = [2, 2, 2, 2, 5, 5, 9, -1]
    guess = [2, 2, 2, 5, 5, 7, 5, 2]
    found = per_class(guess, labels)
    assert found.accuracy == {2: 0.75, 5: 0.5, 9: 0.0}
    assert found.counts == {2: 4, 5: 2, 9: 1}
    assert found.bias == {2: 0.75, 5: 1.5, 9: 0.0}
    assert found.mean == pytest.approx(1.25 / 3)
    assert found.std == pytest.approx(np.std([0.75, 0.5, 0.0]))
    assert (found.worst_class, found.worst, found.best_class, found.best) == (9, 0.0, 2, 0.75)
    assert found.absent == ()


def test_classes_without_rows_are_named_and_left_out():
    found = per_class([0, 1, 3], [0, 0, 3], num_classes=5)
    assert found.absent == (1, 2, 4) and list(found.accuracy) == [0, 3]
    assert found.mean == 0.75 and sum(found.bias.values()) == 1.5


def test_of_equal_classes_the_smallest_is_named():
    found = per_class([1, 1, 3], [1, 2, 3])
    assert found.best_class == 1
    assert per_class([3, 2, 1], [1, 2, 3]).worst_class == 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60))
def test_agrees_with_scikit_learn(pairs):
    guess, labels = map(list, zip(*pairs, strict=True))
    found = per_class(guess, labels, num_classes=6)
    matrix = confusion_matrix(labels, guess, labels=range(6))
    present = np.flatnonzero(matrix.sum(1))
    assert list(found.accuracy) == list(found.counts) == list(found.bias) == present.tolist()
    assert set(found.absent) == set(range(6)) - set(present)
    for c in present:
        assert found.counts[c] == matrix[c].sum()
        assert found.accuracy[c] == pytest.approx(matrix[c, c] / matrix[c].sum())
        assert found.bias[c] == pytest.approx(matrix[:, c].sum() / matrix[c].sum())
    recalls = [matrix[c, c] / matrix[c].sum() for c in present]
    assert found.mean == pytest.approx(np.mean(recalls)) and found.worst == pytest.approx(min(recalls))
    if set(guess) <= set(labels) and len(present) > 1:  # elsewhere scikit-learn warns
        assert found.mean == pytest.approx(balanced_accuracy_score(labels, guess))


def test_errors():
    with refuses(UsageError, "Predictions", "labels", "2 and 3"):
        per_class([0, 1], [0, 1, 1])
    with refuses(UsageError, "(N,)", "torch.float32"):
        per_class([0.0, 1.0], [0, 1])
    with refuses(UsageError, "0 to 1", "0 to 2"):
        per_class([0, 1], [0, 2], num_classes=2)
    with refuses(DataError, "-1", "1 labelled"):
        per_class([0, 1], [-1, -1])


# By group


def test_groups_by_hand():
    #        three of group 0, two of 4, one of 7; the last two rows lack a label or a group
    groups = [0, 0, 0, 4, 4, 7, 7, -1]
    labels = [1, 1, 0, 0, 1, 1, -1, 1]
    guess = [1, 0, 0, 0, 1, 0, 1, 1]
    found = group_accuracy(guess, labels, groups, num_groups=8)
    assert found.accuracy == {0: pytest.approx(2 / 3), 4: 1.0, 7: 0.0}
    assert found.counts == {0: 3, 4: 2, 7: 1}
    assert found.empty == (1, 2, 3, 5, 6)
    assert found.mean == pytest.approx(5 / 9) and found.average == pytest.approx(4 / 6)
    assert (found.worst_group, found.worst) == (7, 0.0)
    # Training has 6 rows of group 0, 3 of 4 and 1 of 5, which is empty in the test.
    assert found.weighted([0] * 6 + [4] * 3 + [5, -1]) == pytest.approx((6 * 2 / 3 + 3) / 9)


def test_an_empty_group_is_never_the_worst():
    found = group_accuracy([0, 1, 0], [0, 1, 1], [2, 2, 3], num_groups=4)
    assert found.empty == (0, 1) and found.worst == 0.0 and found.worst_group == 3
    assert group_accuracy([0, 1], [0, 1], [1, 1], num_groups=3).worst == 1.0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=60))
def test_groups_agree_with_scikit_learn(rows):
    guess, labels, groups = (np.array(column) for column in zip(*rows, strict=True))
    found = group_accuracy(guess, labels, groups)
    # A hit is a prediction of the row's own group, a miss one of a group that there is not.
    told = np.where(guess == labels, groups, 99)
    matrix = confusion_matrix(groups, told, labels=[*range(4), 99])
    present = np.flatnonzero(matrix.sum(1))
    assert list(found.accuracy) == present.tolist()
    recalls = [matrix[g, g] / matrix[g].sum() for g in present]
    assert list(found.accuracy.values()) == pytest.approx(recalls)
    assert found.mean == pytest.approx(np.mean(recalls)) and found.worst == pytest.approx(min(recalls))
    assert found.average == pytest.approx(accuracy_score(labels, guess))
    assert found.weighted(groups) == pytest.approx(found.average)
    if (told != 99).all() and len(present) > 1:
        assert found.mean == pytest.approx(balanced_accuracy_score(groups, told))
    weights = compute_sample_weight("balanced", groups)
    assert found.mean == pytest.approx(accuracy_score(labels, guess, sample_weight=weights))


def test_errors_of_groups():
    with refuses(UsageError, "Predictions, labels", "2, 2 and 3"):
        group_accuracy([0, 1], [0, 1], [0, 1, 1])
    with refuses(UsageError, "(N,)", "torch.float32"):
        group_accuracy([0, 1], [0, 1], [0.5, 1.0])
    with refuses(UsageError, "0 to 1", "0 to 2"):
        group_accuracy([0, 1], [0, 1], [0, 2], num_groups=2)
    with refuses(DataError, "label", "group", 1):
        group_accuracy([0, 1], [-1, 1], [0, -1])
    with refuses(DataError, "2 groups", "training row"):
        group_accuracy([0, 1], [0, 1], [0, 1]).weighted([2, 3])
