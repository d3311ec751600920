"""Uneven scale: a few channels hold nearly all variance, and the labels can be read in the others."""

from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.dominant import percent
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.record import Finding
from fullrank.statistics import binomial_error

STANDARDISED = "standardised channels"
"""The change of a `ProbedAgain` whose probe learned from channels divided by their standard deviation."""
# A gain of so many standard errors is more than chance.
_ERRORS = 2.0


@final
@dataclass(frozen=True)
class UnevenScale(Cause):
    """A few channels hold nearly all variance, and a linear probe is better once channels are standardised.

    It needs the accuracy of a probe on standardised channels. The gain must be more than two standard errors
    of the difference. No further checks run at that place: a few large channels are no low rank.

    >>> import torch
    >>> from fullrank.record import ProbedAgain
    >>> x = torch.randn(200, 16)
    >>> x[:, 3] *= 1000
    >>> again = ProbedAgain(place="h", change="standardised channels", linear=0.9, before=0.5, tested=100)
    >>> evidence = Evidence((PlaceEvidence("h", x),), probed_again=(again,))
    >>> [finding.level for finding in UnevenScale().check(evidence.places[0], evidence)]
    ['note']
    """

    name = "uneven-scale"
    stage = Stage.SHAPE
    final = True
    rule: Rule = Rule(
        level="note",
        measure="share of the variance in a few channels",
        side="above",
        threshold=0.9,
        remedy="Standardise the channels before you train or search on these features.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding if a standardised probe is better by more than chance, otherwise none."""
        again = next((each for each in evidence.again(STANDARDISED) if each.place == place.place), None)
        channels = place.dominant.channels
        if again is None or not channels or place.dominant.outlying:
            return []
        sides = (binomial_error(each, again.tested) for each in (again.linear, again.before))
        error = again.error if again.error is not None else sum(side**2 for side in sides) ** 0.5
        if again.linear - again.before <= _ERRORS * error:
            return []
        share = place.dominant.share
        who = f"Channel {channels[0]} holds" if len(channels) == 1 else f"{len(channels)} channels hold"
        sentence = (
            f"{who} {percent(share)} of the variance at {place.place}. A linear probe has "
            f"{100 * again.before:.1f} % accuracy, and {100 * again.linear:.1f} % on standardised channels, "
            f"on {again.tested} test rows."
        )
        return self.judged(self.rule, place, share, sentence)
