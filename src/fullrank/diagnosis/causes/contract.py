"""The contract of a cause of collapse: its stage, the evidence it needs, its rules, and how it is checked."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Literal

from fullrank.diagnosis.causes import CAUSES
from fullrank.errors import UsageError
from fullrank.record import Finding

if TYPE_CHECKING:
    from fullrank.diagnosis.evidence import Evidence, PlaceEvidence


class Stage(Enum):
    """When a cause is checked at a place; the stages follow each other in this order.

    The rows that a finding of the first stage names are left out of the features for the other two. The
    causes of the last are checked only where the rank is low, and only until one of them finds something.
    """

    ROWS = "rows to leave out"
    SHAPE = "shape of the spectrum"
    EXPLANATION = "explanations of a low rank"


@dataclass(frozen=True)
class Rule:
    """One measure, the threshold it must pass, how serious that is, and what to try then.

    `side` says on which side of `threshold` a value is a finding; the threshold itself is none. An `alarm`
    means collapse, a `note` something to know. Raises UsageError for a threshold that is not a finite number
    of 0 or more.

    >>> rule = Rule("alarm", "share of zeros", "above", 0.9, "Train longer.")
    >>> rule.fires(0.95), rule.fires(0.9)
    (True, False)
    """

    level: Literal["alarm", "note"]
    measure: str
    side: Literal["above", "below"]
    threshold: float
    remedy: str

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold) or self.threshold < 0:
            limit = f"a finite number of 0 or more, but got {self.threshold}"
            raise UsageError(f"The threshold of '{self.measure}' must be {limit}; see docs/causes.md.")

    def fires(self, value: float) -> bool:
        """Whether `value` is a finding."""
        return value > self.threshold if self.side == "above" else value < self.threshold


class Cause(ABC):
    """One reason why a representation collapses, or looks as if it did.

    Derive a frozen dataclass whose rules are fields with defaults, so that `dataclasses.replace` changes a
    threshold, and give it `name` and `stage`. `needs` names the evidence without which the cause is not
    checked (`views`, `stacked`). After a finding of a cause that is `final` nothing else is checked at that
    place. An explanation that is a `last_resort` is checked after all others.

    >>> from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes
    >>> @dataclass(frozen=True)
    ... class Tiny(Cause):
    ...     name, stage = "tiny", Stage.SHAPE
    ...     rule: Rule = Rule("note", "width", "below", 8, "Make the encoder wider.")
    ...
    ...     def check(self, place, evidence):
    ...         width = place.features.shape[1]
    ...         return self.judged(self.rule, place, width, f"{place.place} has {width} channels.")
    >>> import torch
    >>> found = find_causes(Evidence((PlaceEvidence("h", torch.randn(50, 4)),)), causes=[Tiny()])
    >>> found[0].cause, found[0].evidence
    ('tiny', 'h has 4 channels.')
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]
    needs: ClassVar[tuple[str, ...]] = ()
    final: ClassVar[bool] = False
    last_resort: ClassVar[bool] = False

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules of this cause, in the order of its fields."""
        return tuple(value for value in vars(self).values() if isinstance(value, Rule))

    @abstractmethod
    def check(self, place: "PlaceEvidence", evidence: "Evidence") -> list[Finding]:
        """What this cause finds at `place`, one of the places of `evidence`; empty where it finds nothing."""

    def judged(self, rule: Rule, place: "PlaceEvidence", value: float, evidence: str) -> list[Finding]:
        """The `finding` where the rule fires on `value`, or else none."""
        return [self.finding(rule, place, value, evidence)] if rule.fires(value) else []

    def finding(
        self, rule: Rule, place: "PlaceEvidence", value: float, evidence: str, rows: Sequence[int] = ()
    ) -> Finding:
        """A finding by one of the rules: `value` was measured, `evidence` says it in a sentence.

        `rows` are the rows of the features that are at fault. The title is the summary in the catalogue; a
        cause that is not registered has none.
        """
        return Finding(
            cause=self.name,
            title=next((entry.summary for entry in CAUSES if entry.name == self.name), ""),
            place=place.place,
            level=rule.level,
            measure=rule.measure,
            value=value,
            threshold=rule.threshold,
            evidence=evidence,
            remedy=rule.remedy,
            rows=list(rows),
        )
