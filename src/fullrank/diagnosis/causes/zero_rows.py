"""Zero rows: inputs whose features are all zero."""

from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.record import Finding


@final
@dataclass(frozen=True)
class ZeroRows(Cause):
    """The share of zero rows. All other measures leave these rows out, unless they are more than 75 %.

    A zero row has no direction, so a cosine with it is not defined. If fewer than 2 other rows exist, nothing
    is found here: `complete-collapse` then says that all features coincide.

    >>> import torch
    >>> x = torch.randn(50, 4)
    >>> x[:5] = 0
    >>> evidence = Evidence((PlaceEvidence("h", x),))
    >>> finding = ZeroRows().check(evidence.places[0], evidence)[0]
    >>> finding.value, finding.rows
    (0.1, [0, 1, 2, 3, 4])
    """

    name = "zero-rows"
    stage = Stage.ROWS
    rule: Rule = Rule(
        level="note",
        measure="share of zero rows",
        side="above",
        threshold=0,
        remedy="Embed these inputs again or delete their rows, because a zero row has no direction.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding with the zero rows, which are only counted if they are not left out; otherwise none."""
        survey = evidence.survey_at(place)
        zero, count = len(survey.zero), survey.count
        share = zero / count
        if count - zero < 2 or not self.rule.fires(share):
            return []
        zeros = f"{zero:,} of {count:,} rows at {place.place} {'is' if zero == 1 else 'are'} zero"
        left_out = survey.left_out.tolist()
        rest = "All other measures leave them out" if left_out else "They are too many to leave out"
        return [self.finding(self.rule, place, share, f"{zeros}. {rest}.", left_out)]
