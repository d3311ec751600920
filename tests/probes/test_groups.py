"""Accuracy by class and by group: by hand, and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from refusals import refuses
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix
from sklearn.utils.class_weight import compute_sample_weight

from fullrank.errors import DataError, UsageError
from fullrank.probes import agreement, group_accuracy, per_class


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


# Rows are the true class, columns what is predicted: 4 shirts, 5 coats, 2 bags, 10 boots.
MATRIX = np.array([[1, 2, 0, 1], [3, 2, 0, 0], [0, 0, 2, 0], [0, 1, 1, 8]])


def of_matrix(matrix):
    """Predictions and labels with a confusion matrix, in a mixed order."""
    pairs = [(g, c) for c, row in enumerate(matrix) for g, count in enumerate(row) for _ in range(count)]
    order = np.random.default_rng(0).permutation(len(pairs))
    return np.array(pairs)[order].T


def test_a_confusion_matrix_written_out_by_hand():
    found = per_class(*of_matrix(MATRIX))
    assert found.accuracy == {0: 0.25, 1: 0.4, 2: 1.0, 3: 0.8}
    assert found.false_positives == {0: 3, 1: 3, 2: 1, 3: 1}
    assert found.bias == {0: 1.0, 1: 1.0, 2: 1.5, 3: 0.9}
    assert found.confusions == {0: (1, 2), 1: (0, 3), 3: (1, 1)}  # of equal ones the smallest
    variances = {0: 0.1875 / 4, 1: 0.24 / 5, 2: 0.0, 3: 0.016}
    assert found.errors == pytest.approx({label: value**0.5 for label, value in variances.items()})
    assert found.ranked == (0, 1, 3, 2) and found.extremes == 2
    assert (found.worst_group, found.best_group) == pytest.approx((0.325, 0.9))
    # The sum of (b - 1.1) (a - 0.6125) over the product of the lengths of both.
    assert found.bias_correlation == pytest.approx(0.175 / (0.22 * 0.361875) ** 0.5)


def test_equal_classes_are_ranked_by_their_number_and_one_class_is_both_ends():
    assert per_class([0, 1, 2, 2], [0, 1, 2, 3]).ranked == (3, 0, 1, 2)
    alone = per_class([4, 4, 5], [4, 4, 4])
    assert (alone.ranked, alone.extremes, alone.worst_group, alone.best_group) == ((4,), 1, 2 / 3, 2 / 3)
    assert alone.bias_correlation is None and alone.std == 0
    two = per_class([0, 1, 1], [0, 0, 1])
    assert (two.extremes, two.worst_group, two.best_group, two.bias_correlation) == (1, 0.5, 1.0, None)


def test_all_correct_has_no_correlation_and_no_confusion():
    found = per_class([0, 1, 2, 2], [0, 1, 2, 2])
    assert found.bias_correlation is None and agreement(found, found) is None
    assert found.confusions == {} and set(found.errors.values()) == {0.0}
    assert set(found.false_positives.values()) == {0}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 8))
def test_correlations_agree_with_scipy(seed, classes):
    rng = np.random.default_rng(seed)
    labels = np.r_[np.arange(classes), rng.integers(0, classes, 40)]
    one, other = (
        per_class(
            np.where(rng.random(len(labels)) < 0.5, labels, rng.integers(0, classes, len(labels))), labels
        )
        for _ in range(2)
    )
    a, b = (np.array(list(each.accuracy.values())) for each in (one, other))
    biases = np.array(list(one.bias.values()))
    for found, oracle, x, y in (
        (agreement(one, other), spearmanr, a, b),
        (one.bias_correlation, pearsonr, biases, a),
    ):
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            assert found is None
        else:
            assert found == pytest.approx(oracle(x, y).statistic, abs=1e-12)
    assert agreement(one, other) == pytest.approx(agreement(other, one))
    ends = sorted(a)
    assert one.worst_group == pytest.approx(np.mean(ends[: one.extremes]))
    assert one.best_group == pytest.approx(np.mean(ends[-one.extremes :]))


def test_agreement_is_over_the_classes_that_both_have():
    labels = [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 7]
    one = per_class([0, 9, 1, 9, 9, 9, 2, 2, 2, 9, 7], labels)  # 1/2, 1/4, 3/4 and 1
    other = per_class([0, 0, 1, 9, 9, 9, 2, 2, 2, 9], labels[:-1])  # 1, 1/4, 3/4
    assert agreement(one, other) == pytest.approx(0.5)
    assert agreement(one, per_class([0, 1], [0, 1])) is None


def test_words_are_classes_too():
    labels = ["cat", "cat", "dog", "emu", "emu", "emu", None]
    found = per_class(["cat", "dog", "dog", "cat", "emu", "cat", "cat"], labels)
    assert found.accuracy == pytest.approx({"cat": 0.5, "dog": 1.0, "emu": 1 / 3})
    assert found.counts == {"cat": 2, "dog": 1, "emu": 3}
    assert found.bias == {"cat": 1.5, "dog": 2.0, "emu": 1 / 3}
    assert found.false_positives == {"cat": 2, "dog": 1, "emu": 0}
    assert found.confusions == {"cat": ("dog", 1), "emu": ("cat", 2)}
    assert (found.worst_class, found.ranked) == ("emu", ("emu", "cat", "dog"))
    numbers = per_class([0, 1, 1, 0, 2, 0], [0, 0, 1, 2, 2, 2])
    assert found.worst_group == numbers.worst_group and found.bias_correlation == numbers.bias_correlation
    with refuses(UsageError, "num_classes", 3, "words"):
        per_class(["cat"], ["cat"], num_classes=3)


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
