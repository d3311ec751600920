"""Batch statistics: batch norms whose running statistics do not fit their input."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.causes import CAUSES
from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.norms import NormShift
from fullrank.places import is_of_head
from fullrank.record import Finding

# What a place looks like if wrong statistics have shrunk its features.
_COLLAPSES = ("complete-collapse", "mean-dominance", "dimensional-collapse")
_MEASURE = "share of channels that do not fit the running statistics"


@final
@dataclass(frozen=True)
class BatchStatistics(Cause):
    """The largest share of channels of one batch norm that do not fit its running statistics.

    `fullrank.diagnosis.norms.norm_shifts` says when a channel is off. If the features collapse too, this is
    an alarm that stands instead of the collapse, else one note at the end of the encoder.

    >>> import torch
        >>> from fullrank.diagnosis.norms import NormShift
    from fullrank.places import is_of_head
        >>> off = NormShift("bn1", 64, log_ratio=-9.0, mean_shift=0.1, off=1.0)
        >>> place = PlaceEvidence("h", 1 + 1e-5 * torch.randn(50, 4))
        >>> evidence = Evidence((place,), norms=(off,))
        >>> [(finding.cause, finding.level) for finding in BatchStatistics().check(place, evidence)]
        [('batch-statistics', 'alarm')]
    """

    name = "batch-statistics"
    stage = Stage.SHAPE
    rule: Rule = Rule(
        level="alarm",
        measure=_MEASURE,
        side="above",
        threshold=0.5,
        remedy="Estimate them again on training images, with torch.optim.swa_utils.update_bn or a pass in "
        "train mode.",
    )
    shifted: Rule = Rule(
        level="note",
        measure=_MEASURE,
        side="above",
        threshold=0.2,
        remedy="Check that images are scaled as in training, and for other data estimate them again with "
        "torch.optim.swa_utils.update_bn.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """An alarm where features collapse, else a note at the end of the encoder; none if all norms fit."""
        end = evidence.places[evidence.end_of_encoder]
        if not evidence.norms:
            return []
        worst = max(norm.off for norm in evidence.norms)
        collapses = self.rule.fires(worst) and _collapses(place, evidence)
        # A collapse in the head is not the fault of the norms if the encoder before it ends healthy.
        if collapses and is_of_head(place.place):
            collapses = _collapses(end, evidence)
        if not collapses and place is not end:
            return []
        rule = self.rule if collapses else self.shifted
        off = [norm for norm in evidence.norms if rule.fires(norm.off)]
        return [self.finding(rule, place, worst, _sentence(off, evidence.norms))] if off else []

    def ends(self, findings: Sequence[Finding]) -> bool:
        """Whether there is an alarm: it stands instead of the collapse."""
        return any(finding.level == "alarm" for finding in findings)


def _collapses(place: PlaceEvidence, evidence: Evidence) -> bool:
    causes = [CAUSES.build(name) for name in _COLLAPSES if name in CAUSES]
    return any(finding.level == "alarm" for cause in causes for finding in cause.check(place, evidence))


def _sentence(off: Sequence[NormShift], norms: Sequence[NormShift]) -> str:
    first, factor = off[0], math.exp(off[0].log_ratio)
    return (
        f"{len(off)} of {len(norms)} batch norms have running statistics that do not fit their input. The "
        f"first is {first.layer}: the variance of its input is {factor:.3g} times the running one, and its "
        f"mean is {first.mean_shift:.2g} running deviations away (medians of {first.channels} channels)."
    )
