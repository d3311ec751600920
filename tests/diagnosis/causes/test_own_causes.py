"""Causes of one's own: one for each stage, evidence that is missing, and a place in the catalogue."""

from dataclasses import dataclass

import pytest
import torch
from refusals import refuses

from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes
from fullrank.diagnosis.causes import CAUSES, Cause, Rule, Stage
from fullrank.errors import UsageError
from fullrank.registry import Entry


def gaussian(n=500, d=16, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def broken(rank=4, n=500, d=16):
    return gaussian(n, rank) @ gaussian(rank, d, 1)


def registered():
    return [CAUSES.build(entry.name) for entry in CAUSES]


@dataclass(frozen=True)
class LongRows(Cause):
    """Rows that are much longer than the median."""

    name = "long-rows"
    stage = Stage.ROWS
    rule: Rule = Rule("note", "rows beyond ten times the median norm", "above", 0, "Look at these images.")

    def check(self, place, evidence):
        norms = place.features.norm(dim=1)
        rows = (norms > 10 * norms.median()).nonzero().flatten().tolist()
        if not self.rule.fires(len(rows)):
            return []
        return [self.finding(self.rule, place, len(rows), f"{len(rows)} rows are long.", rows)]


@dataclass(frozen=True)
class Narrow(Cause):
    """A place of few channels."""

    name = "narrow"
    stage = Stage.SHAPE
    rule: Rule = Rule("note", "width", "below", 20, "Make the encoder wider.")

    def check(self, place, evidence):
        width = place.shape.width
        return [self.finding(self.rule, place, width, "Narrow.")] if self.rule.fires(width) else []


@dataclass(frozen=True)
class Ordained(Cause):
    """Explains every low rank."""

    name = "ordained"
    stage = Stage.EXPLANATION
    rule: Rule = Rule("alarm", "rank before the break", "above", 0, "Accept it.")

    def check(self, place, evidence):
        return [self.finding(self.rule, place, evidence.cut(place).rank, "Ordained.")]


class Final(Narrow):
    name = "final"
    final = True


class NeedsViews(Narrow):
    name = "needs-views"
    needs = ("views",)


class NeedsWhatThereIsNot(Narrow):
    name = "needs-labels"
    needs = ("labels",)


class AllRows(LongRows):
    name = "all-rows"

    def check(self, place, evidence):
        rows = range(len(place.features) - 1)
        return [self.finding(self.rule, place, len(rows), "All but one row.", rows)]


class RowsBeyond(LongRows):
    name = "rows-beyond"

    def check(self, place, evidence):
        return [self.finding(self.rule, place, 1, "A row that there is not.", [len(place.features)])]


def names(evidence, causes):
    return [finding.cause for finding in find_causes(evidence, causes)]


def with_long_rows(features, rows):
    features = features.clone()
    features[rows] = 1000 * features[rows[:1]]
    return features


def test_features_with_rows_to_leave_out_are_judged_without_them():
    evidence = Evidence((PlaceEvidence("z", with_long_rows(gaussian(), [3, 40, 41])),))
    # The long rows make one direction of all the variance; without them the spectrum is healthy.
    assert names(evidence, registered()) == ["dominant-direction"]
    (found,) = find_causes(evidence, [*registered(), LongRows()])
    assert (found.cause, found.rows, found.title) == ("long-rows", [3, 40, 41], "")
    # And the other way round: they hide that the other rows have a low rank.
    hidden = broken()
    hidden[7:23] = 1000 * torch.eye(16)
    evidence = Evidence((PlaceEvidence("z", hidden),))
    assert names(evidence, registered()) == []
    assert names(evidence, [*registered(), LongRows()]) == ["long-rows", "unexplained-low-rank"]


def test_places_that_leave_out_other_rows_are_compared_on_the_images_they_share():
    x = gaussian()
    noise = torch.tensor([0.05] * 8 + [2.0] * 8)
    views = (x + noise * gaussian(seed=1), x + noise * gaussian(seed=2))
    z = x * torch.tensor([1.0] * 8 + [1e-3] * 8)
    h = PlaceEvidence("h", with_long_rows(x, [0, 1]), views)
    evidence = Evidence((h, PlaceEvidence("z", with_long_rows(z, [5, 6, 7]))))
    found = find_causes(evidence, [*registered(), LongRows()])
    assert [(finding.cause, finding.place) for finding in found] == [
        ("long-rows", "h"),
        ("long-rows", "z"),
        ("augmentation", "z"),
    ]
    shared = [row for row in range(500) if row not in {0, 1, 5, 6, 7}]
    clean = Evidence((PlaceEvidence("h", x[shared], views), PlaceEvidence("z", z[shared])))
    assert found[2].value == pytest.approx(find_causes(clean)[0].value, rel=1e-9)


def test_a_place_where_hardly_a_row_is_left_is_not_judged_further():
    evidence = Evidence((PlaceEvidence("h", broken()), PlaceEvidence("z", broken())))
    assert names(evidence, [*registered(), AllRows()]) == ["all-rows", "all-rows"]
    with refuses(UsageError, "z", "0 to 499", "row 500"):
        find_causes(Evidence((PlaceEvidence("z", gaussian()),)), [RowsBeyond()])


def test_a_cause_of_the_shape_is_asked_at_every_place_in_the_order_given():
    evidence = Evidence((PlaceEvidence("h", gaussian()), PlaceEvidence("z", broken() - 50)))
    found = find_causes(evidence, [*registered(), Narrow()])
    assert [(finding.cause, finding.place) for finding in found] == [
        ("narrow", "h"),
        ("mean-dominance", "z"),
        ("narrow", "z"),
        ("unexplained-low-rank", "z"),
    ]
    assert names(evidence, [Final(), *registered()]) == ["final", "final"]


def test_an_explanation_comes_before_the_last_resort_wherever_it_is_listed():
    evidence = Evidence((PlaceEvidence("z", broken()),))
    assert names(evidence, [*registered(), Ordained()]) == ["ordained"]
    assert names(Evidence((PlaceEvidence("z", gaussian()),)), [Ordained()]) == []
    imposed = Evidence((PlaceEvidence("z", broken(), imposed_rank=4),))
    assert names(imposed, [Ordained()]) == []


def test_a_cause_is_asked_only_where_what_it_needs_is_there():
    x = gaussian()
    places = (PlaceEvidence("h", x, (x, x)), PlaceEvidence("z", x))
    assert names(Evidence(places[1:]), [NeedsViews()]) == []
    assert names(Evidence(places), [NeedsViews()]) == ["needs-views", "needs-views"]
    with refuses(UsageError, "'labels'", "views", "stacked"):
        find_causes(Evidence(places), [NeedsWhatThereIsNot()])


def test_a_registered_cause_is_asked_and_its_findings_have_its_summary(monkeypatch):
    monkeypatch.setattr(CAUSES, "_entries", dict(CAUSES._entries))
    CAUSES.register(Entry("ordained", f"{__name__}:Ordained", "Inevitable", "nobody"))
    (found,) = find_causes(Evidence((PlaceEvidence("z", broken()),)))
    assert (found.cause, found.title, found.value) == ("ordained", "Inevitable", 4)
