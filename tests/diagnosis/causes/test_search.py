"""The search for causes: what is healthy, what an imposed rank hides, and where a low rank is reported."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import assert_names

from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes
from fullrank.objectives.contract import Unguarded


def causes(*places, **more):
    return [(found.cause, found.place) for found in find_causes(Evidence(places, **more))]


def gaussian(n=500, d=32, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def broken(rank, n=500, d=32, seed=0):
    return gaussian(n, rank, seed) @ gaussian(rank, d, seed + 1)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), scale=st.sampled_from([1e-4, 1.0, 1e4]))
def test_scale_rotation_and_row_order_change_no_verdict(seed, scale):
    rotation = torch.linalg.qr(gaussian(32, 32, seed)).Q
    order = torch.randperm(500, generator=torch.Generator().manual_seed(seed))
    for x, expected in ((gaussian(), []), (broken(6), [("unexplained-low-rank", "z")])):
        assert causes(PlaceEvidence("z", scale * (x @ rotation)[order])) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_judged(dtype):
    assert causes(PlaceEvidence("z", gaussian().to(dtype))) == []


def test_a_rank_that_the_head_imposes_is_no_finding_and_one_below_it_is():
    assert causes(PlaceEvidence("z", broken(24), imposed_rank=24)) == []
    assert causes(PlaceEvidence("z", broken(6), imposed_rank=24)) == [("unexplained-low-rank", "z")]
    idle = gaussian()
    idle[:, 24:] = 0
    assert causes(PlaceEvidence("z", idle, imposed_rank=24)) == []
    assert causes(PlaceEvidence("z", idle)) == [("dead-channels", "z")]
    assert causes(PlaceEvidence("z", gaussian(26), imposed_rank=24)) == []
    assert causes(PlaceEvidence("z", gaussian(26))) == [("too-few-samples", "z")]


def test_a_low_rank_is_reported_where_it_first_appears():
    low, high = broken(6), gaussian()
    lower = low @ torch.linalg.qr(gaussian(32, 32)).Q[:, :2] @ gaussian(2, 32)
    assert causes(PlaceEvidence("a", high), PlaceEvidence("h", low), PlaceEvidence("z", 2 * low)) == [
        ("unexplained-low-rank", "h")
    ]
    assert causes(PlaceEvidence("h", low), PlaceEvidence("z", lower)) == [
        ("unexplained-low-rank", "h"),
        ("unexplained-low-rank", "z"),
    ]


@pytest.mark.parametrize("rank", [4, 8, 16])
def test_a_rank_that_a_later_place_of_the_encoder_has_again_was_not_lost(rank):
    stem, h = PlaceEvidence("stem", broken(rank)), PlaceEvidence("h", gaussian())
    assert causes(stem, h) == []
    assert causes(stem, PlaceEvidence("h", broken(rank))) == [("unexplained-low-rank", "stem")]
    assert causes(stem, h, PlaceEvidence("z", broken(rank))) == [("unexplained-low-rank", "z")]


@pytest.mark.parametrize("z", [gaussian(), gaussian(d=64)])
def test_a_head_does_not_excuse_a_low_rank_of_h(z):
    assert causes(PlaceEvidence("h", broken(6)), PlaceEvidence("z", z)) == [("unexplained-low-rank", "h")]


def test_a_rank_has_not_come_back_at_a_place_that_collapsed_or_is_too_narrow_to_show_it():
    stem = PlaceEvidence("stem", broken(8))
    for end in (1 + 1e-6 * gaussian(), gaussian(d=6)):
        assert ("unexplained-low-rank", "stem") in causes(stem, PlaceEvidence("h", end))
    imposed = PlaceEvidence("h", gaussian(d=16), imposed_rank=8)
    assert ("unexplained-low-rank", "stem") in causes(stem, imposed)


def levels(*places, **more):
    return [(found.place, found.level) for found in find_causes(Evidence(places, **more))]


def test_an_alarm_before_a_healthy_end_of_the_encoder_is_a_note():
    half_dead = gaussian() * (torch.arange(32) < 16)
    inner, h = PlaceEvidence("layer1", half_dead), PlaceEvidence("h", gaussian())
    assert levels(inner, h) == [("layer1", "note")]
    assert levels(inner, h, PlaceEvidence("z", gaussian() - 20)) == [("layer1", "note"), ("z", "alarm")]
    for end in (half_dead, broken(4)):
        assert levels(inner, PlaceEvidence("h", end))[0] == ("layer1", "alarm")
    assert levels(PlaceEvidence("layer1", gaussian()), PlaceEvidence("h", half_dead)) == [("h", "alarm")]


def test_an_untrained_net_has_notes_only():
    places = [PlaceEvidence(name, x) for name, x in {"h": broken(4), "z": 1 + 1e-6 * gaussian()}.items()]
    assert {level for _, level in levels(*places)} == {"alarm"}
    assert {level for _, level in levels(*places, trained=False)} == {"note"}


def missing_guard():
    return (Unguarded("variance term off", "the channels may shrink", "give it a weight"),)


@pytest.mark.parametrize(
    ("features", "cause"),
    [
        (lambda: torch.ones(500, 8) + 1e-6 * gaussian(500, 8), "complete-collapse"),
        (lambda: broken(6), "unexplained-low-rank"),
        (lambda: gaussian() * (torch.arange(32) > 9), "dead-channels"),
    ],
)
def test_an_alarm_names_what_the_objective_has_switched_off(features, cause):
    place = PlaceEvidence("z", features())
    plain, named = (find_causes(Evidence((place,), unguarded=each)) for each in ((), missing_guard()))
    assert [each.cause for each in named] == [each.cause for each in plain] == [cause]
    assert named[0].evidence.startswith(plain[0].evidence)
    (missing,) = missing_guard()
    assert_names(named[0].evidence, missing.name, missing.means)
    assert named[0].remedy == "Give it a weight." != plain[0].remedy


def test_a_missing_guard_alone_is_no_finding_and_a_note_does_not_name_it():
    assert causes(PlaceEvidence("z", gaussian()), unguarded=missing_guard()) == []
    untrained = Evidence((PlaceEvidence("z", gaussian().relu() * (torch.arange(32) > 5)),))
    notes = [find_causes(replace(untrained, unguarded=each)) for each in ((), missing_guard())]
    assert notes[0] == notes[1] and {each.level for each in notes[0]} == {"note"}
