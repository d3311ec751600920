"""SpectrumMonitor: spectra, ranks and alerts of any module during any Lightning training."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
import numpy as np
from torch import Tensor

from fullrank.diagnosis.watch.alerts import ALERT_RULES, Alert, AlertRule
from fullrank.diagnosis.watch.measurements import MEASURES, Look
from fullrank.diagnosis.watch.watched import WatchedModules
from fullrank.errors import UsageError


@final
class SpectrumMonitor(pl.Callback):
    """Spectrum, ranks and live dimensions of modules of any LightningModule, with alerts on collapse.

    Put it into the callbacks of a Trainer of `lightning.pytorch` or `pytorch_lightning`. The output of a
    watched module is (N, D), a map (N, C, H, W) or tokens (N, T, D); maps and tokens are averaged over their
    positions. All calls in a step count, so two views through one encoder give twice the rows.

    Every `every_n_steps` training batches the monitor measures the newest `samples` rows (see `look_at`).
    Modules carry a hook only in the batches just before a measurement. The first measurement is of the first
    `samples` rows. The time of one grows as (samples + D) min(samples, D)^2.

    The measures go to every logger of the Trainer, as `spectrum/NAME/effective_rank` and so on. `looks` and
    `arrays` hold them and the spectra; `save` writes them for `fullrank report`. A rule that fires adds an
    `Alert` to `alerts` and gives a `CollapseWarning`, or a `LossWarning` if the rule is about the loss. The
    rules on rank and direction compare a module with itself earlier in the run. An untrained module, or a
    rank that is low from the start, is therefore no alert. A supervised classifier, whose rank falls to the
    number of classes, needs rules of its own. Its loss falls with its rank, so an alert that names the
    falling loss as a reason says nothing there.

    Training stays bit for bit the same. Measurements, alerts and pending rows are part of the checkpoint; a
    callback that saves after a step must come after this one. With several processes, the first one watches
    its own share.

    Args:
        modules: Dotted paths inside the LightningModule, as in `named_modules()`, or a mapping from names of
            your choice to such paths.
        every_n_steps: Training batches between two measurements, 1 or more.
        samples: Rows per measurement, 2 or more. A rank is at most rows - 1, so choose more than twice the
            width if you can.
        tolerance: The share of the largest variance above which a direction is live, between 0 and 1.
        rules: The rules that raise alerts.

    Raises:
        UsageError: An argument is outside its limits or, when the training starts, a module does not exist.
        DataError: An output is not a tensor of rows, maps or tokens.

    >>> monitor = SpectrumMonitor(["encoder", "head"])
    >>> import lightning.pytorch as pl
    >>> trainer = pl.Trainer(callbacks=[monitor], accelerator="cpu", logger=False, enable_checkpointing=False)
    >>> monitor.alerts
    []
    """

    def __init__(
        self,
        modules: Sequence[str] | Mapping[str, str],
        every_n_steps: int = 50,
        samples: int = 4096,
        *,
        tolerance: float = 1e-6,
        rules: Sequence[AlertRule] = ALERT_RULES,
    ):
        join_pytorch_lightning()
        self._watched = WatchedModules(
            modules,
            every_n_steps,
            samples,
            tolerance=tolerance,
            rules=rules,
            called_by="SpectrumMonitor",
            every_called="every_n_steps",
        )
        self.modules, self.every_n_steps, self.samples = self._watched.modules, every_n_steps, samples
        self.tolerance, self.rules = tolerance, self._watched.rules

    @property
    def state_key(self) -> str:
        """One for each set of modules, so that a Trainer may have several monitors."""
        return f"SpectrumMonitor{self.modules!r}"

    @property
    def looks(self) -> dict[str, list[Look]]:
        """The looks so far, by name."""
        return self._watched.looks

    @property
    def alerts(self) -> list[Alert]:
        """The alerts so far."""
        return self._watched.alerts

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the names, before any step is made."""
        self._watched.first = trainer.is_global_zero
        self._watched.check(pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Hook the modules, where this batch's rows are looked at."""
        self._watched.begin(pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch's rows, and look where it is time."""
        step = trainer.global_step
        looks = self._watched.measure(step, _loss_of(outputs, trainer, pl_module))
        # Not by the module's `log`: it costs as much as the look, and hands on only what falls on its own
        # log_every_n_steps.
        for name, look in looks.items():
            shown = {f"spectrum/{name}/{measure}": getattr(look, measure) for measure in MEASURES}
            for logger in trainer.loggers:
                logger.log_metrics(shown, step)
        self._watched.judge(step, looks)

    def arrays(self) -> dict[str, np.ndarray]:
        """The looks over time, as `arrays.npz` may hold them.

        For each name with a look: `spectrum/NAME/step` and `rows` (T,), each of `MEASURES` (T,), and
        `singular_values` (T, D). With a loss `loss/step`, `loss/value` and `loss/last` (T,).
        """
        return self._watched.arrays()

    def save(self, folder: str | Path) -> None:
        """Write the measurements into `folder`, of which `fullrank report` makes a page.

        Writes `arrays.npz`, the looks over time, and `record.json`, a diagnosis: the last look at each
        module, the alerts as alarms, and what only `fullrank diagnose` of the model can say. The folder is
        made if it is missing; an earlier save of a monitor in it is replaced. Of many processes the first
        writes, the others do nothing. Raises UsageError before the first look, and for a folder that is a
        file or holds the record of something else; DataError for one that holds a damaged record.
        """
        if not self._watched.steps and self._watched.first:
            lightning = "it needs a Lightning Trainer(callbacks=[monitor])"
            raise UsageError(
                f"SpectrumMonitor saw 0 batches; {lightning}; in your own loop use fullrank.watch."
            )
        self._watched.save(folder)

    def state_dict(self) -> dict[str, Any]:
        """Looks, alerts, losses, and rows that have not been looked at."""
        return self._watched.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state."""
        self._watched.load_state_dict(state_dict)

    def on_init_end(self, *_: Any, **__: Any) -> None:
        """Refuse a Trainer of transformers, which calls its callbacks so."""
        raise UsageError(
            "SpectrumMonitor is a callback of Lightning, and this Trainer is not Lightning's; use "
            "fullrank.TrainerMonitor for transformers, and fullrank.watch in a loop of your own."
        )

    on_train_begin = on_evaluate = on_predict = on_init_end

    def _release(self, *_: Any, **__: Any) -> None:
        self._watched.release()

    on_exception = teardown = _release


def _loss_of(outputs: Any, trainer: Any, pl_module: Any) -> Tensor | None:
    """The loss among what a training step returned, or None."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        return None
    # Lightning has divided it by the number of batches that one optimizer step accumulates.
    batches = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
    return loss if batches == 1 else loss * batches


def join_pytorch_lightning() -> None:
    """Make the monitor a callback of `pytorch_lightning` too, where that has been imported."""
    # A Trainer takes any object in a list of callbacks; a callback outside a list, or one that is named in a
    # file of the command line, must be of its own class. To import it here would take Lightning's logger.
    callback = getattr(sys.modules.get("pytorch_lightning"), "Callback", SpectrumMonitor)
    if not issubclass(SpectrumMonitor, callback):
        SpectrumMonitor.__bases__ += (callback,)


join_pytorch_lightning()
