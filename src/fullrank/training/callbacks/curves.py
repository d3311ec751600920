"""The curves of a run, and its progress line."""

import csv
import io
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor

from fullrank.batch import Batch
from fullrank.diagnosis.watch.history import History
from fullrank.files import write_whole
from fullrank.objectives.contract import summands_of
from fullrank.spectrum.functional import effective_rank_of, singular_values
from fullrank.training.module import OBJECTIVE, JointEmbedding
from fullrank.views import step_generator

SIMILARITIES = ("positive_similarity", "negative_similarity")
CURVES = ("step", "epoch", "loss", *SIMILARITIES, "effective_rank", "learning_rate")
# What Lightning itself logs at every step.
_LIGHTNINGS = ("step", "epoch", "loss")


def mean_similarities(z_a: Tensor, z_b: Tensor) -> tuple[float, float]:
    """Mean cosine between the two views of an image, and between views of different images, in O(N K)."""
    a, b = F.normalize(z_a.double(), dim=1), F.normalize(z_b.double(), dim=1)
    # The sum over all pairs is (sum_i a_i) . (sum_j b_j).
    same, every = (a * b).sum(), a.sum(0) @ b.sum(0)
    n = len(a)
    return float(same / n), float((every - same) / (n * (n - 1)))


class Monitor(pl.Callback):
    """Records loss, positive and negative similarity, effective rank and spectrum of h every `every` steps.

    The loss is that of the objective, which has a chance level. Each auxiliary term has a curve of its own,
    `loss of NAME`, with its weight. An objective that is a sum has a curve for each of its parts,
    `objective: NAME`, with the weights of the step; what it trains or keeps itself has moved on by one step.
    The numbers are measured on both views of the step's batch; with several processes, on the share of the
    first. A step whose loss is not finite (see `FiniteGuard`) is left out.
    """

    def __init__(self, folder: Path, every: int, terms: Sequence[str] = ()):
        self.folder, self.every = folder, every
        self._name((*CURVES, *(f"loss of {name}" for name in terms)))
        self.seconds = 0.0
        self._rate = 0.0
        self._since: float | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        # After the step, the schedule already has the rate of the next one.
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(  # type: ignore[override]  # it watches our module and no other
        self, trainer: pl.Trainer, module: JointEmbedding, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step in (0, *self.curves["step"][-1:]):
            return  # gradients are still being accumulated
        if trainer.global_step % self.every and trainer.global_step != 1:
            return  # reading the loss would wait for the device
        latest = module.latest
        parts = self._parts(trainer, module, batch_idx)  # in every process, as it may gather
        losses = [float(loss) for loss in latest.losses.values()]
        if not math.isfinite(sum(losses)):
            return
        spectrum = singular_values(latest.h)
        similarities = mean_similarities(latest.z_a, latest.z_b)
        rank = effective_rank_of(spectrum)
        progress = (trainer.global_step, _epochs(trainer, batch_idx), losses[0])
        weighted = losses[1:] + [float(part) for part in parts.values()]
        values = (*progress, *similarities, rank, self._rate, *weighted)
        if not self.curves["step"]:  # which parts there are is known only now
            self._name((*self.names, *parts))
        row = {name: float(value) for name, value in zip(self.names, values, strict=True)}
        self.curves.add(row | {"spectrum_h": spectrum.float().cpu()})
        # A colon is not allowed in the names of every logger.
        logged = {name.replace(": ", "/"): value for name, value in row.items() if name not in _LIGHTNINGS}
        for logger in trainer.loggers:
            # Lightning counts steps from 0 in its own logs.
            logger.log_metrics(logged, trainer.global_step - 1)

    def _name(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.curves = History((*self.names, "spectrum_h"))

    def _parts(self, trainer: pl.Trainer, module: JointEmbedding, batch_idx: int) -> dict[str, Tensor]:
        """The parts of the objective in the newest step, by the names of their curves."""
        latest = module.latest
        given: dict[str, Any] = {"labels": latest.labels, "progress": latest.progress}
        given |= {"global_views": latest.global_count, "teacher": latest.targets}
        if "generator" in module.needs:  # what the step drew, and nothing from torch's own generator
            given["generator"] = step_generator(module.seed, trainer.current_epoch, batch_idx, stream=1)
        parts = summands_of(module.objective, latest.by_view(latest.z), **given)
        return {f"{OBJECTIVE}: {name}": value for name, value in parts.items()}

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.seconds, self._since = self.elapsed(), None

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.write_csv(trainer)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        # On a full disk the error that ended the run is enough; the checkpoint has the curves too.
        with suppress(OSError):
            self.write_csv(trainer)

    def write_csv(self, trainer: pl.Trainer) -> None:
        """Write the curves so far to `metrics.csv`, in the first process only."""
        if not trainer.is_global_zero:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, self.names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self.curves.rows())
        write_whole(self.folder / "metrics.csv", text.getvalue().encode())

    def arrays(self) -> dict[str, np.ndarray]:
        """The curves and the spectra of h over time, as stored in `arrays.npz`."""
        return self.curves.arrays() | {"spectrum_step": np.array(self.curves["step"])}

    def elapsed(self) -> float:
        """Seconds of training so far, in all sessions of this run."""
        return self.seconds if self._since is None else self.seconds + time.perf_counter() - self._since

    def state_dict(self) -> dict[str, Any]:
        curves = {name: self.curves[name] for name in self.names}
        return {"curves": curves, "spectra": self.curves["spectrum_h"], "seconds": self.elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._name(state_dict["curves"])
        self.curves.update(state_dict["curves"], spectrum_h=state_dict["spectra"])
        self.seconds = state_dict["seconds"]


def _epochs(trainer: pl.Trainer, batch_idx: int) -> float:
    """Number of epochs completed after a batch."""
    return trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches


class ProgressLine(pl.Callback):
    """One line per run: epochs, time left, loss and its chance level, similarities, rank of h."""

    def __init__(self, progress: Progress, monitor: Monitor, chance: float | None):
        self.progress, self.monitor, self.chance = progress, monitor, chance

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        total = trainer.max_epochs or 0
        self.task = self.progress.add_task("epoch", total=total, completed=trainer.current_epoch, status="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not (last := self.monitor.curves.last):
            return
        chance = f"/{self.chance:.2f}" if self.chance is not None else ""
        status = (
            f"loss {last['loss']:.2f}{chance} sim {last['positive_similarity']:.2f}"
            f"/{last['negative_similarity']:.2f} rank {last['effective_rank']:.0f}"
        )
        self.progress.update(self.task, completed=_epochs(trainer, batch_idx), status=status)

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if hasattr(self, "task"):
            self.progress.remove_task(self.task)
