"""View gap: two views of the same images in two cones, such as those of an image and a text encoder."""

from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.record import Finding
from fullrank.spectrum.geometry import ViewGap as Gap, view_gap


@final
@dataclass(frozen=True)
class ViewGap(Cause):
    """The distance between the means of two views over the spread around them, at unit length.

    `fullrank.spectrum.view_gap` has the formula. The finding says how often a row's nearest neighbour in the
    other view is its pair, before and after the mean of each view is subtracted.

    >>> import torch
    >>> x = torch.randn(50, 8)
    >>> z = PlaceEvidence("z", x, (x + 3, x - 3))
    >>> [finding.cause for finding in ViewGap().check(z, Evidence((z,)))]
    ['view-gap']
    """

    name = "view-gap"
    stage = Stage.SHAPE
    needs = ("views",)
    rule: Rule = Rule(
        level="note",
        measure="distance of the means of the two views over their spread",
        side="above",
        threshold=0.5,
        remedy="Subtract from each view its own mean over training data before the two are compared, and do "
        "not read alignment here.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding if the distance is above the threshold, otherwise none."""
        if place.views is None:
            return []
        gap = view_gap(*place.views, seed=evidence.seed)
        if not self.rule.fires(gap.distance):
            return []
        return [self.finding(self.rule, place, gap.distance, _sentence(place.place, gap))]


def _sentence(place: str, gap: Gap) -> str:
    before, after = (f"{100 * share:.1f} %" for share in (gap.recall, gap.centred_recall))
    rows = len(gap.rows[0])
    return (
        f"The two views at {place} lie in two cones: their means are {gap.distance:.2f} times their spread "
        "apart, so alignment measures this gap and not the pairs. The nearest row of the other view is the "
        f"pair for {before} of {rows} rows, and {after} after the mean of each view is subtracted."
    )
