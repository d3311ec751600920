"""Unexplained low rank: the last resort, if no other cause of a low rank was found."""

import math
from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.augmentation import can_be_weighed
from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.record import Finding


@final
@dataclass(frozen=True)
class UnexplainedLowRank(Cause):
    """A spectrum that drops sharply without a known cause. The evidence names what was not given.

    >>> import torch
    >>> z = PlaceEvidence("z", torch.randn(200, 2) @ torch.randn(2, 8))
    >>> evidence = Evidence((z,))
    >>> UnexplainedLowRank().check(z, evidence)[0].value
    0.75
    """

    name = "unexplained-low-rank"
    stage = Stage.EXPLANATION
    last_resort = True
    rule: Rule = Rule(
        level="alarm",
        measure="share of the possible rank that is lost",
        side="above",
        threshold=0.1,
        remedy="Provide the views and the stacked maps of the head if they were missing, and inspect the "
        "earlier places.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding if the rank is low, otherwise none."""
        cut = evidence.cut(place)
        # A lost share equal to the limit counts as low, although a rule fires only beyond its threshold.
        if cut is None or not (
            self.rule.fires(cut.lost_share) or math.isclose(cut.lost_share, self.rule.threshold)
        ):
            return []
        missing = [] if can_be_weighed(place, evidence) else ["no views"]
        missing += evidence.lacks(("stacked",), place) and ["no stacked maps"]
        unknown = f"; {' and '.join(missing)} were given" if missing else ""
        sentence = f"{cut.sentence(place.place)}, and no cause was found{unknown}."
        return [self.finding(self.rule, place, cut.lost_share, sentence)]
