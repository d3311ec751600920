"""Complete collapse: all features at a place are nearly one point."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.record import Finding

if TYPE_CHECKING:
    from fullrank.diagnosis.evidence import Evidence, PlaceEvidence


@final
@dataclass(frozen=True)
class CompleteCollapse(Cause):
    r"""The spread of the features is tiny beside their norm; nothing else is then checked at that place.

    .. math:: \sqrt{\operatorname{tr} C \,/\, \tfrac1N \sum_i |x_i|^2}

    C is the centred covariance of features x (N, D).

    >>> import torch
    >>> from fullrank.diagnosis import Evidence, PlaceEvidence
    >>> evidence = Evidence((PlaceEvidence("z", torch.ones(10, 4)),))
    >>> CompleteCollapse().check(evidence.places[0], evidence)[0].value
    0.0
    """

    name = "complete-collapse"
    stage = Stage.SHAPE
    final = True
    rule: Rule = Rule(
        level="alarm",
        measure="spread relative to norm",
        side="below",
        threshold=5e-4,
        remedy="Check that the loss has negatives, a variance term or a stop-gradient, and lower the "
        "learning rate.",
    )

    def check(self, place: "PlaceEvidence", evidence: "Evidence") -> list[Finding]:
        """One finding where the spread is below the threshold."""
        shape = place.shape
        if not self.rule.fires(shape.spread):
            return []
        sentence = (
            f"All {shape.rows} rows at {place.place} are nearly one point: their spread is "
            f"{shape.spread:.2g} of their norm."
        )
        return [self.finding(self.rule, place, shape.spread, sentence)]
