"""Dead channels: channels that do not vary over the images."""

from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.record import Finding

_MEASURE = "share of channels without variance"
_REVIVE = "Lower the learning rate or add a normalisation layer before the activation, and train again."


@final
@dataclass(frozen=True)
class DeadChannels(Cause):
    """The share of channels without variance, not counting those that a fixed head empties.

    After a ReLU, channels can be idle on some images without being faulty. Rectified features therefore have
    their own rules: `rectified` for an alarm, and below it `idle` for a note.

    >>> import torch
    >>> x = torch.randn(50, 4)
    >>> x[:, 0] = 2
    >>> evidence = Evidence((PlaceEvidence("z", x),))
    >>> DeadChannels().check(evidence.places[0], evidence)[0].value
    0.25
    """

    name = "dead-channels"
    stage = Stage.SHAPE
    of_objective = True
    plain: Rule = Rule("alarm", _MEASURE, "above", 0.05, _REVIVE)
    rectified: Rule = Rule("alarm", _MEASURE, "above", 0.6, _REVIVE)
    idle: Rule = Rule(
        level="note",
        measure=_MEASURE,
        side="above",
        threshold=0.05,
        remedy="Check other images first, because after a ReLU a channel may be idle on these images only.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding by the first rule that fires, otherwise none."""
        shape = place.shape
        imposed = shape.width - (place.imposed_rank or shape.width)
        share = max(0, shape.dead - imposed) / shape.width
        rules = (self.rectified, self.idle) if shape.rectified else (self.plain,)
        sentence = (
            f"{shape.dead} of {shape.width} channels at {place.place} do not vary over {shape.rows} images."
        )
        return [finding for rule in rules for finding in self.judged(rule, place, share, sentence)][:1]
