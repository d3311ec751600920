"""A theorem with settings, and what it leaves: the predicted and the simulated numbers, side by side."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from fullrank.record import TheoryCurve, TheoryPanel
from fullrank.theory.common.flow import Array


def _split(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


# A setting of several numbers: a list, or the text "2,1,0.5".
Numbers = Annotated[tuple[float, ...], BeforeValidator(_split)]
Panel = TheoryPanel
OnStep = Callable[[int], None]


@dataclass(frozen=True)
class Curve(TheoryCurve):
    """A line of the panel with that title, and its points; the record holds the line without them."""

    x: Array
    y: Array


@dataclass(frozen=True)
class Outcome:
    """What a theorem says of its settings and what the simulation did: two arrays (rows, columns).

    `quantity` says what the numbers are, `verdict` what came out; `remarks` are the limits of both.
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


class Theorem(BaseModel, ABC):
    """A theorem's settings: fields with a default, limits and a description. `FULL` has the paper's own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    FULL: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def outcome(self) -> Outcome:
        """Predict, simulate, and lay both side by side; raises UsageError for settings that do not fit."""


class SteppedTheorem(Theorem):
    """A theorem whose simulation takes many steps; `on_step` is told how many of `total_steps` are done."""

    @property
    @abstractmethod
    def total_steps(self) -> int:
        """The steps of all simulations together."""

    @abstractmethod
    def outcome(self, on_step: OnStep | None = None) -> Outcome:
        """Predict, simulate, and lay both side by side; raises UsageError for settings that do not fit."""


def listed(values: Any) -> str:
    """Numbers in a sentence, to 4 digits."""
    return ", ".join(f"{value:.4g}" for value in values) or "nothing"
