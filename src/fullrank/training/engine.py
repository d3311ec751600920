"""The engine of a run: Lightning's Trainer on the available devices, and its errors."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from fullrank.devices import accelerator
from fullrank.errors import OutOfMemoryError
from fullrank.runs.recipe import Recipe
from fullrank.training.session import Session

# The other processes wait while the first one probes, which can take hours.
_PATIENCE = timedelta(days=2)
_NOISY = ("lightning.pytorch", "lightning.fabric", "mlflow.store", "alembic")


@contextmanager
def named_out_of_memory(batch_size: int) -> Iterator[None]:
    """Turn a lack of memory into an OutOfMemoryError that suggests a smaller batch size."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On a CPU torch raises a plain RuntimeError; its error for GPUs is a subclass.
        named = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not named and "can't allocate memory" not in str(error):
            raise
        remedy = f"try --batch-size {max(2, batch_size // 2)} or --set engine.chunk=64 in another --out"
        raise OutOfMemoryError(f"A step of batch size {batch_size} exceeds the memory; {remedy}.") from None


def split_statistics(module: nn.Module, processes: int) -> str | None:
    """A note if several processes on CPUs each compute batch statistics of their own share, else None."""
    norms = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    if processes == 1 or accelerator() == "cuda" or not norms:
        return None
    own = f"each of the {processes} processes computes batch statistics of its own share"
    return f"Note: on CPUs {own}, so the result differs from that of a single process."


def build_trainer(recipe: Recipe, callbacks: list[pl.Callback], session: Session | None = None) -> pl.Trainer:
    """Lightning's Trainer as an engine: devices, processes, precision, accumulation and loggers only."""
    session, settings = session or Session(), recipe.engine
    gpu, many = accelerator() == "cuda", session.processes > 1
    backend = "nccl" if gpu else "gloo"
    return pl.Trainer(
        max_epochs=recipe.epochs,
        accelerator=accelerator(),
        devices=session.devices,
        num_nodes=session.nodes,
        strategy=DDPStrategy(process_group_backend=backend, timeout=_PATIENCE) if many else "auto",
        precision=settings.precision if gpu else "32-true",
        accumulate_grad_batches=settings.accumulate,
        sync_batchnorm=settings.sync_batchnorm and gpu,  # torch's SyncBatchNorm refuses CPUs
        gradient_clip_val=recipe.optimizer.clip,
        # Our last callback saves the state of all of them.
        callbacks=[*session.callbacks, *callbacks],
        profiler=session.profiler,
        logger=list(session.loggers) or False,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide the notes of Lightning on devices and loaders, and those of MLflow on its tables, meanwhile."""
    levels = {logger: logger.level for logger in map(logging.getLogger, _NOISY)}
    for logger in levels:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
