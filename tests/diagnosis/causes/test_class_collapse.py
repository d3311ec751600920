"""Class collapse: rows that are points of their classes, and healthy rows that look a little like it."""

import pytest
import torch

from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes


def gaussian(n=600, d=64, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def found(x, labels=None, supervised=None, **more):
    evidence = Evidence((PlaceEvidence("h", x),), labels=labels, supervised=supervised, **more)
    return [(each.cause, each.level) for each in find_causes(evidence)]


def points(noise, count=10, rows=600, width=64):
    labels = torch.arange(rows) % count
    return gaussian(count, width, 1)[labels] + noise * gaussian(rows, width), labels


def coarse(rows=600):
    """Labels that cut each of ten classes in two at random."""
    return torch.randint(0, 2, (rows,), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("noise", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("count", [10, 100])  # 100 points have the full rank of 64
@pytest.mark.parametrize("level", ["labels", "no labels", "other labels"])
def test_classes_that_are_points_are_found_with_and_without_their_labels(noise, count, level):
    x, labels = points(noise, count, rows=1000)
    given = {"labels": labels, "no labels": None, "other labels": coarse(1000)}[level]
    for supervised, expected in ((None, "note"), (False, "alarm")):
        assert found(x, given, supervised) == [("class-collapse", expected)]


def test_class_collapse_with_labels_names_classes_and_the_share():
    x, labels = points(0.2)
    (finding,) = find_causes(Evidence((PlaceEvidence("h", x),), labels=labels))
    centred = x.double() - x.double().mean(0)
    # The noise has variance 0.04 in each of 64 channels.
    expected = 64 * 0.04 / float(centred.square().sum() / len(x))
    assert finding.cause == "class-collapse" and finding.value == pytest.approx(expected, rel=0.1)
    assert finding.value < finding.threshold and "10 classes" in finding.evidence
    assert found(*points(1.0)) == []


def test_class_collapse_of_an_untrained_net_is_no_alarm():
    x, _ = points(1e-3)
    assert found(x, supervised=False, trained=False) == [("class-collapse", "note")]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("supervised", [None, False])
def test_classes_far_apart_are_healthy(labelled, supervised):
    labels = torch.arange(600) % 5
    x = gaussian(5, 256, 1)[labels] + gaussian(600, 256)
    assert found(x, labels if labelled else None, supervised) == []


@pytest.mark.parametrize("labelled", [True, False])
def test_two_groups_along_one_axis_are_a_dominant_direction(labelled):
    labels = torch.arange(600) % 2
    x = gaussian() + torch.outer(120.0 * labels, torch.eye(64)[0])
    assert found(x, labels if labelled else None) == [("dominant-direction", "note")]


def test_two_points_are_found_although_one_direction_holds_everything():
    assert found(points(1e-3, count=2)[0]) == [("class-collapse", "note")]


@pytest.mark.parametrize(
    "rows",
    [
        lambda: torch.eye(16)[torch.arange(600) % 16],
        lambda: (2 * gaussian(600, 8)).round(),
        lambda: gaussian(300).repeat(2, 1),
    ],
    ids=["one-hot", "rounded", "twice"],
)
def test_equal_rows_are_no_class_collapse(rows):
    assert "class-collapse" not in dict(found(rows()))


def test_labels_of_single_images_say_nothing_of_classes():
    # Two nearly equal views of each image, labelled by image.
    x = gaussian(300).repeat_interleave(2, 0) + 1e-2 * gaussian(600, 64, 3)
    assert found(x, torch.arange(600) // 2, supervised=False) == []


def between(rank, rows=600):
    """Rows between ten class means that span `rank` directions, with a little noise in all others."""
    labels, weights = torch.arange(rows) % 10, 0.2 * gaussian(rows, 10, 4)
    means = gaussian(10, rank, 5) @ gaussian(rank, 64, 1)
    means = means - means.mean(0)
    return means[labels] + weights @ means + 0.01 * gaussian(rows), labels


def test_a_rank_of_one_less_than_the_classes_is_their_means():
    x, labels = between(9)
    assert found(x, labels) == found(x, labels, True) == [("class-collapse", "note")]
    low = [("unexplained-low-rank", "alarm")]
    assert found(x, coarse()) == found(x, labels, False) == found(x) == low
    assert found(x, labels[torch.randperm(600, generator=torch.Generator().manual_seed(0))]) == low


def test_classes_that_share_directions_are_their_means_only_if_the_loss_has_seen_them():
    x, labels = between(7)
    assert found(x, labels, True) == [("class-collapse", "note")]
    assert found(x, labels) == [("unexplained-low-rank", "alarm")]
    few, labels = between(3)
    assert found(few, labels, True) == [("unexplained-low-rank", "alarm")]


def test_places_whose_classes_are_points_are_named_from_the_first_on():
    x, labels = points(1e-3)
    places = (PlaceEvidence("layer1", gaussian()), PlaceEvidence("h", x), PlaceEvidence("z", 2 * x))
    findings = find_causes(Evidence(places, labels=labels))
    assert [(each.cause, each.place) for each in findings] == [
        ("class-collapse", "h"),
        ("class-collapse", "z"),
    ]
