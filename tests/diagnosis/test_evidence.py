"""What evidence refuses, what a cause may find missing in it, and rows that are left out of a place."""

import math

import torch
from refusals import refuses

from fullrank.diagnosis import Evidence, PlaceEvidence
from fullrank.diagnosis.evidence import on_same_images
from fullrank.diagnosis.shape import LowRankLimits
from fullrank.errors import DataError, UsageError


def gaussian(n=50, d=8, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_evidence_that_cannot_be_judged_is_refused():
    z = PlaceEvidence("z", gaussian())
    with refuses(UsageError, 1, 0):
        Evidence(())
    with refuses(UsageError, "temperature", 0, -1):
        Evidence((z,), temperature=-1)
    with refuses(UsageError, "4 outputs", "5 inputs"):
        Evidence((z,), stacked=(torch.ones(4, 4), torch.ones(4, 5)))
    with refuses(UsageError, "(out, in)", "(4,)"):
        Evidence((z,), stacked=(torch.ones(4),))
    with refuses(DataError, "(2, 2)", "NaN"):
        Evidence((z,), stacked=(torch.full((2, 2), math.nan),))


def test_shape_and_whitening_are_measured_once():
    place = PlaceEvidence("z", gaussian())
    assert place.shape is place.shape and place.whitening is place.whitening


def test_rows_that_are_left_out_are_counted_by_their_images():
    place = PlaceEvidence("h", torch.arange(12.0).reshape(6, 2)).without([1, 4])
    assert place.images == [0, 2, 3, 5] and place.left_out == (1, 4)
    again = place.without([2])
    assert again.images == [0, 2, 5] and again.features[:, 0].tolist() == [0, 4, 10]
    assert place.without([]) is place
    with refuses(UsageError, "h", "0 to 3", "row 4"):
        place.without([4])
    with refuses(UsageError, "h", 2, "(1, 2)"):
        place.without([0, 1, 2])


def test_two_places_agree_on_their_images():
    x = gaussian()
    h, z = on_same_images(PlaceEvidence("h", x).without([0, 7]), PlaceEvidence("z", 2 * x).without([7, 9]))
    assert h.images == z.images and torch.equal(2 * h.features, z.features) and len(h.features) == 47
    assert on_same_images(h, z) == (h, z)
    with refuses(UsageError, "h", "50 images", "z of 47"):
        on_same_images(h, PlaceEvidence("z", x[:47]))


def test_what_is_missing_is_said_by_name():
    x = gaussian()
    low, high = PlaceEvidence("low", x), PlaceEvidence("h", x, (x, x))
    evidence = Evidence((low, high, PlaceEvidence("z", x)), stacked=(torch.eye(8),))
    assert evidence.lacks(("views", "stacked"), low) == ["views", "stacked"]
    assert [evidence.lacks(("views",), place) for place in evidence.places[1:]] == [[], []]
    assert Evidence((low,), stacked=(torch.eye(8),) * 2).lacks(("stacked",), low) == []
    with refuses(UsageError, "'vews'", "'views'", "stacked"):
        evidence.lacks(("vews",), low)


def test_places_are_found_in_their_order():
    places = tuple(PlaceEvidence(name, gaussian()) for name in "abc")
    evidence = Evidence(places)
    assert evidence.before(places[2]) == (places[1], places[0])
    assert [evidence.is_last(place) for place in places] == [False, False, True]
    with refuses(UsageError, "d", "places"):
        evidence.is_last(PlaceEvidence("d", gaussian()))


def test_limits_and_imposed_rank_decide_a_cut():
    x = gaussian(500, 4) @ gaussian(4, 8, 1)
    place = PlaceEvidence("z", x)
    assert Evidence((place,)).cut(place).rank == 4
    assert Evidence((place,), limits=LowRankLimits(lost_share=0.6)).cut(place) is None
    imposed = PlaceEvidence("z", x, imposed_rank=4)
    assert Evidence((imposed,)).cut(imposed) is None
