"""What is watched while a run goes on: the curves, the progress line, the checkpoint, and Ctrl-C."""

import csv
import io
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor

from fullrank.batch import Batch
from fullrank.data import BatchLoader
from fullrank.errors import DataError, DivergedError, InterruptedRunError
from fullrank.record import write_whole
from fullrank.spectrum.functional import effective_rank, singular_values
from fullrank.training.module import JointEmbedding

CURVES = (
    "step",
    "epoch",
    "loss",
    "positive_similarity",
    "negative_similarity",
    "effective_rank",
    "learning_rate",
)
CHECKPOINT = Path("checkpoints") / "last.ckpt"


def mean_similarities(z_a: Tensor, z_b: Tensor) -> tuple[float, float]:
    """Mean cosine of the two views of one image, and of views of different images.

    The second comes from the sum over all pairs, (sum_i a_i) . (sum_j b_j), in O(N K).

    >>> mean_similarities(torch.eye(2), torch.eye(2))
    (1.0, 0.0)
    """
    a, b = F.normalize(z_a.double(), dim=1), F.normalize(z_b.double(), dim=1)
    same, every = (a * b).sum(), a.sum(0) @ b.sum(0)
    n = len(a)
    return float(same / n), float((every - same) / (n * (n - 1)))


class Monitor(pl.Callback):
    """Every `every` steps: loss, positive and negative similarity, effective rank and spectrum of h.

    The numbers belong to the step's own batch, both views; of many processes, to the first one's share. They
    are part of the checkpoint, so a resumed run has the curves of an unbroken one; `metrics.csv` is written
    at the end of each epoch. A step whose loss is not finite (see `FiniteGuard`) has no row.
    """

    def __init__(self, folder: Path, every: int):
        self.folder, self.every = folder, every
        self.curves: dict[str, list[float]] = {name: [] for name in CURVES}
        self.spectra: list[Tensor] = []
        self.seconds = 0.0
        self._rate = 0.0
        self._since: float | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # When the step is over the schedule has moved on to the next one.
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(  # type: ignore[override]  # it watches our module and no other
        self, trainer: pl.Trainer, module: JointEmbedding, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step in (0, *self.curves["step"][-1:]):
            return  # gradients are still being accumulated
        if trainer.global_step % self.every and trainer.global_step != 1:
            return  # a look at the loss would wait for the device
        latest = module.latest
        loss = float(latest.loss)
        if not np.isfinite(loss):
            return
        spectrum = singular_values(latest.h)
        epoch = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        similarities = mean_similarities(latest.z_a, latest.z_b)
        row = (trainer.global_step, epoch, loss, *similarities, effective_rank(spectrum), self._rate)
        for name, value in zip(CURVES, row, strict=True):
            self.curves[name].append(float(value))
        for logger in trainer.loggers:
            # Lightning counts the first step as 0, and logs its own values so.
            logger.log_metrics(dict(zip(CURVES, map(float, row), strict=True)), trainer.global_step - 1)
        self.spectra.append(spectrum.float().cpu())

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.seconds, self._since = self.elapsed(), None

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.write_csv(trainer)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self.write_csv(trainer)

    def write_csv(self, trainer: pl.Trainer) -> None:
        """Write the curves so far to `metrics.csv`; of many processes the first one does."""
        if not trainer.is_global_zero:
            return
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(CURVES)
        writer.writerows(zip(*(self.curves[name] for name in CURVES), strict=True))
        write_whole(self.folder / "metrics.csv", text.getvalue().encode())

    def arrays(self) -> dict[str, np.ndarray]:
        """The curves and the spectra of h over time, as `arrays.npz` holds them."""
        curves = {name: np.array(values) for name, values in self.curves.items()}
        spectra = torch.stack(self.spectra).numpy() if self.spectra else np.zeros((0, 0), np.float32)
        return curves | {"spectrum_step": curves["step"], "spectrum_h": spectra}

    def elapsed(self) -> float:
        """Seconds of training so far, over all sessions of this run."""
        return self.seconds if self._since is None else self.seconds + time.perf_counter() - self._since

    def state_dict(self) -> dict[str, Any]:
        return {"curves": self.curves, "spectra": self.spectra, "seconds": self.elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curves, self.spectra = state_dict["curves"], state_dict["spectra"]
        self.seconds = state_dict["seconds"]


class Checkpointer(pl.Callback):
    """Saves the run at the end of each epoch, and when `stop` is set after the step under way.

    Beside Lightning's own state it keeps the loader's, which Lightning restores only in some cases (not once
    a schedule has asked how many steps there are), and that of torch's generator, for heads and objectives
    that draw at each step.
    """

    def __init__(self, folder: Path, loader: BatchLoader, stop: threading.Event):
        self.folder, self.loader, self.stop = folder, loader, stop
        self._restored: dict[str, Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._restored is not None:
            self.loader.load_state_dict(self._restored["loader"])
            torch.set_rng_state(self._restored["generator"].cpu())

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        # Gradients half accumulated are in no checkpoint, so a stop waits for the step to be whole.
        whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if whole and self._stop_anywhere(trainer):
            self.save(trainer, module)
            raise InterruptedRunError(
                f"Stopped at step {trainer.global_step} of {trainer.estimated_stepping_batches:.0f}; it is "
                f"saved, and the same command with --out {self.folder} --resume goes on from there."
            )

    def _stop_anywhere(self, trainer: pl.Trainer) -> bool:
        """Whether any process was told to stop: one alone that saved would wait for the others forever."""
        if trainer.world_size == 1:
            return self.stop.is_set()
        return bool(trainer.strategy.reduce_boolean_decision(self.stop.is_set(), all=False))

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.save(trainer, module)

    def save(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Replace the checkpoint, whole or not at all, and never by weights that are not finite."""
        if not all(torch.isfinite(p).all() for p in module.parameters()):
            raise diverged("A weight is no longer finite", trainer, module)
        path = self.folder / CHECKPOINT
        trainer.save_checkpoint(path.with_suffix(".part"))
        if trainer.is_global_zero:
            path.with_suffix(".part").replace(path)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": torch.get_rng_state(), "loader": self.loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict


def diverged(what: str, trainer: pl.Trainer, module: pl.LightningModule) -> DivergedError:
    """The error for a run that left the finite numbers; the last checkpoint stays as it was."""
    rate = trainer.optimizers[0].param_groups[0]["lr"]
    return DivergedError(
        f"{what} at step {trainer.global_step} (epoch {trainer.current_epoch}); lower the learning rate (now "
        f"{rate:.2g}; --set optimizer.lr=...) or raise the temperature."
    )


def check_readable(checkpoint: Path) -> None:
    """Raise DataError for a checkpoint that is damaged."""
    try:
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"The checkpoint {checkpoint} cannot be read ({reason}); remove it and resume to start from the "
            "beginning."
        ) from None


class ProgressLine(pl.Callback):
    """One line for a run: epochs done, time left, loss beside its chance level, similarities, rank of h."""

    def __init__(self, progress: Progress, monitor: Monitor, chance: float | None):
        self.progress, self.monitor, self.chance = progress, monitor, chance

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        total = trainer.max_epochs or 0
        self.task = self.progress.add_task("epoch", total=total, completed=trainer.current_epoch, status="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not (curves := self.monitor.curves)["step"]:
            return
        last = {name: values[-1] for name, values in curves.items()}
        chance = f"/{self.chance:.2f}" if self.chance is not None else ""
        status = (
            f"loss {last['loss']:.2f}{chance} sim {last['positive_similarity']:.2f}"
            f"/{last['negative_similarity']:.2f} rank {last['effective_rank']:.0f}"
        )
        done = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        self.progress.update(self.task, completed=done, status=status)

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if hasattr(self, "task"):
            self.progress.remove_task(self.task)


@contextmanager
def stop_on_ctrl_c(folder: Path) -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that a step under way is finished before the run is saved.

    A second Ctrl-C raises InterruptedRunError at once. Signals reach the main thread only; elsewhere nothing
    is changed.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise InterruptedRunError(
                f"Stopped at once; with --out {folder} --resume the same command goes on from its last "
                "checkpoint."
            )
        stop.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
