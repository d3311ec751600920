"""Checkpoints that survive a crash: written whole or not at all, and verified before use."""

import io
import sys
import zlib
from itertools import takewhile
from pathlib import Path
from typing import Any, cast, final

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fullrank.batch import Batch
from fullrank.data import BatchLoader
from fullrank.errors import DataError, DivergedError
from fullrank.files import typed_path, write_whole
from fullrank.runs.folders import checkpoint_path, checkpoints_in, number_of
from fullrank.threads import follow_threads
from fullrank.training.callbacks.stopping import Stop

# On GPUs, steps between two checks whether any process must stop. Each check waits for the device; torchrun
# gives a process half a minute after SIGTERM.
_CHECK_EVERY = 10
_CHUNK = 1 << 20


def save_state(path: Path, state: dict[str, Any]) -> Path:
    """Write a state, whole or not at all. The CRC-32 of its bytes is added to the file's name."""
    content = io.BytesIO()
    torch.save(state, content)
    target = path.with_name(f"{path.stem}-{zlib.crc32(content.getbuffer()):08x}{path.suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, content.getbuffer())
    return target


def load_state(path: Path) -> dict[str, Any]:
    """Read an undamaged state to the CPU. Nothing is unpickled."""
    return cast(dict[str, Any], torch.load(path, map_location="cpu", weights_only=True))


def is_whole(path: Path) -> bool:
    """Whether a checkpoint can be read and matches the checksum in its name."""
    checksum = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                checksum = zlib.crc32(chunk, checksum)
    except OSError:
        return False
    return path.stem.endswith(f"-{checksum:08x}")


def newest_whole(folder: Path, kind: str = "step", *, rank: int = 0) -> Path | None:
    """The newest undamaged checkpoint, or None. Process 0 prints the names of damaged newer ones."""
    paths = checkpoints_in(folder, kind)
    damaged = list(takewhile(lambda path: not is_whole(path), paths))
    if paths and damaged == paths:
        others = f", and so is every other one of {len(paths)}" if len(paths) > 1 else ""
        remedy = "remove every checkpoint and resume to start from the beginning"
        raise DataError(f"The checkpoint {paths[0]} is damaged{others}; {remedy}.")
    whole = next(iter(paths[len(damaged) :]), None)
    for path in damaged if rank == 0 else ():
        print(f"The checkpoint {path} is damaged (wrong checksum); continuing from {whole}.", file=sys.stderr)
    return whole


def keep_last(newest: Path, keep: int) -> None:
    """Delete the checkpoints of this kind, except `newest` and the `keep` - 1 before it."""
    # A checkpoint of the same or a later step must be damaged, or the run would have used it.
    kind = newest.stem.rsplit("-", 2)[0]
    others = [path for path in checkpoints_in(newest.parent.parent, kind) if path != newest]
    older = [path for path in others if number_of(path) < number_of(newest)]
    for path in set(others) - set(older[: keep - 1]):
        path.unlink(missing_ok=True)


@final
class WholeCheckpoints(TorchCheckpointIO):
    """Makes Lightning write our checkpoints; its own writer uses the temporary folder of the system."""

    def __init__(self, keep: int):
        self.keep = keep

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint with `save_state`, and delete those that are no longer kept."""
        keep_last(save_state(Path(path), checkpoint), self.keep)


class Checkpointer(pl.Callback):
    """Saves the run at the end of each epoch, and after the current step if `stop` is set.

    A checkpoint also has the state of torch's generators and of the loader, and the number of threads.
    Lightning does not restore a loader after a schedule has asked for the number of steps. The last `keep`
    checkpoints are kept.
    """

    def __init__(self, folder: Path, loader: BatchLoader, stop: Stop, keep: int = 2):
        self.folder, self.loader, self.stop, self.keep = folder, loader, stop, keep
        self._restored: dict[str, Any] | None = None

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = WholeCheckpoints(self.keep)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stop.listen()  # Lightning's own handler of SIGTERM would end the run without saving
        if self._restored is not None:
            self.loader.load_state_dict(self._restored["loader"])
            torch.set_rng_state(self._restored["generator"].cpu())
            if "cuda" in self._restored and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._restored["cuda"].cpu())

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        # Partly accumulated gradients are not saved, so a stop waits for the end of the step.
        whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if whole and self.must_stop(trainer):
            self.save(trainer, module)
            raise self.stop.error(
                f"Stopped at step {trainer.global_step} of {trainer.estimated_stepping_batches:.0f}; it is "
                f"saved, and the same command with --out {typed_path(self.folder)} --resume continues it."
            )

    def must_stop(self, trainer: pl.Trainer) -> bool:
        """Whether any process must stop. A process that saved alone would wait for the others forever."""
        if trainer.world_size > 1:
            device = trainer.strategy.root_device
            if device.type == "cuda" and trainer.global_step % _CHECK_EVERY and not trainer.is_last_batch:
                return False
            own = torch.tensor(self.stop.signal, device=device)
            signal = int(trainer.strategy.reduce(own, reduce_op="max"))
            if signal:
                self.stop.set(signal)
            # Not is_set(): the others learn of a signal that arrived meanwhile at the next check.
            return signal != 0
        return self.stop.is_set()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.save(trainer, module)

    def save(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write a checkpoint, whole or not at all. Weights that are not finite raise DivergedError."""
        if not all(torch.isfinite(p).all() for p in module.parameters()):
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            raise DivergedError(
                f"A weight is no longer finite at step {trainer.global_step} (epoch "
                f"{trainer.current_epoch}); lower the learning rate (now {rate:.2g}; --set optimizer.lr=...) "
                "or raise the temperature."
            )
        trainer.save_checkpoint(checkpoint_path(self.folder, trainer.global_step))

    def state_dict(self) -> dict[str, Any]:
        state = {"generator": torch.get_rng_state(), "loader": self.loader.state_dict()}
        state["threads"] = torch.get_num_threads()
        return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict
        if "threads" in state_dict:  # a checkpoint of an older version has none
            follow_threads(state_dict["threads"])
