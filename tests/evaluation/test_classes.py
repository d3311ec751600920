"""The scores of classes under three probes, on images whose pixels are the features."""

import numpy as np
import pytest
from pixels import evaluated, flat
from refusals import assert_names

from fullrank.data import ImageSet, source
from fullrank.probes import ClassMeanProbe, LinearProbe, NearestProbe, agreement, per_class
from fullrank.record.scores import (
    AGREEMENT,
    BEST_CLASSES,
    BIAS,
    BIAS_CORRELATION,
    BY_CLASS,
    CLASS_ACCURACY,
    CLASS_ERROR,
    CLASS_IMAGES,
    FALSE_POSITIVES,
    MEAN_OF_CLASSES,
    SPREAD,
    TAKEN_FOR,
    WORST_CLASSES,
)


@pytest.fixture(scope="module")
def digits():
    images = source("digits")
    return images.load("train").limited(150, seed=0), images.load("test").limited(300, seed=0)


def by_class(evaluation, split="test"):
    return {
        (one.probe, one.statistic, one.subject): one.value
        for one in evaluation.scores
        if one.kind.by_class and one.split == split
    }


def test_the_scores_of_all_three_probes_are_those_of_their_predictions(digits):
    train, test = digits
    scores, labels = by_class(evaluated(train, test, measures=("per-class",))), test.labels["label"]
    fitted = {"linear": LinearProbe(), "nearest": NearestProbe(), "nearest-mean": ClassMeanProbe()}
    results = {
        name: per_class(probe.fit(flat(train), train.labels["label"]).predict(flat(test)), labels)
        for name, probe in fitted.items()
    }
    for name, result in results.items():
        for c in range(10):
            for statistic, values in (
                (CLASS_ACCURACY, result.accuracy),
                (CLASS_ERROR, result.errors),
                (BIAS, result.bias),
                (FALSE_POSITIVES, result.false_positives),
            ):
                assert scores[name, statistic, str(c)] == pytest.approx(values[c]), (name, statistic, c)
        over = {MEAN_OF_CLASSES: result.mean, "worst class": result.worst, "best class": result.best}
        over |= {
            WORST_CLASSES: result.worst_group,
            BEST_CLASSES: result.best_group,
        }
        over |= {SPREAD: result.std}
        over |= {BIAS_CORRELATION: result.bias_correlation}
        for statistic, value in over.items():
            assert scores[name, statistic, ""] == pytest.approx(value), (name, statistic)
        if name != "linear":
            expected = agreement(result, results["linear"])
            assert scores[name, AGREEMENT, ""] == pytest.approx(expected)
    pairs = {key[2]: value for key, value in scores.items() if key[1] == TAKEN_FOR}
    linear = results["linear"]
    assert pairs == pytest.approx(
        {f"{c} taken for {d}": n / linear.counts[c] for c, (d, n) in linear.confusions.items()}
    )
    images = [scores["linear", CLASS_IMAGES, str(c)] for c in range(10)]
    assert images == np.bincount(labels).tolist()


def test_a_class_without_test_images_is_named_once_and_left_out(digits):
    train, test = digits
    kept = test.subset(np.flatnonzero(test.labels["label"] != 6))
    found = evaluated(train, kept, places=("h", "z"), measures=("per-class",))
    assert "6" not in {subject for _, _, subject in by_class(found)}
    scores = by_class(found)
    shares = [value for key, value in scores.items() if key[:2] == ("linear", CLASS_ACCURACY)]
    assert len(shares) == 9
    assert scores["linear", SPREAD, ""] == pytest.approx(np.std(shares))
    (note,) = found.notes
    assert_names(note, "1 of 10", "'6'")


def test_two_classes_without_an_error_have_no_correlation(digits):
    train, test = (images.of_classes(["0", "1"]) for images in digits)
    scores = by_class(evaluated(train, test, measures=("per-class",)))
    assert scores["linear", CLASS_ACCURACY, "0"] == scores["nearest-mean", CLASS_ACCURACY, "0"] == 1
    assert all(np.isfinite(value) for value in scores.values())
    undefined = {BIAS_CORRELATION, AGREEMENT}
    assert not undefined & {statistic for _, statistic, _ in scores}


def test_a_shift_has_the_scores_of_its_classes(digits):
    train, test = digits
    some = test.of_classes(["8", "1", "9"])
    found = evaluated(train, test, shifts={"some": some}, measures=("per-class",))
    scores = by_class(found, "some")
    assert {subject for _, name, subject in scores if name == CLASS_ACCURACY} == {"1", "8", "9"}
    rows = [np.isin(images.labels["label"], [1, 8, 9]) for images in (train, test)]
    mean = ClassMeanProbe().fit(flat(train)[rows[0]], train.labels["label"][rows[0]])
    expected = per_class(mean.predict(flat(test)[rows[1]]), test.labels["label"][rows[1]])
    assert scores["nearest-mean", CLASS_ACCURACY, "8"] == pytest.approx(expected.accuracy[8])
    assert scores["nearest-mean", MEAN_OF_CLASSES, ""] == pytest.approx(expected.mean)
    assert set(BY_CLASS) == {probe for probe, _, _ in scores} and not found.notes
    assert len(by_class(found)) == len(by_class(evaluated(train, test, measures=("per-class",))))


def test_other_names_of_classes_are_the_subjects(digits):
    train, test = (
        ImageSet(images.images, images.labels, {"label": tuple(f"digit {c}" for c in range(10))})
        for images in digits
    )
    scores = by_class(evaluated(train, test, measures=("per-class",)))
    assert ("nearest", BIAS, "digit 8") in scores
