"""Dimensional collapse without a drop: one direction holds nearly everything, and a few hold the rest."""

from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.dominant import percent
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.record import Finding


@final
@dataclass(frozen=True)
class DimensionalCollapse(Cause):
    r"""One direction holds 0.95 of the variance or more, and the rest lies in fewer than four directions.

    The measure is the corrected participation ratio of the features after the first direction is projected
    out. If the rest has fewer than 16 possible directions, the limit is a quarter of them. Nothing is
    found if the direction is only the distance of a few rows, or if it is a channel and the others are
    healthy. If the spectrum drops sharply and views or stacked maps are given, this is left to the causes
    that they can show.

    Args:
        rule: The rule.
        share: The share of the variance that the direction must hold.

    >>> import torch
    >>> x = torch.randn(200, 64) * 0.2 ** torch.arange(64) @ torch.linalg.qr(torch.randn(64, 64)).Q
    >>> evidence = Evidence((PlaceEvidence("h", x),))
    >>> [finding.level for finding in DimensionalCollapse().check(evidence.places[0], evidence)]
    ['alarm']
    """

    name = "dimensional-collapse"
    stage = Stage.SHAPE
    of_objective = True
    final = True
    rule: Rule = Rule(
        level="alarm",
        measure="participation ratio behind the first direction",
        side="below",
        threshold=4.0,
        remedy="Go back to a checkpoint from before the collapse, lower the learning rate, and watch the "
        "effective rank while it trains.",
    )
    share: float = 0.95

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding if the rest lies in a few directions, otherwise none."""
        if place.shape.first_share < self.share or place.imposed_rank == 1:
            return []
        dominant = place.dominant
        if dominant.outlying or dominant.rest >= dominant.scaled(self.rule.threshold):
            return []
        explained = len(evidence.lacks(("views", "stacked"), place)) < 2
        if explained and evidence.cut(place) is not None:
            return []
        share = f"{percent(place.shape.first_share)} of the variance at {place.place}"
        left = f"the rest lies in about {dominant.rest:.1f} of {dominant.possible} directions"
        nothing = "next to nothing is left behind it"
        sentence = f"One direction holds {share}, and {left if dominant.rest else nothing}."
        return self.judged(self.rule, place, dominant.rest, sentence)
