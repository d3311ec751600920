"""Accuracy by class: by hand, and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from fullrank.errors import DataError, UsageError
from fullrank.probes import per_class


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


@settings(max_examples=40, deadline=None)
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
    with pytest.raises(UsageError, match="same length, but got 2 and 3"):
        per_class([0, 1], [0, 1, 1])
    with pytest.raises(UsageError, match=r"whole numbers of shape \(N,\), but got torch.float32"):
        per_class([0.0, 1.0], [0, 1])
    with pytest.raises(UsageError, match="from 0 to 1, but got 0 to 2"):
        per_class([0, 1], [0, 2], num_classes=2)
    with pytest.raises(DataError, match="needs 1 labelled row"):
        per_class([0, 1], [-1, -1])
