"""Leakage: test rows, or test images, that are equal to a training one."""

from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.rows import WITHOUT_LEAKED
from fullrank.record import Finding


@final
@dataclass(frozen=True)
class Leakage(Cause):
    """The share of test rows that are equal to a training row, or of test images to a training image.

    It needs a split that the source states. Halves that fullrank draws by chance are not a split. Images that
    are only similar to a training image, such as another crop, are not seen.

    >>> import torch
    >>> from fullrank.diagnosis.rows import survey_features
    >>> x = torch.randn(50, 4)
    >>> x[40] = x[0]
    >>> survey = survey_features(x).of_split(range(40), range(40, 50))
    >>> evidence = Evidence((PlaceEvidence("h", x),), survey=survey)
    >>> finding = Leakage().check(evidence.places[0], evidence)[0]
    >>> finding.value, finding.rows, finding.same_as
    (0.1, [40], [0])
    """

    name = "leakage"
    stage = Stage.SHAPE
    rule: Rule = Rule(
        level="note",
        measure="share of test rows that equal a training row",
        side="above",
        threshold=0.01,
        remedy="Remove these rows from the training rows or from the test rows, and measure again.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding with the test rows that equal a training row, otherwise none."""
        survey = evidence.survey
        if survey is None or evidence.before(place) or not self.rule.fires(survey.leaked_share):
            return []
        images = survey.of == "images"
        leaked, tested = survey.leaked, len(survey.tested)
        what = "images have the pixels of a training image" if images else "rows equal a training row"
        sentence = f"{len(leaked):,} of {tested:,} test {what}."
        for again in evidence.again(WITHOUT_LEAKED):
            accuracies = f"{100 * again.linear:.1f} % without them and {100 * again.before:.1f} % with them"
            sentence += f" The linear accuracy at {again.place} is {accuracies}."
        same_as = survey.learnt_same_as(leaked).tolist()
        finding = self.finding(self.rule, place, survey.leaked_share, sentence, leaked.tolist(), same_as)
        return [finding.model_copy(update={"place": "images"})] if images else [finding]
