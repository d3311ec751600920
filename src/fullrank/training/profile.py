"""Where the time of a training step goes."""

import time
from collections import defaultdict

import torch
from lightning.pytorch.profilers import Profiler

# What Lightning and the step call their actions -> the part of the step that it is, the inner ones apart.
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
_INSIDE_OPTIMIZER = ("views", "encoder", "head", "objective", "backward")


class StepClock(Profiler):
    """Adds up the seconds of each part of the steps of a training run; for `train(profiler=StepClock())`.

    The parts are the loader, the upload to the device, views, encoder, head and objective (forward),
    backward, the optimizer's own work, and the rest: curves, checkpoints, progress and the engine. On a GPU
    every part is waited for, which makes the run slower and its shares true.

    >>> clock = StepClock()
    >>> with clock.profile("run_training_epoch"), clock.profile("views"):
    ...     pass
    >>> list(clock.seconds())
    ['views', 'rest']
    """

    def __init__(self) -> None:
        super().__init__()
        self._began: dict[str, float] = {}
        self._totals: dict[str, float] = defaultdict(float)
        self.steps = 0

    def start(self, action_name: str) -> None:
        """An action begins."""
        if self._part(action_name) is not None:
            self._began[action_name] = self._now()

    def stop(self, action_name: str) -> None:
        """An action ends."""
        part = self._part(action_name)
        if part is not None and action_name in self._began:
            self._totals[part] += self._now() - self._began.pop(action_name)
            self.steps += part == "optimizer"

    def seconds(self) -> dict[str, float]:
        """Seconds by part, in the order of a step; they sum to the seconds of all epochs."""
        totals = dict(self._totals)
        if "optimizer" in totals:
            # Lightning runs the step itself inside the optimizer's.
            totals["optimizer"] -= sum(totals.get(part, 0.0) for part in _INSIDE_OPTIMIZER)
        whole = totals.pop(_WHOLE, 0.0)
        found = {part: totals[part] for part in _PARTS.values() if part in totals}
        return found | {"rest": whole - sum(found.values())}

    def summary(self) -> str:
        """A line for each part: milliseconds a step, and its share."""
        parts, steps = self.seconds(), max(self.steps, 1)
        whole = sum(parts.values()) or 1.0
        lines = [f"{'part of a step':<16}{'ms':>9}{'share':>9}"]
        lines += [
            f"{part:<16}{1000 * spent / steps:>9.2f}{100 * spent / whole:>7.1f} %"
            for part, spent in parts.items()
        ]
        return "\n".join([*lines, f"{'all':<16}{1000 * whole / steps:>9.2f}   of {self.steps} steps"])

    def _part(self, action: str) -> str | None:
        if action == _WHOLE:
            return _WHOLE
        return _PARTS.get(action.rpartition(".")[2] if action.startswith("[") else action)

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()
