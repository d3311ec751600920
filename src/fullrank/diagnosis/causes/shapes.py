"""Causes that are seen in the shape of the features at one place."""

from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.record import Finding

_DEAD = "share of channels without variance"
_LOOK_AGAIN = "Look at other images before you act: after a ReLU a channel may only be idle on these."
_REVIVE = "Lower the learning rate or put a normalisation before the activation, and train again."
_MEAN = "share of the mean in the second moment"
_CENTRE = "Subtract the mean before cosines are taken; a head without batch norm can end in one (norm=batch)."


@final
@dataclass(frozen=True)
class CompleteCollapse(Cause):
    r"""The spread of the features is tiny beside their norm; nothing else is then checked at that place.

    .. math:: \sqrt{\operatorname{tr} C \,/\, \tfrac1N \sum_i |x_i|^2}

    C is the centred covariance of features x (N, D).

    >>> import torch
    >>> evidence = Evidence((PlaceEvidence("z", torch.ones(10, 4)),))
    >>> CompleteCollapse().check(evidence.places[0], evidence)[0].value
    0.0
    """

    name = "complete-collapse"
    stage = Stage.SHAPE
    final = True
    rule: Rule = Rule(
        level="alarm",
        measure="spread relative to norm",
        side="below",
        threshold=5e-4,
        remedy="Check that the loss has negatives, a variance term or a stop-gradient, and lower the "
        "learning rate.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding where the spread is below the threshold."""
        rows, spread = place.shape.rows, place.shape.spread
        point = f"All {rows} rows at {place.place} are nearly one point"
        return self.judged(self.rule, place, spread, f"{point}: their spread is {spread:.2g} of their norm.")


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
    plain: Rule = Rule("alarm", _DEAD, "above", 0.05, _REVIVE)
    rectified: Rule = Rule("alarm", _DEAD, "above", 0.6, _REVIVE)
    idle: Rule = Rule("note", _DEAD, "above", 0.05, _LOOK_AGAIN)

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


@final
@dataclass(frozen=True)
class MeanDominance(Cause):
    r"""The mean's share of the squared norm, where cosines are taken: at h and at the last place.

    .. math:: |\bar x|^2 \,/\, \tfrac1N \sum_i |x_i|^2

    Features that are never negative, as after a ReLU, have a large mean by nature, hence a rule of their own.

    >>> import torch
    >>> evidence = Evidence((PlaceEvidence("z", torch.randn(50, 4) - 20),))
    >>> [finding.cause for finding in MeanDominance().check(evidence.places[0], evidence)]
    ['mean-dominance']
    """

    name = "mean-dominance"
    stage = Stage.SHAPE
    plain: Rule = Rule("alarm", _MEAN, "above", 0.9, _CENTRE)
    rectified: Rule = Rule("alarm", _MEAN, "above", 0.999, _CENTRE)

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding where the share is above the threshold; none at other places."""
        if place.place != "h" and not evidence.is_last(place):
            return []
        share = place.shape.mean_share
        sentence = (
            f"The mean makes up {100 * share:.2f} % of the squared norm at {place.place}, so all rows point "
            "the same way: a cone."
        )
        return self.judged(self.rectified if place.shape.rectified else self.plain, place, share, sentence)


@final
@dataclass(frozen=True)
class TooFewSamples(Cause):
    """N images span N - 1 dimensions at most, fewer than the width, or than the rank that the head imposes.

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
        remedy="Give more images than the features have channels; a few times as many is better.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding where the images span less than the width."""
        rows, width = place.sample_of or place.shape.rows, place.imposed_rank or place.shape.width
        sentence = (
            f"{rows} images can span {rows - 1} of the {width} dimensions at {place.place}, so every rank "
            "there is bounded by the images."
        )
        return self.judged(self.rule, place, (rows - 1) / width, sentence)
