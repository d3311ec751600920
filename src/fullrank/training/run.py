"""From a recipe to a run folder: data, parts, training, evaluation, record. Read from `train` downwards."""

import logging
import platform
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
import numpy as np
import torch
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from fullrank.batch import Batch
from fullrank.data import BatchLoader, ImageSet, source
from fullrank.encoders import Encoder, encoder as build_encoder
from fullrank.errors import DataError, InterruptedRunError, UsageError
from fullrank.heads import Head, head as build_head
from fullrank.objectives import objective as build_objective
from fullrank.record import RECORD_FILE, Machine, Record, RunEntry, save_arrays, write_whole
from fullrank.training.evaluate import Evaluation, check_probeable, evaluate
from fullrank.training.module import JointEmbedding
from fullrank.training.monitor import (
    CHECKPOINT,
    Checkpointer,
    Monitor,
    ProgressLine,
    check_readable,
    progress_bar,
    stop_on_ctrl_c,
)
from fullrank.training.recipe import RECIPE_FILE, Recipe
from fullrank.views import Views, step_generator, view_pipeline

ENCODER_FILE, HEAD_FILE = "encoder.safetensors", "head.safetensors"
EXAMPLES = 8


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its recipe, the trained parts in eval mode, and its record."""

    path: Path
    recipe: Recipe
    encoder: Encoder
    head: Head
    record: Record


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Numbers too small for float32's normal range count as 0 meanwhile: on a CPU they are very slow.

    The setting belongs to this thread and to those that start from it, so it must come before the first
    parallel operation. Only this thread's is put back: the others work for torch alone.
    """
    before = float(torch.tensor(1e-38) * 0.01) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@flushed_denormals()
def train(
    recipe: str | Path | Recipe,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    **overrides: Any,
) -> Run:
    """Train an encoder as a recipe says, probe it, and leave everything in the folder `out`.

    `overrides` replace keys of the recipe; a nested key is given as `**{"optimizer.lr": 1e-3}`. With
    `resume` a run that was cut off goes on exactly where its last checkpoint stands, in a folder without one
    from the beginning; a finished run is returned as it is. Raises UsageError for a recipe that cannot be
    carried out or a folder in use, DataError for images that cannot be read, DivergedError for a loss that
    is not finite, InterruptedRunError on Ctrl-C (after saving).

    >>> import tempfile
    >>> folder = tempfile.mkdtemp() + "/run"
    >>> run = train("digits", out=folder, head="none", epochs=1, limit=300)
    >>> sorted(run.record.runs[0].probes)
    ['h', 'z']
    """
    plan = Recipe.resolve(recipe, overrides)
    folder = claim_folder(out, f"{plan.data}-{plan.head}-seed{plan.seed}", resume)
    check_folder(folder, plan, resume)
    if (folder / RECORD_FILE).is_file():
        return load(folder)
    train_set, test_set = load_data(plan)
    check_plan(plan, train_set)
    return carry_out(plan, folder, train_set, test_set, resume=resume, progress=progress)


def carry_out(
    recipe: Recipe,
    folder: Path,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Train, evaluate and record `recipe` in `folder`, on images that are loaded already.

    The weights are saved before they are evaluated. The caller's random generators are left as they were.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(recipe.seed)
        module = build(recipe, train_set)
        loader = BatchLoader(train_set, recipe.batch_size, recipe.seed)
        _open_folder(folder, recipe, resume)
        monitor = Monitor(folder, recipe.monitor_every)
        _fit(module, loader, monitor, folder, recipe, progress)

    for part, file in ((module.encoder, ENCODER_FILE), (module.head, HEAD_FILE)):
        weights = {name: tensor.contiguous() for name, tensor in part.state_dict().items()}
        write_whole(folder / file, save(weights, _metadata(recipe, train_set)))
    save_arrays(folder, monitor.arrays() | {"examples": _examples(module.views, train_set, recipe.seed)})

    evaluation = evaluate(module.encoder, module.head, train_set, test_set, seed=recipe.seed)
    steps = recipe.epochs * len(loader)
    entry = RunEntry(
        head=recipe.head,
        seed=recipe.seed,
        folder=".",
        epochs=recipe.epochs,
        steps=steps,
        loss=monitor.curves["loss"][-1],
        chance=chance_level(module.objective, recipe.batch_size),
        seconds=monitor.elapsed(),
        views_per_second=2 * steps * recipe.batch_size / monitor.elapsed(),
        parameters={"encoder": _count(module.encoder), "head": _count(module.head)},
        probes=evaluation.probes,
        scores=evaluation.scores,
        spectrum=evaluation.spectrum,
    )
    new_record("run", recipe, [entry]).save(folder)
    return load(folder)


def load(folder: str | Path) -> Run:
    """Read a finished run back: encoder and head in eval mode. Raises DataError for a folder that is none.

    Weights are read from safetensors files; nothing is unpickled.
    """
    folder = Path(folder)
    record = Record.load(folder)
    if record.kind != "run":
        raise DataError(f"{folder} holds a {record.kind}, not a run; name one of the run folders below it.")
    if not (folder / RECIPE_FILE).is_file():
        raise DataError(f"{folder} holds no {RECIPE_FILE}; name the folder of a finished run.")
    recipe = Recipe.resolve(folder / RECIPE_FILE)
    try:
        with safe_open(folder / ENCODER_FILE, framework="pt") as file:
            size, in_chans = (int(file.metadata()[key]) for key in ("image_size", "in_chans"))
        with torch.random.fork_rng(devices=()):
            encoder = build_encoder(recipe.encoder, image_size=size, in_chans=in_chans)
            head = build_head(recipe.head, in_dim=encoder.feature_dim)
        encoder.load_state_dict(load_file(folder / ENCODER_FILE))
        head.load_state_dict(load_file(folder / HEAD_FILE))
    except (FileNotFoundError, SafetensorError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"The weights in {folder} cannot be read ({reason}); remove {RECORD_FILE} there and "
            "resume the run."
        ) from None
    return Run(folder, recipe, encoder.eval(), head.eval(), record)


@flushed_denormals()
def probe(run: str | Path | Run, places: Sequence[str] | None = None) -> Evaluation:
    """Probe a finished run at `places` (by default h, the head's inner layers and z), on its own data.

    Raises DataError for images with fewer than two classes, UsageError for a place the model does not have.
    """
    run = run if isinstance(run, Run) else load(run)
    train_set, test_set = load_data(run.recipe)
    check_probeable(train_set, test_set, "label")
    return evaluate(run.encoder, run.head, train_set, test_set, places, seed=run.recipe.seed)


def load_data(recipe: Recipe) -> tuple[ImageSet, ImageSet]:
    """The training and test images of a recipe; `limit` shortens the training images alone."""
    images = source(recipe.data)
    train_set = images.load("train", recipe.image_size)
    test_set = images.load("test", recipe.image_size)
    if recipe.limit is not None:
        train_set = train_set.limited(recipe.limit, seed=0)
    height, width, _ = train_set.image_shape
    if height != width or test_set.image_shape != train_set.image_shape:
        raise DataError(
            f"Training images are {_shape(train_set)} and test images {_shape(test_set)}, but both must be "
            "the same square; give --image-size, and the same kind of images in both."
        )
    return train_set, test_set


def check_plan(recipe: Recipe, train_set: ImageSet) -> None:
    """Raise UsageError for a recipe whose parts do not fit each other or the images."""
    with torch.random.fork_rng(devices=()):
        module = build(recipe, train_set)
        BatchLoader(train_set, recipe.batch_size, recipe.seed)
        module.objective(*torch.randn(2, 2, cast(Head, module.head).out_dim).unbind())


def build(recipe: Recipe, train_set: ImageSet) -> JointEmbedding:
    """The parts of a recipe, sized for its images, in one module."""
    mean, std = train_set.channel_statistics()
    size, _, channels = train_set.image_shape
    encoder = build_encoder(recipe.encoder, image_size=size, in_chans=channels, mean=mean, std=std)
    head = build_head(recipe.head, in_dim=encoder.feature_dim)
    views = view_pipeline(recipe.views, image_size=size, channels=channels)
    objective = build_objective(recipe.objective)
    return JointEmbedding(encoder, head, objective, views, recipe.optimizer, seed=recipe.seed)


def new_record(kind: Literal["run", "study"], recipe: Recipe, runs: list[RunEntry], **more: Any) -> Record:
    """A record made here and now."""
    return Record(
        kind=kind,
        fullrank=version("fullrank"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=Machine(
            processor=_processor(),
            threads=torch.get_num_threads(),
            device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            python=platform.python_version(),
            torch=torch.__version__,
        ),
        recipe=recipe.model_dump(),
        runs=runs,
        **more,
    )


def _fit(
    module: JointEmbedding,
    loader: BatchLoader,
    monitor: Monitor,
    folder: Path,
    recipe: Recipe,
    progress: Progress | None,
) -> None:
    checkpoint = folder / CHECKPOINT
    if checkpoint.is_file():
        check_readable(checkpoint)
    with quiet_lightning(), stop_on_ctrl_c(folder) as stop, progress or progress_bar() as shown:
        line = ProgressLine(shown, monitor, chance_level(module.objective, recipe.batch_size))
        trainer = pl.Trainer(
            max_epochs=recipe.epochs,
            accelerator="cuda" if torch.cuda.is_available() else "cpu",
            devices=1,
            callbacks=[monitor, Checkpointer(folder, loader, stop), line],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        resumed = checkpoint if checkpoint.is_file() else None
        trainer.fit(module, loader, ckpt_path=resumed, weights_only=True)
        if stop.is_set():
            raise InterruptedRunError(
                f"Stopped after the last step; with --out {folder} --resume the same command evaluates the "
                "run."
            )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's notes on devices and loaders, which nobody asked for, are not shown meanwhile."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)


def claim_folder(out: str | Path | None, name: str, resume: bool) -> Path:
    """The folder asked for, or a fresh one under runs/; `resume` needs one that is named."""
    if out is not None:
        return Path(out)
    if resume:
        raise UsageError("--resume needs --out DIR, the folder to go on with.")
    return Path("runs") / f"{slug(name)}-{datetime.now():%Y%m%d-%H%M%S}"


def slug(text: str) -> str:
    """A spec as a folder name: letters, digits, dots and dashes."""
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in text)[:100]


def check_folder(folder: Path, recipe: Recipe, resume: bool, free: Sequence[str] = ()) -> None:
    """Raise UsageError unless `recipe` may write into `folder`: an empty one, or with `resume` its own.

    Its own is one whose recipe is the same in all keys but those that are `free`.
    """
    if folder.is_file():
        raise UsageError(f"{folder} is a file; name a folder with --out.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not resume:
        raise UsageError(
            f"{folder} exists and is not empty; add --resume to go on with it, or name another --out."
        )
    stored = folder / RECIPE_FILE
    if not stored.is_file():
        raise UsageError(f"{folder} holds files but no {RECIPE_FILE}, so no run; name another --out.")
    old, new = Recipe.resolve(stored).model_dump(), recipe.model_dump()
    if key := next((key for key in new if new[key] != old[key] and key not in free), None):
        raise UsageError(
            f"{folder} was started with {key}={old[key]!r}, but this recipe says {new[key]!r}; "
            "resume with the same recipe, or name another --out."
        )


def _open_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    checkpoint = folder / CHECKPOINT
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if not (folder / RECIPE_FILE).is_file():
        write_whole(folder / RECIPE_FILE, recipe.dump().encode())
    if resume and not checkpoint.is_file():
        print(f"{folder} has no checkpoint yet; starting from the beginning.", file=sys.stderr)


def chance_level(objective: nn.Module, batch_size: int) -> float | None:
    """The loss of a batch in which nothing is told apart, or None for an objective that does not say."""
    chance = getattr(objective, "chance", None)
    return None if chance is None else float(chance(batch_size))


def _shape(images: ImageSet) -> str:
    height, width, channels = images.image_shape
    return f"{height}x{width} with {channels} channel{'s' if channels > 1 else ''}"


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _metadata(recipe: Recipe, images: ImageSet) -> dict[str, str]:
    return {
        "encoder": recipe.encoder,
        "head": recipe.head,
        "objective": recipe.objective,
        "data": recipe.data,
        "image_size": str(images.image_shape[0]),
        "in_chans": str(images.image_shape[2]),
        "input": "images in 0 to 1",
        "fullrank": version("fullrank"),
    }


def _examples(views: Views, images: ImageSet, seed: int) -> np.ndarray:
    """A few images with both views, (n, 3, H, W, C) uint8; a view has the image's size."""
    chosen = images.subset(np.linspace(0, len(images.images) - 1, EXAMPLES).astype(int))
    tensor = chosen.tensor()
    batch = Batch(tensor, torch.full((len(tensor),), -1), torch.arange(len(tensor)))
    pair = views.apply(batch, views.sample(len(batch), step_generator(seed, 0, 0), images.image_shape[:2]))
    shown = [tensor, *((view * 255).round().to(torch.uint8) for view in pair)]
    return torch.stack(shown, 1).permute(0, 1, 3, 4, 2).numpy()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
