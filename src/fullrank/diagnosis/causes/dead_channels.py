"""Dead channels: channels that do not vary over the images."""

from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.record import Finding

_MEASURE = "share of channels without variance"
_REVIVE = "Lower the learning rate or put a normalisation before the activation, and train again."


@final
@dataclass(frozen=True)
class DeadChannels(Cause):
    """The share of channels without variance, beyond those that a fixed head leaves without.

    After a ReLU channels may be idle on some images without any fault. Rectified features therefore have
    rules of their own: `rectified` for an alarm, and below it `idle` for a note.

    >>> import torch
    >>> x = torch.randn(50, 4)
    >>> x[:, 0] = 2
    >>> evidence = Evidence((PlaceEvidence("z", x),))
    >>> DeadChannels().check(evidence.places[0], evidence)[0].value
    0.25
    """

    name = "dead-channels"
    stage = Stage.SHAPE
    plain: Rule = Rule("alarm", _MEASURE, "above", 0.05, _REVIVE)
    rectified: Rule = Rule("alarm", _MEASURE, "above", 0.6, _REVIVE)
    idle: Rule = Rule(
        level="note",
        measure=_MEASURE,
        side="above",
        threshold=0.05,
        remedy="Look at other images before you act: after a ReLU a channel may only be idle on these.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding, by the first rule that fires."""
        shape = place.shape
        imposed = shape.width - (place.imposed_rank or shape.width)
        share = max(0, shape.dead - imposed) / shape.width
        rules = (self.rectified, self.idle) if shape.rectified else (self.plain,)
        sentence = (
            f"{shape.dead} of {shape.width} channels at {place.place} do not vary over {shape.rows} images."
        )
        return [finding for rule in rules for finding in self.judged(rule, place, share, sentence)][:1]
