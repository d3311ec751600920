"""watch: the spectra, ranks and alerts of any module in a training loop of your own."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import numpy as np
from torch import Tensor, nn

from fullrank.diagnosis.watch.alerts import ALERT_RULES, Alert, AlertRule
from fullrank.diagnosis.watch.measurements import Look
from fullrank.diagnosis.watch.watched import WatchedModules, check_is_module
from fullrank.errors import FullrankWarning, UsageError, count_of
from fullrank.processes import process_rank

_CALL_STEP = "call step() of the watch once after each training step"


def watch(
    model: nn.Module,
    modules: Sequence[str] | Mapping[str, str],
    every: int = 50,
    samples: int = 4096,
    *,
    tolerance: float = 1e-6,
    rules: Sequence[AlertRule] = ALERT_RULES,
    training_only: bool = True,
) -> "Watch":
    """Watch modules of a model in your own training loop, with alerts on collapse.

    Use it in a `with` block around the loop, and call `step` once after each training step. Every `every`
    steps the newest `samples` rows of each module are measured. Looks, rules, alerts and the saved record are
    those of `SpectrumMonitor`, which does the same under Lightning.

    The output of a watched module is (N, D), a map (N, C, H, W) or tokens (N, T, D); maps and tokens are
    averaged over their positions. Of a tuple the first tensor counts. All calls between two `step` count: two
    views, or the batches of an accumulated gradient. Calls in evaluation mode do not count, so a validation
    may run in between. A call that activation checkpointing repeats counts once.

    Training stays bit for bit the same. Modules carry a hook only in the steps just before a measurement.

    The model may be wrapped in DataParallel or DistributedDataParallel; names are those inside the wrapper.
    With several processes the first one watches its own share. A module that is compiled itself can be
    watched. A module inside a compiled one gives rows only if the watch begins before the first call. The
    hook then becomes part of the compiled code, so results may differ in their last digits. A warning says
    so.

    Args:
        model: Any module.
        modules: Dotted paths inside the model, as in `named_modules()`, or a mapping from names of your
            choice to such paths.
        every: Steps between two measurements, 1 or more.
        samples: Rows per measurement, 2 or more. A rank is at most rows - 1, so choose more than twice the
            width if you can.
        tolerance: The share of the largest variance above which a direction is live, between 0 and 1.
        rules: The rules that raise alerts.
        training_only: Leave out calls of a module in evaluation mode. False counts all calls, for a training
            that runs in evaluation mode.

    Returns:
        The watch. It is on at once; `close`, or the end of the `with` block, takes its hooks off.

    Raises:
        UsageError: An argument is outside its limits or of a wrong type, or a module does not exist.
        DataError: An output is not a tensor of rows, maps or tokens.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> with watch(net, ["1"], every=5, samples=64) as watching:
    ...     for _ in range(10):
    ...         loss = net(torch.randn(16, 4)).square().mean()
    ...         looks = watching.step(loss)
    >>> [look.step for look in watching.looks["1"]], watching.alerts
    ([4, 5, 10], [])
    """
    check_is_module(model, "watch")
    watched = WatchedModules(
        modules, every, samples, tolerance=tolerance, rules=rules, training_only=training_only
    )
    return Watch(model, watched)


@final
class Watch:
    """A watch over modules of a model in a training loop, as `watch` makes it.

    Args:
        model: The model.
        watched: What is watched in it.

    Raises:
        UsageError: A module does not exist.
    """

    def __init__(self, model: nn.Module, watched: WatchedModules):
        self._model, self._watched, self._closed = model, watched, False
        watched.check(model)
        self._begin()

    @property
    def looks(self) -> dict[str, list[Look]]:
        """The looks so far, by name."""
        return self._watched.looks

    @property
    def alerts(self) -> list[Alert]:
        """The alerts so far."""
        return self._watched.alerts

    def step(self, loss: Tensor | float | None = None) -> dict[str, Look]:
        """End a training step: call it once after each.

        Args:
            loss: The loss of the step, for its curve and the rules on it: a number, or a tensor of one
                element. A tensor is read at looks only, so a step waits for no device.

        Returns:
            The new looks by name, for a logger of yours; empty where none was due.

        Raises:
            UsageError: The watch is closed, or the loss is not one number.
        """
        if self._closed:
            raise UsageError("watch: step() was called after close(); close the watch after the last step.")
        looks = self._watched.end(self._watched.steps + 1, loss)
        self._begin()
        return looks

    def close(self) -> None:
        """Take the hooks off. Everything that was measured stays, and can be saved."""
        self._closed = True
        self._watched.release()

    def arrays(self) -> dict[str, np.ndarray]:
        """The looks over time, as `arrays.npz` may hold them.

        For each name with a look: `spectrum/NAME/step` and `rows` (T,), each measure (T,), and
        `singular_values` (T, D). With a loss `loss/step`, `loss/value` and `loss/last` (T,).
        """
        return self._watched.arrays()

    def save(self, folder: str | Path) -> None:
        """Write the measurements into `folder`, of which `fullrank report` makes a page.

        Writes what `SpectrumMonitor.save` writes, `record.json` and `arrays.npz`, by the same rules. Of many
        processes the first writes, the others do nothing.

        Args:
            folder: A folder; it is made if it is missing. An earlier save in it is replaced.

        Raises:
            UsageError: Nothing was measured, or the folder is a file or holds the record of something else.
            DataError: The folder holds a damaged record.
        """
        if not self._watched.steps and self._watched.first:
            raise UsageError(f"watch: step() was never called, so there is nothing to save; {_CALL_STEP}.")
        self._watched.save(folder)

    def state_dict(self) -> dict[str, Any]:
        """Looks, alerts, losses and pending rows, for your checkpoint."""
        return self._watched.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state, before the first step."""
        self._watched.load_state_dict(state_dict)
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is None and self._watched.first and not any(self.looks.values()):
            self._warn_of_nothing()

    def _begin(self) -> None:
        self._watched.first = process_rank() == 0
        self._watched.begin(self._model)

    def _warn_of_nothing(self) -> None:
        steps, every = self._watched.steps, self._watched.every
        if not steps:
            why = f"step() was never called, so nothing was measured; {_CALL_STEP}"
        else:
            why = f"nothing was measured in {count_of(steps, 'step')}; lower every ({every}) or samples"
        warnings.warn(f"watch: {why}.", FullrankWarning, stacklevel=3)
