"""The settings of the study as data. Torch-free."""

from typing import Literal

from pydantic import BaseModel, Field, PositiveFloat

SOFTMAX, UNTRAINED = "softmax", "untrained"


class Settings(BaseModel, frozen=True, extra="forbid"):
    """The settings of the study at a scale.

    `recipe` names the images; `pad` black pixels on every side hold the label pixels. `methods` and
    `pretexts` are the rows of the table. In an epoch each training image is drawn `draws` times.
    `learning_rate` is that of each method. `level` is for each goodness the root mean square of activations
    at the threshold. `judged` is the number of test images, the first ones, behind an accuracy of a pretext
    task; None is all.
    """

    recipe: str
    pad: int = Field(2, ge=0)
    methods: tuple[str, ...] = ("FF, norm", "FF, squares", "every layer", "last layer", SOFTMAX, UNTRAINED)
    pretexts: tuple[str, ...] = ("rotation", "flip", "jigsaw")
    width: int = Field(256, ge=1)
    depth: int = Field(4, ge=1)
    epochs: int = Field(60, ge=1)
    draws: int = Field(1, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: dict[str, PositiveFloat]
    level: dict[Literal["norm", "squares"], PositiveFloat]
    judged: int | None = Field(None, ge=1)

    @property
    def last(self) -> int:
        """The first of the last layers, from 1: those whose mean goodness classifies, all but the first."""
        return min(2, self.depth)
