"""View gap: paired rows in two cones."""

import pytest
import torch

from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes
from fullrank.spectrum import view_gap


def gaussian(n=400, d=32, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def pair(distance, noise=0.3):
    """Rows and their noisy pairs, moved apart along one axis by so many times their norm."""
    x = gaussian() / 32**0.5
    return x, x + noise * gaussian(seed=1) / 32**0.5 + distance * torch.eye(32)[0]


def found(a, b):
    return find_causes(Evidence((PlaceEvidence("embedding", a, (a, b)),)))


@pytest.mark.parametrize("distance", [1, 2, 10])
def test_two_cones_are_a_note_with_retrieval_before_and_after_centring(distance):
    a, b = pair(distance)
    (finding,) = found(a, b)
    gap = view_gap(a, b)
    assert (finding.cause, finding.level) == ("view-gap", "note")
    assert finding.value == pytest.approx(gap.distance) and finding.value > finding.threshold
    for recall in (gap.recall, gap.centred_recall):
        assert f"{100 * recall:.1f} %" in finding.evidence
    assert "400" in finding.evidence


@pytest.mark.parametrize("noise", [0.1, 1.0, 3.0])
def test_views_of_one_encoder_have_no_gap_however_weak_the_augmentation(noise):
    assert found(*pair(0.0, noise)) == []


def test_one_cone_for_both_views_is_no_gap():
    a, b = pair(0.0)
    away = 10 * torch.eye(32)[0]
    assert [finding.cause for finding in found(a + away, b + away)] == ["mean-dominance"]


def test_a_place_without_views_of_its_own_has_no_gap():
    a, b = pair(5.0)
    places = (PlaceEvidence("h", a, (a, b)), PlaceEvidence("z", a))
    assert [(each.cause, each.place) for each in find_causes(Evidence(places))] == [("view-gap", "h")]
