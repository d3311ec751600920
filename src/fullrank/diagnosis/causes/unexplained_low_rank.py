"""Unexplained low rank: the last resort, if no other cause of a low rank was found."""

import math
from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.augmentation import can_be_weighed
from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.shape import most_components
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
    of_objective = True
    last_resort = True
    rule: Rule = Rule(
        level="alarm",
        measure="share of the possible rank that is lost",
        side="above",
        threshold=0.1,
        remedy="Give the views (--views, or --positives for a file) if they were missing, diagnose the whole "
        "run if the model has a head, and look at the earlier places.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding if the rank is low, otherwise none."""
        cut = evidence.cut(place)
        # A lost share equal to the limit counts as low, although a rule fires only beyond its threshold.
        if cut is None or not (
            self.rule.fires(cut.lost_share) or math.isclose(cut.lost_share, self.rule.threshold)
        ):
            return []
        words = {"views": "no views", "stacked": "no stacked linear layers"}
        missing = [words[name] for name in evidence.lacks(("views", "stacked"), place)]
        unknown = f"; {' and '.join(missing)} were given" if missing else ""
        if not evidence.lacks(("views",), place) and not can_be_weighed(place, evidence):
            unknown += f"; {_unweighed(cut.rank, place)}"
        sentence = f"{cut.sentence(place.place)}, and no cause was found{unknown}."
        return [self.finding(self.rule, place, cut.lost_share, sentence)]


def _unweighed(rank: int, place: PlaceEvidence) -> str:
    """Why the views say nothing about the lost directions."""
    if most_components(len(place.features)) <= rank:
        return "there are too few images to compare the views"
    return "no place with views has the lost directions"
