"""The engine below a run: Lightning's Trainer on the devices at hand, and the logger that was asked for."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch import loggers
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from fullrank.devices import accelerator
from fullrank.errors import OutOfMemoryError
from fullrank.processes import process_count
from fullrank.runs.recipe import LOGGERS, Recipe
from fullrank.training.session import Machines, Session

# The other processes wait for the first while it probes, which can take hours.
_PATIENCE = timedelta(days=2)


@contextmanager
def named_out_of_memory(batch_size: int) -> Iterator[None]:
    """A step that runs out of memory ends in OutOfMemoryError, which suggests a smaller batch size."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On a CPU torch raises a plain RuntimeError; that of a GPU is a kind of it.
        named = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not named and "can't allocate memory" not in str(error):
            raise
        raise OutOfMemoryError(
            f"A step of batch size {batch_size} needs more memory than there is; try --batch-size "
            f"{max(2, batch_size // 2)} in another --out."
        ) from None


def split_statistics(module: nn.Module, machines: Machines) -> str | None:
    """A sentence where several processes on CPUs each have batch statistics of their own share."""
    norms = (nn.modules.batchnorm._BatchNorm,)
    if machines.processes == 1 or accelerator() == "cuda":
        return None
    if not any(isinstance(part, norms) for part in module.modules()):
        return None
    return (
        f"Note: on CPUs each of the {machines.processes} processes has batch statistics of its own share, so "
        "this run is not the one that a single process makes."
    )


def build_trainer(
    recipe: Recipe, folder: Path, callbacks: list[pl.Callback], session: Session | None = None
) -> pl.Trainer:
    """Lightning's Trainer as an engine: devices, processes, precision, accumulation, logger, nothing else.

    The session's callbacks come before ours, the last of which saves what all of them hold.
    """
    session, settings = session or Session(), recipe.engine
    machines = session.machines
    many = machines.processes > 1
    chosen = [build_logger(settings.logger, folder)] if settings.logger else []
    backend = "nccl" if accelerator() == "cuda" else "gloo"
    return pl.Trainer(
        max_epochs=recipe.epochs,
        accelerator=accelerator(),
        devices=machines.devices,
        num_nodes=machines.nodes,
        strategy=DDPStrategy(process_group_backend=backend, timeout=_PATIENCE) if many else "auto",
        precision=settings.precision if accelerator() == "cuda" else "32-true",
        accumulate_grad_batches=settings.accumulate,
        # torch's SyncBatchNorm refuses CPUs.
        sync_batchnorm=settings.sync_batchnorm and accelerator() == "cuda",
        gradient_clip_val=recipe.optimizer.clip,
        callbacks=[*session.callbacks, *callbacks],
        profiler=session.profiler,
        logger=[*chosen, *session.loggers] or False,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def build_logger(name: str, folder: Path) -> Logger:
    """A logger of Lightning by name, writing into `folder`."""
    logger: Logger = getattr(loggers, LOGGERS[name])(save_dir=folder)
    return logger


def wait_for_all() -> None:
    """Wait until every process is here."""
    if process_count() > 1:
        dist.barrier()


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's notes on devices and loaders, which nobody asked for, are not shown meanwhile."""
    noisy = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
