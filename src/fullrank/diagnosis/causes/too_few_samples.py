"""Too few samples: the images bound the rank, not the model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.record import Finding

if TYPE_CHECKING:
    from fullrank.diagnosis.evidence import Evidence, PlaceEvidence


@final
@dataclass(frozen=True)
class TooFewSamples(Cause):
    """N images span N - 1 dimensions at most, fewer than the width, or than the rank that the head imposes.

    >>> import torch
    >>> from fullrank.diagnosis import Evidence, PlaceEvidence
    >>> evidence = Evidence((PlaceEvidence("z", torch.randn(9, 16)),))
    >>> TooFewSamples().check(evidence.places[0], evidence)[0].value
    0.5
    """

    name = "too-few-samples"
    stage = Stage.SHAPE
    rule: Rule = Rule(
        level="note",
        measure="largest possible rank over width",
        side="below",
        threshold=1.0,
        remedy="Give more images than the features have channels; a few times as many is better.",
    )

    def check(self, place: "PlaceEvidence", evidence: "Evidence") -> list[Finding]:
        """One finding where the images span less than the width."""
        rows, width = place.sample_of or place.shape.rows, place.imposed_rank or place.shape.width
        share = (rows - 1) / width
        if not self.rule.fires(share):
            return []
        sentence = (
            f"{rows} images can span {rows - 1} of the {width} dimensions at {place.place}, so every rank "
            "there is bounded by the images."
        )
        return [self.finding(self.rule, place, share, sentence)]
