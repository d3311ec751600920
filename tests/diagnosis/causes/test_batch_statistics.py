"""Batch norms that do not fit: an alarm instead of the collapse that they make, else one note."""

import pytest
import torch

from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes
from fullrank.diagnosis.norms import NormShift

GAUSSIAN = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
POINT = 1 + 1e-5 * GAUSSIAN


def norm(layer: str, off: float) -> NormShift:
    return NormShift(layer, 16, -2.0, 0.5, off)


def said(places: dict[str, torch.Tensor], *shares: float) -> list[tuple[str, str, str]]:
    norms = tuple(norm(f"bn{number}", off) for number, off in enumerate(shares))
    evidence = Evidence(tuple(PlaceEvidence(name, x) for name, x in places.items()), norms=norms)
    return [(finding.cause, finding.place, finding.level) for finding in find_causes(evidence)]


@pytest.mark.parametrize("off", [0.6, 0.8, 1.0])
@pytest.mark.parametrize("features", [POINT, GAUSSIAN - 10, (GAUSSIAN + 6).clamp_min(0)])
def test_it_stands_instead_of_the_collapse(off, features):
    assert said({"h": features}, 0.0, off, off) == [("batch-statistics", "h", "alarm")]


@pytest.mark.parametrize("off", [0.4, 0.6, 1.0])
def test_features_that_are_healthy_get_one_note_at_the_end_of_the_encoder(off):
    places = dict.fromkeys(("stem", "layer1", "h", "head.1", "z"), GAUSSIAN)
    assert said(places, off) == [("batch-statistics", "h", "note")]


@pytest.mark.parametrize("shares", [(), (0.0, 0.1), (0.3,)])
def test_a_collapse_behind_norms_that_fit_keeps_its_own_cause(shares):
    assert said({"h": POINT}, *shares) == [("complete-collapse", "h", "alarm")]


def test_a_collapse_in_the_head_is_not_the_fault_of_the_encoders_norms():
    found = said({"h": GAUSSIAN, "z": POINT}, 1.0)
    assert found == [("batch-statistics", "h", "note"), ("complete-collapse", "z", "alarm")]
    assert said({"h": POINT, "z": POINT}, 1.0) == [("batch-statistics", at, "alarm") for at in "hz"]


def test_a_collapse_is_not_blamed_on_a_minority_of_norms():
    found = [("batch-statistics", "h", "note"), ("complete-collapse", "h", "alarm")]
    assert said({"h": POINT}, 0.0, 1.0, 0.1, 0.2) == found


def test_the_first_norm_that_is_off_is_named_and_how_many_are():
    norms = (norm("stem.bn", 0.1), norm("layer1.bn", 0.7), norm("layer2.bn", 1.0))
    (found,) = find_causes(Evidence((PlaceEvidence("h", POINT),), norms=norms))
    assert found.value == pytest.approx(2 / 3) and "2 of 3" in found.evidence
    assert "layer1.bn" in found.evidence and "layer2.bn" not in found.evidence


@pytest.mark.parametrize(("settled", "level"), [(True, "alarm"), (False, "note")])
def test_norms_of_the_head_are_blamed_for_its_collapse(settled: bool, level: str) -> None:
    h = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    places = (PlaceEvidence("h", h), PlaceEvidence("z", 20 + h))
    off = NormShift("head.1", 8, -2.0, 0.5, 1.0, settled=settled, of_head=True)
    found = find_causes(Evidence(places, norms=(off,)))
    assert [(finding.cause, finding.place, finding.level) for finding in found] == [
        ("batch-statistics", "z", level)
    ]
