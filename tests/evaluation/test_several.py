"""Images with several labels: their pixels are the features, and each label is a stripe of light."""

import numpy as np
import pytest
from refusals import assert_names, refuses
from torch import nn

from fullrank.data import ImageSet
from fullrank.errors import DataError, UsageError
from fullrank.evaluation.evaluate import check_probeable, evaluate
from fullrank.evaluation.scores import Request
from fullrank.heads import head
from fullrank.probes import multi_label
from fullrank.record.scores import LABELS_SCORED, MEAN_AUROC, MEAN_PRECISION

NAMES = ("sun", "rain", "snow")


class Pixels(nn.Module):
    """An encoder whose h is the image's pixels."""

    places = ()

    def features(self, x, places):
        return {"h": x.flatten(1)}


def striped(count, seed, split="train", shares=(0.5, 0.3, 0.0)):
    random = np.random.default_rng(seed)
    table = (random.random((count, 3)) < shares).astype(int)
    images = random.integers(0, 160, (count, 4, 4, 1), np.uint8)
    images[:, :3, :, 0] += 60 * table[:, :, None].astype(np.uint8)
    labels = {f"label:{name}": table[:, column] for column, name in enumerate(NAMES)}
    classes = dict.fromkeys(labels, ("0", "1"))
    return ImageSet(images, {"label": np.full(count, -1), **labels}, {"label": (), **classes}, split=split)


@pytest.fixture(scope="module")
def sets():
    return striped(60, 0), striped(40, 1, "test")


def evaluated(train, test, shifts=None, **request):
    return evaluate(Pixels(), head("none", in_dim=16), train, test, ["h"], Request(**request), shifts)


def table(images):
    features = images.tensor().flatten(1).float() / 255
    return features, np.stack([images.labels[f"label:{name}"] for name in NAMES], 1)


def test_the_scores_are_means_over_the_labels_that_can_be_ranked(sets):
    found = evaluated(*sets)
    expected = multi_label(*table(sets[0]), *table(sets[1]), names=NAMES)
    values = {one.statistic: one.value for one in found.scores}
    assert values == {
        MEAN_AUROC: pytest.approx(expected.mean_auroc),
        MEAN_PRECISION: pytest.approx(expected.mean_average_precision),
        LABELS_SCORED: 2,
    }
    assert {(one.place, one.probe, one.label) for one in found.scores} == {("h", "linear", "label")}
    assert found.probes == {} and found.images is None and set(found.spectrum) == {"h"}
    text = " ".join(found.notes)
    _, tested = table(sets[1])
    assert_names(text, 40, 60, "2 of 3", "label:snow", f"{100 * tested[:, :2].mean():.1f}")


def test_each_label_has_its_own_scores_if_they_are_asked_for(sets):
    found = evaluated(*sets, measures=["per-class"])
    expected = multi_label(*table(sets[0]), *table(sets[1]), names=NAMES)
    own = {one.subject: one.value for one in found.scores if one.statistic == "AUROC"}
    assert own == pytest.approx(expected.auroc) and set(own) == {"sun", "rain"}
    precisions = {one.subject: one.value for one in found.scores if one.statistic == "average precision"}
    assert precisions == pytest.approx(expected.average_precision)


def test_images_without_any_label_are_not_learnt_from(sets):
    train, test = sets
    rows = np.arange(60) % 4 > 0
    hidden = {name: np.where(rows, own, -1) for name, own in train.labels.items()}
    partly = ImageSet(train.images, hidden, train.class_names)
    found, expected = evaluated(partly, test), evaluated(train.subset(np.flatnonzero(rows)), test)
    assert found == expected


def test_one_of_the_labels_is_probed_as_two_classes(sets):
    found = evaluated(*sets, label="label:sun", measures=["retrieval"])
    assert found.images.classes == 2 and found.probes["h"].linear > 0.6


@pytest.mark.parametrize(
    ("request_of", "named"),
    [
        ({"measures": ["retrieval", "per-class"]}, "retrieval"),
        ({"measures": ["groups"]}, "groups"),
        ({"shots": [2]}, "few-shot"),
        ({"shifts": {"folder:x": None}}, "folder:x"),
    ],
)
def test_what_needs_one_class_is_refused_by_name(sets, request_of, named):
    with refuses(UsageError, named, "3 labels", "label:sun"):
        evaluated(*sets, **request_of)


def test_labels_without_both_values_give_no_scores(sets):
    train, test = striped(20, 0, shares=(1.0, 0.0, 0.0)), sets[1]
    found = evaluated(train, test)
    assert found.scores == [] and set(found.spectrum) == {"h"}
    with refuses(DataError, 3, 0, 1):
        check_probeable(train, test, "label")
    check_probeable(*sets, "label")


def test_test_images_of_a_class_that_training_lacks_are_said():
    images = np.arange(8 * 16, dtype=np.uint8).reshape(8, 4, 4, 1)
    names = {"label": ("ant", "bee", "cow", "dog")}
    train = ImageSet(images, {"label": np.array([0, 1, 0, 1, 0, 1, 0, 1])}, names)
    test = ImageSet(images, {"label": np.array([0, 1, 2, 2, 3, -1, 0, 1])}, names)
    assert_names(" ".join(evaluated(train, test).notes), "3 test images", 2, "'cow'")
    assert evaluated(train, train).notes == []
