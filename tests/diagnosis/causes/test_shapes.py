"""The causes that look at the shape of the spectrum, one by one."""

import dataclasses

import pytest
import torch

from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes
from fullrank.diagnosis.causes import MeanDominance


def causes(*places, **more):
    return [(found.cause, found.place) for found in find_causes(Evidence(places, **more))]


def gaussian(n=500, d=32, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_positive_features_have_a_large_mean_and_idle_channels_without_an_alarm():
    # Half normals, averaged over nine positions.
    x = torch.randn(9, 500, 32, generator=torch.Generator().manual_seed(0)).abs().mean(0)
    assert PlaceEvidence("z", x).shape.mean_share > 0.9 and causes(PlaceEvidence("z", x)) == []
    assert causes(PlaceEvidence("z", -x)) == [("mean-dominance", "z")]
    x[:, :8] = 0
    (found,) = find_causes(Evidence((PlaceEvidence("z", x),)))
    assert (found.cause, found.level, found.value) == ("dead-channels", "note", 0.25)
    x[:, :24] = 0
    (found,) = find_causes(Evidence((PlaceEvidence("z", x),)))
    assert (found.level, found.value) == ("alarm", 0.75)


def test_a_cone_is_judged_where_cosines_are_taken():
    x = gaussian() - 10
    assert causes(PlaceEvidence("layer1", x), PlaceEvidence("h", x), PlaceEvidence("z", gaussian())) == [
        ("mean-dominance", "h")
    ]
    strong = find_causes(Evidence((PlaceEvidence("z", gaussian() - 1000),)))
    assert [found.cause for found in strong] == ["mean-dominance"]


@pytest.mark.parametrize("value", [0.0, 3.0, -1e6])
def test_constant_features_have_collapsed_completely(value):
    (found,) = find_causes(Evidence((PlaceEvidence("z", torch.full((10, 4), value)),)))
    assert found.cause == "complete-collapse" and found.value == 0 and found.value < found.threshold


def test_a_constant_added_to_healthy_features_is_a_cone_also_where_none_is_negative():
    x = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0)) + 20
    assert x.min() > 0
    assert [found.cause for found in find_causes(Evidence((PlaceEvidence("z", x),)))] == ["mean-dominance"]


def test_a_changed_rule_changes_what_is_found():
    cause = MeanDominance()
    strict = dataclasses.replace(cause, plain=dataclasses.replace(cause.plain, threshold=0.1))
    evidence = Evidence((PlaceEvidence("z", gaussian() - 0.6),))
    assert find_causes(evidence) == []
    (found,) = find_causes(evidence, [strict])
    assert found.threshold == 0.1


def test_complete_collapse_ends_the_place_and_not_the_search():
    point = torch.full((20, 32), 3.0)  # all channels dead, a cone, and fewer rows than channels
    assert causes(PlaceEvidence("h", point), PlaceEvidence("z", gaussian(20))) == [
        ("complete-collapse", "h"),
        ("too-few-samples", "z"),
    ]


def test_rows_that_differ_in_length_alone_lie_in_a_cone_although_their_mean_is_small():
    generator = torch.Generator().manual_seed(0)
    length = torch.rand(400, 1, generator=generator) ** 2
    x = length * torch.ones(16) + 0.003 * torch.randn(400, 16, generator=generator)
    place = PlaceEvidence("z", x)
    assert place.shape.mean_share < 0.6
    (found,) = MeanDominance().check(place, Evidence((place,)))
    pairs = torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(x, dim=1).T
    others = ~torch.eye(400, dtype=torch.bool)
    assert found.level == "alarm" and found.value == pytest.approx(float(pairs[others].mean()), abs=1e-4)
    signed = PlaceEvidence("z", x * (torch.arange(400) % 2 * 2 - 1)[:, None])
    assert MeanDominance().check(signed, Evidence((signed,))) == []
