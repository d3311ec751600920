"""Several labels an image, against scikit-learn's one-vs-rest logistic regression and ranks of SciPy."""

import numpy as np
import pytest
import torch
from refusals import refuses
from scipy.stats import mannwhitneyu
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier

from fullrank.errors import DataError, UsageError
from fullrank.probes import LinearProbe, multi_label


def rows(count, seed):
    """Features (N, 4), and three labels (N, 3) that three of the channels say with noise."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, 4))
    noise = features + random.normal(size=(count, 4))
    return features, np.stack([noise[:, 0] > 0, noise[:, 1] > 1, noise[:, 3] < 1.2], 1).astype(int)


def test_scores_are_those_of_scikit_learns_one_vs_rest():
    (train, labels), (test, truth) = rows(80, 0), rows(60, 1)
    penalty = 1e-2
    found = multi_label(train, labels, test, truth, probe=lambda: LinearProbe([penalty], tol=1e-9))
    # The probe's two weights w and -w cost p / 2 times the total variance times 2 |w|^2; theirs is their sum.
    total = train.var(0).sum()
    theirs = OneVsRestClassifier(LogisticRegression(C=2 / (len(train) * penalty * total), tol=1e-10))
    logits = theirs.fit(train, labels).decision_function(test)
    for column, name in enumerate("012"):
        one, zero = (logits[truth[:, column] == value, column] for value in (1, 0))
        area = mannwhitneyu(one, zero).statistic / (len(one) * len(zero))
        assert found.auroc[name] == pytest.approx(area, abs=1e-9)
        precision = average_precision_score(truth[:, column], logits[:, column])
        assert found.average_precision[name] == pytest.approx(precision, abs=1e-9)
    assert found.mean_auroc == pytest.approx(np.mean(list(found.auroc.values())))
    assert found.left_out == () and 0.6 < found.mean_auroc < 0.95


def test_rows_without_a_label_count_neither_in_training_nor_in_test():
    (train, labels), (test, truth) = rows(60, 0), rows(50, 1)
    known, asked = np.arange(60) % 3 > 0, np.arange(50) % 4 > 0
    hidden = np.where(known, labels.T, -1).T, np.where(asked, truth.T, -1).T
    kind = {"probe": lambda: LinearProbe([1e-2])}
    expected = multi_label(train[known], labels[known], test[asked], truth[asked], **kind)
    assert multi_label(train, hidden[0], test, hidden[1], **kind) == expected
    tensors = map(torch.from_numpy, (train, hidden[0], test, hidden[1]))
    assert multi_label(*tensors, **kind) == expected


def test_labels_that_lack_a_value_are_left_out_and_named():
    (train, labels), (test, truth) = rows(40, 0), rows(40, 1)
    labels[:, 0], truth[:, 2] = 1, 0
    names = ("sun", "rain", "snow")
    found = multi_label(train, labels, test, truth, names=names, probe=lambda: LinearProbe([1e-2]))
    assert found.left_out == ("sun", "snow") and list(found.auroc) == ["rain"]
    assert found.mean_auroc == found.auroc["rain"]
    with refuses(DataError, 3, 0, 1):
        multi_label(train, labels, test, np.zeros((40, 3), int))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda y: y[:, 0], ["(40,)"]),
        (lambda y: y[:9], ["(9, 3)", 40]),
        (lambda y: y + 1, ["1 to 2"]),
        (lambda y: y / 1, ["float64"]),
        (lambda y: y[:, :2], [2, 3]),
    ],
)
def test_other_labels_are_refused(change, parts):
    features, labels = rows(40, 0)
    with refuses(UsageError, *parts):
        multi_label(features, change(labels), features, labels)
