"""The loss of a watched training over time, read from its device only at looks."""

import math
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from torch import Tensor

from fullrank.diagnosis.watch.history import History
from fullrank.errors import UsageError

# What a rule, an alert and a finding may say of the loss, and the column of the curve that holds it.
LOSS = "loss"
LOSS_MEASURES = {LOSS: "value", "loss_kept": "kept", "finite_losses": "finite"}
# A look is compared with the looks before it: with so many of them and at least so many losses.
RECENT_LOOKS, RECENT_LOSSES, FEWEST_LOSSES = 3, 20, 10
# Chosen on trainings of digits, and tried on others (benchmarks/watch_rules.py).
NOISE_LIMIT = 5.0
_SIGMA_OF_MEDIAN = 1.4826  # a standard deviation in median absolute deviations, for a normal distribution


def noise_of(losses: Sequence[float]) -> float:
    """The standard deviation of one loss, without what a trend or a spike adds; 0 for fewer than 2.

    It is the median absolute difference of consecutive losses, times 1.4826 over the root of 2.

    >>> noise_of([5, 4, 3, 2, 1]) == noise_of([1, 2, 99, 1, 2, 1]) == 1.4826 / 2**0.5
    True
    """
    steps = np.abs(np.diff(losses)) if len(losses) > 1 else np.zeros(1)
    return _SIGMA_OF_MEDIAN * float(np.median(steps)) / math.sqrt(2)


def kept_share(earlier: Sequence[float], new: Sequence[float], highest: float) -> float:
    r"""The share of its fall that the loss has kept: 1 where it has not risen, 0 where all is lost.

    .. math:: 1 - \frac{m - r}{H - r}, \text{ limited to 0 to 1, where } m - r > 5 \, \sigma
              \sqrt{\tfrac \pi 2 \left(\tfrac 1n + \tfrac 1N\right)}, \text{ and 1 elsewhere}

    with r and m the medians of N earlier and n new losses, H the highest level before, and sigma the noise of
    the earlier losses (`noise_of`). A spike moves no median. nan for fewer than 10 earlier losses.

    Args:
        earlier: The losses before, oldest first.
        new: The newest losses.
        highest: The highest median of a look so far.

    >>> noise = [0.1, -0.1] * 10
    >>> kept_share([1 + each for each in noise], [3 + each for each in noise], highest=5)
    0.5
    >>> kept_share([1 + each for each in noise], [9.0, 0.9, 1.1, 1.0], highest=5)
    1.0
    """
    if len(earlier) < FEWEST_LOSSES or len(new) == 0:
        return math.nan
    level = float(np.median(earlier))
    error = noise_of(earlier) * math.sqrt(math.pi / 2 * (1 / len(earlier) + 1 / len(new)))
    rise = float(np.median(new)) - level
    if rise <= NOISE_LIMIT * error:
        return 1.0
    return min(1.0, max(0.0, 1 - rise / (highest - level))) if highest > level else 0.0


@final
class LossCurve:
    """The loss at each look, from the losses of the steps since the look before.

    Its columns: the mean `value` and its standard `error` by noise, the `last` loss, `kept` (`kept_share`),
    and `finite`, the share of losses that are numbers. Between looks the losses stay on their device, so
    adding one waits for nothing.

    >>> import torch
    >>> curve = LossCurve("watch")
    >>> for loss in (3.0, torch.tensor(1.0)):
    ...     curve.add(loss)
    >>> curve.look(step=2)
    >>> {name: round(value, 4) for name, value in curve.history.last.items()}
    {'step': 2, 'value': 2.0, 'error': 1.4826, 'last': 1.0, 'kept': nan, 'finite': 1.0}
    """

    def __init__(self, called_by: str):
        self.history = History(("step", "value", "error", "last", "kept", "finite"))
        self._recent: list[list[float]] = []  # the finite losses of the newest looks
        self._highest = -math.inf
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
        if not values:
            return
        finite = [value for value in values if math.isfinite(value)]
        earlier = [loss for losses in self._recent for loss in losses]
        row = {
            "step": step,
            "value": sum(values) / len(values),
            "error": noise_of([*earlier, *finite]) / math.sqrt(len(values)),
            "last": values[-1],
            "kept": kept_share(earlier, finite, self._highest),
            "finite": len(finite) / len(values),
        }
        self.history.add(row)
        if finite:
            self._highest = max(self._highest, float(np.median(finite)))
            self._recent.append(finite)
        while len(self._recent) > RECENT_LOOKS and sum(map(len, self._recent[1:])) >= RECENT_LOSSES:
            del self._recent[0]

    def fall(self, start: int, end: int) -> tuple[float, float] | None:
        """The highest mean loss up to step `start`, and that at step `end`, if the loss fell; else None.

        It fell if it is below the highest, and not above that at `start`, each by more than noise.
        """
        before = [row for row in self.history.rows() if row["step"] <= start]
        last = next((row for row in self.history.rows() if row["step"] == end), None)
        if not before or last is None:
            return None
        highest, noise = max(row["value"] for row in before), NOISE_LIMIT * last["error"]
        fell = highest - last["value"] > noise and last["value"] - before[-1]["value"] <= noise
        return (highest, last["value"]) if fell else None

    def state(self) -> dict[str, Any]:
        """The history, what the next look is compared with, and the losses since the last one, as numbers."""
        recent = {"recent": [list(values) for values in self._recent], "highest": self._highest}
        return {"looks": self.history.rows(), "pending": self._read()} | recent

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a state; an empty one is the start."""
        self.history = History(self.history)
        for row in state.get("looks", []):
            self.history.add(row)
        self._pending = list(state.get("pending", []))
        self._recent, self._highest = list(state.get("recent", [])), state.get("highest", -math.inf)

    def _read(self) -> list[float]:
        return [float(loss) for loss in self._pending]
