"""A dominant direction: one direction or a few channels hold nearly all variance, and the rest is healthy."""

from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.dominant import Dominant, percent
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.record import Finding

_MEASURE = "share of the variance in one direction or a few channels"
# At most so many channels are listed.
_LISTED = 5


@final
@dataclass(frozen=True)
class DominantDirection(Cause):
    """One direction or a few channels hold 0.95 of the variance or more, and the rest is healthy.

    The rest is healthy if its corrected participation ratio is 8 or more. From 4 to 8, the finding has the
    remedy of `unclear`. No further checks run at that place, so a drop behind this direction is no alarm.

    A self-supervised loss spreads features. After it, a sharp drop behind a direction across many channels is
    a low rank, unless the rows form two groups along it.

    Args:
        healthy: The rule if the rest is healthy, or if the direction is the distance of a few rows.
        across: The same for a direction across many channels.
        unclear: The rule if the features alone cannot tell.
        enough: The corrected participation ratio from which on the rest is healthy.
        least: The one below which it collapsed. Both shrink in proportion below 16 possible directions.
        least_behind: The share of the variance in the rest from which on it counts, for one group of rows
            along a direction across many channels. Less is the noise of a collapse.

    >>> import torch
    >>> x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    >>> x[:, 3] *= 100
    >>> evidence = Evidence((PlaceEvidence("h", x),))
    >>> [finding.level for finding in DominantDirection().check(evidence.places[0], evidence)]
    ['note']
    """

    name = "dominant-direction"
    stage = Stage.SHAPE
    final = True
    healthy: Rule = Rule(
        level="note",
        measure=_MEASURE,
        side="above",
        threshold=0.95,
        remedy="Standardise the channels, or remove this direction, before you compute distances or cosines.",
    )
    across: Rule = Rule(
        level="note",
        measure=_MEASURE,
        side="above",
        threshold=0.95,
        remedy="Remove this direction before you compute distances or cosines, because standardised channels "
        "still hold it.",
    )
    unclear: Rule = Rule(
        level="note",
        measure=_MEASURE,
        side="above",
        threshold=0.95,
        remedy="Diagnose the net before training too: a collapse has fewer directions than that net.",
    )
    enough: float = 8.0
    least: float = 4.0
    least_behind: float = 1e-4

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding if the rest is healthy or the features cannot tell, otherwise none."""
        few = len(place.shape.eigenvalues) < 2  # one possible direction holds everything by itself
        if few or (place.imposed_rank is not None and place.imposed_rank < 4):
            return []
        dominant = place.dominant
        if not dominant.outlying:
            if dominant.possible < (1 if dominant.channels else 3) or dominant.rest < dominant.scaled(
                self.least
            ):
                return []
            if not (dominant.channels or dominant.group) and self._is_collapse(place, evidence):
                return []
        healthy = dominant.rest >= dominant.scaled(self.enough)
        plain = self.healthy if dominant.channels else self.across
        rule = plain if healthy or dominant.outlying else self.unclear
        if not rule.fires(dominant.share):
            return []
        rows = [place.images[row] for row in dominant.group]
        return [self.finding(rule, place, dominant.share, _sentence(place.place, dominant, healthy), rows)]

    def _is_collapse(self, place: PlaceEvidence, evidence: Evidence) -> bool:
        """Whether a direction across many channels, without groups along it, is a low rank after all."""
        if 1 - place.dominant.share < self.least_behind:
            return True
        return evidence.supervised is False and evidence.cut(place) is not None


def _sentence(where: str, dominant: Dominant, healthy: bool) -> str:
    share, channels = f"{percent(dominant.share)} of the variance at {where}", dominant.channels
    if not channels:
        first = f"One direction across many channels holds {share}."
    elif len(channels) == 1:
        first = f"Channel {channels[0]} holds {share}."
    else:
        some = ", ".join(map(str, channels[:_LISTED])) + (", ..." if len(channels) > _LISTED else "")
        first = f"{len(channels)} channels ({some}) hold {share}."
    few = len(dominant.group)
    others = dominant.rows - few
    if dominant.outlying:
        row = f"{few} row lies" if few == 1 else f"{few} rows lie"
        return f"{first} Along it, {row} far from the other {others} rows."
    groups = f" Along it, the rows form two groups, of {others} and {few} rows." if few else ""
    rest = f"{min(dominant.rest, dominant.possible):.0f} of {dominant.possible} directions"
    judged = "which is healthy" if healthy else "which is few but not a clear collapse"
    return f"{first}{groups} The rest spreads over about {rest}, {judged}."
