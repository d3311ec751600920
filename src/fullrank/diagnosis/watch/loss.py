"""The loss of a watched training over time, read from its device only at looks."""

from typing import Any, final

import torch
from torch import Tensor

from fullrank.diagnosis.watch.history import History
from fullrank.errors import UsageError

# The measure by which a rule, an alert and a finding name the loss.
LOSS = "loss"


@final
class LossCurve:
    """The loss at each look: the mean over the steps since the look before, and the last value.

    Between looks the losses stay on their device, so adding one waits for nothing.

    >>> curve = LossCurve("watch")
    >>> for loss in (3.0, torch.tensor(1.0)):
    ...     curve.add(loss)
    >>> curve.look(step=2)
    >>> curve.history.rows()
    [{'step': 2, 'value': 2.0, 'last': 1.0}]
    """

    def __init__(self, called_by: str):
        self.history = History(("step", "value", "last"))
        self._called_by = called_by
        self._pending: list[Tensor | float] = []

    def add(self, loss: object) -> None:
        """Keep the loss of one step: a number, or a tensor of one element. UsageError for anything else."""
        if isinstance(loss, Tensor) and loss.numel() == 1:
            # A copy, as the loss may be changed in place before it is read.
            self._pending.append(loss.detach().clone())
            return
        try:
            self._pending.append(float(loss))  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError) as error:
            shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
            got = f"{type(loss).__name__}{shape}"
            raise UsageError(
                f"{self._called_by}: loss must be one number, but got {got}; give loss.mean()."
            ) from error

    def look(self, step: int) -> None:
        """Add the losses since the look before to `history`; without any, nothing."""
        values, self._pending = self._read(), []
        if values:
            self.history.add({"step": step, "value": sum(values) / len(values), "last": values[-1]})

    def at(self, looks: History) -> list[float]:
        """The mean loss at each look at a module, nan where there is none."""
        by_step = dict(zip(self.history["step"], self.history["value"], strict=True))
        return [by_step.get(step, torch.nan) for step in looks["step"]]

    def state(self) -> dict[str, Any]:
        """The history and the losses since the last look, as numbers."""
        return {"looks": self.history.rows(), "pending": self._read()}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a state; an empty one is the start."""
        self.history = History(self.history)
        for row in state.get("looks", []):
            self.history.add(row)
        self._pending = list(state.get("pending", []))

    def _read(self) -> list[float]:
        return [float(loss) for loss in self._pending]
