"""The contract of a cause of collapse: its stage, the evidence it needs, its rules and its check."""

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
    """When a cause is checked at a place. The stages run in this order.

    Images named by a finding of the first stage are left out of the features for the other two. Causes of the
    last stage are checked only if the rank is low, and only until one of them finds something.
    """

    ROWS = "rows to leave out"
    SHAPE = "shape of the spectrum"
    EXPLANATION = "explanations of a low rank"


@dataclass(frozen=True)
class Rule:
    """One measure, its threshold, the level of a finding, and a remedy.

    Args:
        level: `alarm` for a collapse, `note` for something to know.
        measure: What is measured, in words.
        side: On which side of `threshold` a value is a finding. The threshold itself is not a finding.
        threshold: A finite number of 0 or more.
        remedy: What to try, in one sentence.

    Raises:
        UsageError: If the threshold is not a finite number of 0 or more.

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
    """One reason why a representation collapses, or appears to.

    Derive a frozen dataclass and give it a `name` and a `stage`. Its rules are fields with defaults, so that
    `dataclasses.replace` changes a threshold. `needs` names the evidence (`views`, `stacked`) without which
    the cause is not checked. After a finding of a cause that is `final`, no further checks run at that place;
    `ends` may decide by what was found.
    An explanation that is a `last_resort` is checked after all others. `of_objective` says that an objective
    without a guard against collapse may be the reason; `find_causes` then names what is switched off.

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
    of_objective: ClassVar[bool] = False

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules of this cause, in the order of its fields."""
        return tuple(value for value in vars(self).values() if isinstance(value, Rule))

    @abstractmethod
    def check(self, place: "PlaceEvidence", evidence: "Evidence") -> list[Finding]:
        """The findings of this cause at `place`, which is one of the places of `evidence`."""

    def ends(self, findings: Sequence[Finding]) -> bool:
        """Whether these findings of this cause end the checks at their place."""
        return self.final and bool(findings)

    def judged(self, rule: Rule, place: "PlaceEvidence", value: float, evidence: str) -> list[Finding]:
        """A list with the `finding` if the rule fires on `value`, otherwise an empty list."""
        return [self.finding(rule, place, value, evidence)] if rule.fires(value) else []

    def finding(
        self,
        rule: Rule,
        place: "PlaceEvidence",
        value: float,
        evidence: str,
        rows: Sequence[int] = (),
        same_as: Sequence[int] = (),
    ) -> Finding:
        """A finding by one of the rules. Its title is the catalogue's summary, if the cause is registered.

        Args:
            rule: The rule that fired.
            place: Where it fired.
            value: What was measured.
            evidence: The measurement in one to three sentences.
            rows: The numbers of the images that are at fault: `place.images[i]` for row i of the features.
            same_as: For each of `rows` the row that it is equal to, where that is its fault.
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
            row_count=len(rows),
            same_as=list(same_as),
        )
