"""Duplicate rows: rows, or images, that are equal to another one."""

from dataclasses import dataclass
from typing import final

import numpy as np

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.rows import WITHOUT_EQUAL
from fullrank.record import Finding


@final
@dataclass(frozen=True)
class DuplicateRows(Cause):
    """The share of rows that are equal to another row, number by number. Zero rows do not count.

    For a model these are images with equal pixels, counted once. The training rows and the test rows of a
    split are counted apart: a test row that equals a training row is `leakage`. If all rows are equal,
    nothing is found here, because `complete-collapse` says so.

    >>> import torch
    >>> x = torch.randn(50, 4)
    >>> x[1] = x[0]
    >>> evidence = Evidence((PlaceEvidence("h", x),))
    >>> finding = DuplicateRows().check(evidence.places[0], evidence)[0]
    >>> finding.value, finding.rows, finding.same_as
    (0.04, [1], [0])
    """

    name = "duplicate-rows"
    stage = Stage.SHAPE
    rule: Rule = Rule(
        level="note",
        measure="share of rows that equal another",
        side="above",
        threshold=0.01,
        remedy="Keep one row of each group before you split the rows, count neighbours or compare ranks.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding with the rows that repeat an earlier one, otherwise none."""
        survey, earlier = evidence.survey or place.survey, evidence.before(place)
        equal, repeated = survey.in_equal_groups, survey.repeated
        if earlier and evidence.survey is None:
            # What was equal before is equal here too.
            equal = np.setdiff1d(equal, earlier[0].survey.in_equal_groups)
            repeated = np.setdiff1d(repeated, earlier[0].survey.repeated)
        distinct = survey.count - len(survey.zero) - len(survey.repeated)
        share = len(equal) / survey.count
        if (earlier and evidence.survey is not None) or distinct < 2 or not self.rule.fires(share):
            return []
        groups, images = len(np.unique(survey.same_as(equal))), survey.of == "images"
        what = "images have the pixels of another image" if images else "rows equal another row"
        several = "one group" if groups == 1 else f"{groups:,} groups"
        extra = f"{len(repeated):,} of them repeat{'s' if len(repeated) == 1 else ''} an earlier one"
        sentence = f"{len(equal):,} of {survey.count:,} {what}, in {several}; {extra}."
        for again in evidence.again(WITHOUT_EQUAL):
            before, after = 100 * again.before, 100 * again.linear
            accuracies = f"{after:.1f} % with each group kept once, and {before:.1f} % before"
            sentence += f" The linear accuracy at {again.place} is {accuracies}."
        rows = repeated.tolist()
        finding = self.finding(self.rule, place, share, sentence, rows, survey.same_as(repeated).tolist())
        return [finding.model_copy(update={"place": "images"})] if images else [finding]
