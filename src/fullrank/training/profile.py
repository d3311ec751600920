"""The time that each part of a training step takes."""

import time
from collections import defaultdict

import torch
from lightning.pytorch.profilers import Profiler

# Action of Lightning or of the step -> part of the step.
_PARTS = {
    "train_dataloader_next": "loader",
    "batch_to_device": "upload",
    "views": "views",
    "encoder": "encoder",
    "head": "head",
    "objective": "objective",
    "backward": "backward",
    "optimizer_step": "optimizer",
}
_WHOLE = "run_training_epoch"


class StepClock(Profiler):
    """Measures the seconds of each part of the training steps, for `train(profiler=StepClock())`.

    The parts are the loader, the upload to the device, views, encoder, head and objective (forward),
    backward, and the optimizer with Lightning's work around it. The rest is curves, checkpoints, progress and
    the engine. Time in a nested part counts for that part only. On a GPU the clock waits for every part, so
    the shares are right but the run is slower.

    >>> clock = StepClock()
    >>> with clock.profile("run_training_epoch"), clock.profile("views"):
    ...     pass
    >>> list(clock.seconds())
    ['views', 'rest']
    """

    def __init__(self) -> None:
        super().__init__()
        # Each open action: its name, its start, and the seconds of all parts until then.
        self._open: list[tuple[str, float, float]] = []
        self._totals: dict[str, float] = defaultdict(float)
        self.batches = 0

    def start(self, action_name: str) -> None:
        """Start to time an action."""
        if _part(action_name) is not None:
            self._open.append((action_name, _now(), sum(self._totals.values())))

    def stop(self, action_name: str) -> None:
        """Stop an action, and those inside it that are still open."""
        part = _part(action_name)
        if part is None or all(name != action_name for name, *_ in self._open):
            return
        name = ""
        while name != action_name:
            name, began, before = self._open.pop()
        self._totals[part] += _now() - began - (sum(self._totals.values()) - before)
        self.batches += part == "objective"

    def seconds(self) -> dict[str, float]:
        """Seconds per part, in the order of a step. Their sum is the time of all epochs."""
        parts = {part: self._totals[part] for part in _PARTS.values() if part in self._totals}
        return parts | {"rest": self._totals[_WHOLE]}

    def summary(self) -> str:
        """One line per part: milliseconds per batch, and its share."""
        parts, batches = self.seconds(), max(self.batches, 1)
        whole = sum(parts.values()) or 1.0
        lines = [f"{'part of a step':<16}{'ms':>9}{'share':>9}"]
        lines += [
            f"{part:<16}{1000 * spent / batches:>9.2f}{100 * spent / whole:>7.1f} %"
            for part, spent in parts.items()
        ]
        return "\n".join([*lines, f"{'all':<16}{1000 * whole / batches:>9.2f}   of {self.batches} batches"])


def _part(action: str) -> str | None:
    """The part of a step that an action belongs to, or None."""
    name = action.rpartition(".")[2] if action.startswith("[") else action
    return _WHOLE if action == _WHOLE else _PARTS.get(name)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
