"""Mean dominance: features in a narrow cone, whose cosines see little but the mean."""

from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.record import Finding

_MEASURE = "share of the mean in the second moment"
_CENTRE = "Subtract the mean before cosines are taken; a head without batch norm can end in one (norm=batch)."


@final
@dataclass(frozen=True)
class MeanDominance(Cause):
    r"""The mean's share of the squared norm, where cosines are taken: at h and at the last place.

    .. math:: |\bar x|^2 \,/\, \tfrac1N \sum_i |x_i|^2

    Features that are never negative, as after a ReLU, have a large mean by nature, hence a rule of their own.

    >>> import torch
    >>> evidence = Evidence((PlaceEvidence("z", torch.randn(50, 4) - 20),))
    >>> [finding.cause for finding in MeanDominance().check(evidence.places[0], evidence)]
    ['mean-dominance']
    """

    name = "mean-dominance"
    stage = Stage.SHAPE
    plain: Rule = Rule("alarm", _MEASURE, "above", 0.9, _CENTRE)
    rectified: Rule = Rule("alarm", _MEASURE, "above", 0.999, _CENTRE)

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding where the share is above the threshold; none at other places."""
        if place.place != "h" and not evidence.is_last(place):
            return []
        share = place.shape.mean_share
        sentence = (
            f"The mean makes up {100 * share:.2f} % of the squared norm at {place.place}, so all rows point "
            "the same way: a cone."
        )
        return self.judged(self.rectified if place.shape.rectified else self.plain, place, share, sentence)
