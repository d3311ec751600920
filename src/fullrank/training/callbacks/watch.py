"""All that watches a run while it is trained, as one object."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import lightning.pytorch as pl
import numpy as np

from fullrank.runs.recipe import Recipe
from fullrank.training.callbacks.curves import Monitor
from fullrank.training.callbacks.finite import FiniteGuard
from fullrank.training.callbacks.online import OnlineProbes
from fullrank.training.session import Session


@dataclass(frozen=True)
class Watch:
    """What watches a run while it is trained."""

    monitor: Monitor
    online: OnlineProbes | None
    guard: FiniteGuard

    @classmethod
    def over(cls, recipe: Recipe, folder: Path, session: Session) -> Self:
        """What a recipe asks for."""
        return cls(
            Monitor(folder, recipe.monitor_every),
            OnlineProbes(recipe.online_every) if recipe.online_every else None,
            FiniteGuard(folder, recipe.monitor_every, session.skip_nonfinite),
        )

    def callbacks(self) -> list[pl.Callback]:
        """All of them."""
        return [self.guard, self.monitor, *([self.online] if self.online else [])]

    def arrays(self) -> dict[str, np.ndarray]:
        """What they saw over time."""
        return self.monitor.arrays() | (self.online.arrays() if self.online else {})
