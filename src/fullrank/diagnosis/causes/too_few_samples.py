"""Too few samples: the images limit the rank, not the model."""

from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.record import Finding


@final
@dataclass(frozen=True)
class TooFewSamples(Cause):
    """N images span at most N - 1 dimensions, fewer than the width or the rank that the head imposes.

    >>> import torch
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
        remedy="Use more rows than the features have channels; several times as many is better.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding if the images span less than the width, otherwise none."""
        rows, width = place.sample_of or place.shape.rows, place.imposed_rank or place.shape.width
        sentence = (
            f"{rows} rows span at most {rows - 1} of the {width} dimensions at {place.place}, so the "
            "rows limit every rank there."
        )
        return self.judged(self.rule, place, (rows - 1) / width, sentence)
