"""What the theorems on P1's toys share: their settings, and how their curves are made."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from fullrank.theory.collapse.toy_training import Schedule
from fullrank.theory.common.flow import Array
from fullrank.theory.common.theorem import Curve, Panel, SteppedTheorem

# Samples of the theorems' own flows; the toys draw a batch from many more.
SAMPLES = 256

Steps = Annotated[int, Field(ge=1, description="number of SGD steps of each toy")]
Rate = Annotated[float, Field(gt=0, description="learning rate of SGD")]
Noise = Annotated[float, Field(ge=0, le=10, description="standard deviation of the augmentation's noise")]


class ToyTheorem(SteppedTheorem):
    """The settings that P1's toys share."""

    FULL: ClassVar[dict[str, Any]] = {"steps": 10_000}

    steps: Steps = 2000
    learning_rate: Rate = 1e-2
    noise: Noise = 1e-3
    temperature: float = Field(0.1, ge=1e-3, le=100, description="temperature of the softmax in the toy")
    seed: int = Field(0, ge=0, description="random seed of the data, the start and the noise")

    @property
    def total_steps(self) -> int:
        """The steps of the toy."""
        return self.steps

    @property
    def _schedule(self) -> Schedule:
        return Schedule(**self.model_dump(include={"steps", "learning_rate", "temperature", "seed"}))


def bundle(panel: Panel, name: str, x: Array, values: Array, *, dashed: bool = False) -> tuple[Curve, ...]:
    """One line for each column of `values` (T, K), all of one name and so of one colour."""
    return tuple(Curve(panel.title, name, x, column, dashed=dashed) for column in values.T)
