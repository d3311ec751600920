"""Complete collapse: all features at a place nearly coincide."""

from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.record import Finding


@final
@dataclass(frozen=True)
class CompleteCollapse(Cause):
    r"""The spread of the features is tiny compared with their norm. No further checks then run at that place.

    .. math:: \sqrt{\operatorname{tr} C \,/\, \tfrac1N \sum_i |x_i|^2}

    C is the centred covariance of features x (N, D).

    >>> import torch
    >>> evidence = Evidence((PlaceEvidence("z", torch.ones(10, 4)),))
    >>> CompleteCollapse().check(evidence.places[0], evidence)[0].value
    0.0
    """

    name = "complete-collapse"
    stage = Stage.SHAPE
    of_objective = True
    final = True
    rule: Rule = Rule(
        level="alarm",
        measure="spread relative to norm",
        side="below",
        threshold=5e-4,
        remedy="Check that the loss has negatives, a variance term or a stop-gradient, and lower the "
        "learning rate.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding if the spread is below the threshold, otherwise none."""
        rows, spread = place.shape.rows, place.shape.spread
        point = f"All {rows} rows at {place.place} nearly coincide"
        return self.judged(
            self.rule, place, spread, f"{point}: their spread is {spread:.2g} times their norm."
        )
