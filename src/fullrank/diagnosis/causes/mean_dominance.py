"""Mean dominance: features in a narrow cone, where the mean decides every cosine."""

from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.record import Finding
from fullrank.spectrum.geometry import mean_cosine

_MEASURE = "share of the mean in the second moment"
_CENTRE = "Subtract the mean before computing cosines, or end the head in a batch norm (norm=batch)."


@final
@dataclass(frozen=True)
class MeanDominance(Cause):
    r"""The share of the mean in the squared norm, at h and at the last place, where cosines are computed.

    .. math:: |\bar x|^2 \,/\, \tfrac1N \sum_i |x_i|^2

    Features that are never negative, as after a ReLU, always have a large mean. They have their own rule.
    Rows of one direction but several lengths have a smaller share, so the mean cosine of two rows has a rule
    too. A loss of cosines ends there when it collapses.

    >>> import torch
    >>> evidence = Evidence((PlaceEvidence("z", torch.randn(50, 4) - 20),))
    >>> [finding.cause for finding in MeanDominance().check(evidence.places[0], evidence)]
    ['mean-dominance']
    """

    name = "mean-dominance"
    stage = Stage.SHAPE
    of_objective = True
    plain: Rule = Rule("alarm", _MEASURE, "above", 0.9, _CENTRE)
    cosine: Rule = Rule("alarm", "mean cosine of two rows", "above", 0.9, _CENTRE)
    rectified: Rule = Rule("alarm", _MEASURE, "above", 0.999, _CENTRE)

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding if the share is above the threshold, otherwise none. Other places have none."""
        if place.place != "h" and not evidence.is_last(place):
            return []
        share = place.shape.mean_share
        sentence = (
            f"The mean makes up {100 * share:.2f} % of the squared norm at {place.place}, so all rows lie "
            "in a narrow cone."
        )
        if place.shape.rectified:
            return self.judged(self.rectified, place, share, sentence)
        cosine = mean_cosine(place.features)
        alike = f"Two rows at {place.place} have a mean cosine of {cosine:.4f}, so all lie in a narrow cone."
        by_share = self.judged(self.plain, place, share, sentence)
        return by_share or self.judged(self.cosine, place, cosine, alike)
