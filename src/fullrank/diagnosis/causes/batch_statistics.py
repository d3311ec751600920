"""Batch statistics: batch norms whose running statistics do not fit their input."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from fullrank.diagnosis.causes.complete_collapse import CompleteCollapse
from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.causes.dimensional_collapse import DimensionalCollapse
from fullrank.diagnosis.causes.mean_dominance import MeanDominance
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.norms import NormShift
from fullrank.places import is_of_head
from fullrank.record import Finding

# A norm is off if more than half of its channels are.
_OFF = 0.5
_UNSETTLED = (
    "Train for more steps, or estimate them again with torch.optim.swa_utils.update_bn: after so few steps "
    "they are not settled."
)


@final
@dataclass(frozen=True)
class BatchStatistics(Cause):
    """Batch norms whose input does not fit their running statistics, so that in eval mode they scale wrongly.

    `fullrank.diagnosis.norms.norm_shifts` says when a channel is off. A norm is off if more than half of its
    channels are. If most norms are off and the features collapse too, it is an alarm and stands instead of
    the collapse. In the head, its own norms count too. Else it is one note, at the end of the encoder, by the
    norm with the most channels that are off. After a few steps of training, it is a note in both cases.

    >>> import torch
    >>> from fullrank.diagnosis.norms import NormShift
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
        measure="share of batch norms that do not fit their input",
        side="above",
        threshold=0.5,
        remedy="Estimate them again on training images, with torch.optim.swa_utils.update_bn or a pass in "
        "train mode.",
    )
    shifted: Rule = Rule(
        level="note",
        measure="largest share of channels of a batch norm that do not fit",
        side="above",
        threshold=0.3,
        remedy="Check that images are scaled as in training, and for other data estimate them again with "
        "torch.optim.swa_utils.update_bn.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """An alarm where features collapse, else a note at the end of the encoder; none if all norms fit."""
        end = evidence.places[evidence.end_of_encoder]
        encoder = [norm for norm in evidence.norms if not norm.of_head]
        # A collapse in the head is not the fault of the encoder's norms if the encoder ends healthy.
        blamed = [(encoder, (place, end) if is_of_head(place.place) else (place,))]
        if is_of_head(place.place):
            blamed.append(([norm for norm in evidence.norms if norm.of_head], (place,)))
        for norms, places in blamed:
            off = [norm for norm in norms if norm.off > _OFF]
            share = len(off) / max(1, len(norms))
            if self.rule.fires(share) and all(_collapses(each, evidence) for each in places):
                return [self.finding(_rule(self.rule, off), place, share, _sentence(off, norms))]
        if place is not end:
            return []
        off = [norm for norm in encoder if self.shifted.fires(norm.off)]
        worst = max((norm.off for norm in off), default=0.0)
        return [self.finding(_rule(self.shifted, off), place, worst, _sentence(off, encoder))] if off else []

    def ends(self, findings: Sequence[Finding]) -> bool:
        """Whether features collapse: the finding stands instead of the collapse."""
        return any(finding.measure == self.rule.measure for finding in findings)


def _rule(rule: Rule, off: Sequence[NormShift]) -> Rule:
    """The rule, as a note where a norm that is off had too few updates to settle."""
    return rule if all(norm.settled for norm in off) else replace(rule, level="note", remedy=_UNSETTLED)


def _collapses(place: PlaceEvidence, evidence: Evidence) -> bool:
    """Whether features are a point, a cone or nearly one direction. A cone counts after a ReLU too."""
    mean = MeanDominance()
    causes = (CompleteCollapse(), replace(mean, rectified=mean.plain), DimensionalCollapse())
    return any(cause.check(place, evidence) for cause in causes)


def _sentence(off: Sequence[NormShift], norms: Sequence[NormShift]) -> str:
    first, factor = off[0], math.exp(off[0].log_ratio)
    return (
        f"{len(off)} of {len(norms)} batch norms have running statistics that do not fit their input. The "
        f"first is {first.layer}: the variance of its input is {factor:.3g} times the running one, and its "
        f"mean is {first.mean_shift:.2g} running deviations away (medians of {first.channels} channels)."
    )
