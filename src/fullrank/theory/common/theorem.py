"""The contract of a theorem: its statement, its settings, and an outcome, predicted and simulated."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from fullrank.record import TheoryCurve, TheoryMeasure, TheoryPanel, TheoryStatement
from fullrank.theory.common.flow import Array


def _split(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


# A setting of several numbers: a list, or the text "2,1,0.5".
Numbers = Annotated[tuple[float, ...], BeforeValidator(_split)]
Panel = TheoryPanel
Statement = TheoryStatement
# The title of the panel that every theorem has: its values at the start and at the end of training.
START_AND_END = "Start and end"
OnStep = Callable[[int], None]


@dataclass(frozen=True)
class Curve(TheoryCurve):
    """A line of the panel with that title, and its points; the record holds the line without them."""

    x: Array
    y: Array


@dataclass(frozen=True)
class Outcome:
    """What a theorem predicts for its settings and what the simulation gives: two arrays (rows, columns).

    `quantity` says what the numbers are. `verdict` is the headline, `explanation` says what happened and why,
    and `remarks` are the limits. `measures` sum the outcome up; a sweep draws them against its setting.
    """

    quantity: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    predicted: Array
    simulated: Array
    verdict: str
    panels: tuple[Panel, ...] = ()
    curves: tuple[Curve, ...] = ()
    remarks: tuple[str, ...] = ()
    explanation: tuple[str, ...] = ()
    measures: tuple[TheoryMeasure, ...] = ()
    sweep: str = ""
    observed: str = "simulated"


class Theorem(BaseModel, ABC):
    """A theorem's settings: fields with a default, limits and a description.

    `STATEMENT` says what the theorem is. `FULL` has the settings of `--full`, the paper's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    STATEMENT: ClassVar[Statement]
    FULL: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def outcome(self) -> Outcome:
        """Predict and simulate; raises UsageError for settings that do not fit together."""


class SteppedTheorem(Theorem):
    """A theorem whose simulation takes many steps; `on_step` is called with the number of steps done."""

    @property
    @abstractmethod
    def total_steps(self) -> int:
        """The steps of all simulations together."""

    @abstractmethod
    def outcome(self, on_step: OnStep | None = None) -> Outcome:
        """Predict and simulate; raises UsageError for settings that do not fit together."""


def measure(name: str, predicted: float, simulated: float) -> TheoryMeasure:
    """A number that sums a theorem up; what is not finite becomes None, as a record holds it."""
    first, second = (float(value) if math.isfinite(value) else None for value in (predicted, simulated))
    return TheoryMeasure(name, first, second)


def listed(values: Any) -> str:
    """Numbers in a sentence, to 4 digits."""
    return ", ".join(f"{value:.4g}" for value in values) or "nothing"


def counted(number: float, thing: str) -> str:
    """A number with its noun, which takes an s unless the number is 1.

    >>> counted(1, "direction"), counted(0, "direction")
    ('1 direction', 'no directions')
    """
    return f"{number or 'no':{'.0f' if number else ''}} {thing}{'' if number == 1 else 's'}"
