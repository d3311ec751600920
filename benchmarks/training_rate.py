"""How much of the bare step's rate a whole training run keeps, and how much a loop with lightly keeps.

    uv run python benchmarks/training_rate.py
    uv run python benchmarks/training_rate.py --rounds 10 --workers 0 1 2
    uv run python benchmarks/training_rate.py --objectives sigreg byol vicreg      (without lightly)

The bare step has both views ready as tensors: forward, loss, backward, optimizer, and a teacher where the
objective has one. Its loss is that of the run. The run is `fullrank train`
as users have it: loader, views, Lightning, curves, progress, checkpoints. The speed of a shared machine
drifts within seconds, so a bare step of another net follows each step of the run. The share kept is the time
of the bare steps over that of the run's steps in a round. The ends of epochs count; the first steps of both
do not.

lightly's loop follows its examples. Its transform runs on Pillow images in a DataLoader, with the number of
workers that is fastest. Then come the same encoder, head and optimizer with lightly's own NT-Xent. This loop
and the runs take turns in one process. The overhead is the number of seconds a view beyond the bare step's.
A run has the callbacks of a user who installed fullrank alone. The package stable-pretraining of the group
`benchmark` adds its own callbacks to the runs of every package; they are left out.
"""

import argparse
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fullrank.allocator import keep_freed_memory
from fullrank.devices import flushed_denormals
from fullrank.objectives.contract import loss_of_views
from fullrank.runs.build import build, load_data
from fullrank.runs.folders import slug
from fullrank.runs.recipe import Recipe
from fullrank.training.module import JointEmbedding, build_optimizer
from fullrank.training.train import train

BATCH, STEPS_AN_EPOCH, WARM_UP, TEMPERATURE = 256, 20, 3, 0.5
# Where Lightning finds callbacks that installed packages add to every Trainer.
EXTERNAL = "lightning.pytorch.trainer.connectors.callback_connector._load_external_callbacks"
NETS: dict[str, dict[str, Any]] = {
    "8x8, 24-48-96 channels": {"image_size": 8, "encoder": "tiny-resnet", "head": "mlp:48"},
    "28x28, 8-16-32 channels": {"image_size": 28, "encoder": "tiny-resnet,width=8", "head": "mlp:16"},
}


class Pictures(torch.utils.data.Dataset):
    """Images in the form that lightly takes: Pillow images through its transform, two views each."""

    def __init__(self, images: np.ndarray):
        from lightly.transforms import SimCLRTransform

        self.pictures = [Image.fromarray(image) for image in images]
        self.transform = SimCLRTransform(
            input_size=images.shape[1],
            cj_strength=1.0,
            cj_bright=0.4,
            cj_contrast=0.4,
            cj_sat=0.0,
            cj_hue=0.0,
            min_scale=0.4,
            random_gray_scale=0.0,
            gaussian_blur=0.0,
            normalize=None,
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> list[Tensor]:
        return self.transform(self.pictures[row])


class BareSteps(pl.Callback):
    """Take a bare step after each step of a run, and keep the seconds of both."""

    def __init__(self, module: JointEmbedding, size: int):
        self.module, self.views = module.train(), torch.rand(2 * BATCH, 1, size, size)
        self.optimizer = build_optimizer(module.optimizer, [module.encoder, module.head, module.objective])
        self.bare: list[float] = []
        self.run: list[float] = []
        self._ended = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        started = time.perf_counter()
        self.run.append(started - self._ended)
        self.optimizer.zero_grad()
        z = self.module.head(self.module.encoder(self.views)).reshape(2, BATCH, -1)
        teacher = self.module.teacher
        targets = None if teacher is None else self.module.taught(teacher, self.views.chunk(2), None)
        given = {"generator": torch.Generator().manual_seed(len(self.bare)), "progress": 0.5}
        loss_of_views(self.module.objective, z, teacher=targets, global_views=2, **given).backward()
        self.optimizer.step()
        if teacher is not None:
            teacher.follow(self.module.student, self.module.objective.momentum_at(0.5))
        self._ended = time.perf_counter()
        self.bare.append(self._ended - started)

    def rates(self) -> tuple[float, float]:
        """Views a second of the bare steps and of the run's steps."""
        bare, run = (2 * BATCH / statistics.mean(part[WARM_UP:]) for part in (self.bare, self.run))
        return bare, run


def lightly_rate(module: JointEmbedding, images: np.ndarray, steps: int, workers: int) -> float:
    """Views a second of a plain loop over lightly's views under lightly's loss."""
    from lightly.loss import NTXentLoss

    loader = torch.utils.data.DataLoader(
        Pictures(images),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    optimizer = build_optimizer(module.optimizer, [module.encoder, module.head])
    criterion = NTXentLoss(TEMPERATURE)
    module.train()
    done, started = 0, 0.0
    while done < steps + WARM_UP:
        for view_a, view_b in loader:
            if done == WARM_UP:
                started = time.perf_counter()
            optimizer.zero_grad()
            criterion(module.head(module.encoder(view_a)), module.head(module.encoder(view_b))).backward()
            optimizer.step()
            done += 1
            if done == steps + WARM_UP:
                break
    return 2 * BATCH * steps / (time.perf_counter() - started)


def kept(name: str, objective: str, rounds: int, epochs: int, folder: Path) -> None:
    """Print a row for one net and objective, without lightly."""
    recipe, _ = prepared(name, objective, epochs, folder)
    shares = []
    for number in range(rounds):
        bare, run = bare_and_run(
            recipe, NETS[name]["image_size"], folder / f"{recipe.image_size}-{number}-{slug(objective)}"
        )
        shares.append(100 * run / bare)
    low, high = min(shares), max(shares)
    print(
        f"| {name} | {objective} | {statistics.median(shares):.0f} % ({low:.0f} to {high:.0f}) |", flush=True
    )


def bare_and_run(recipe: Recipe, size: int, out: Path) -> tuple[float, float]:
    """Views a second of bare steps and of a run's steps, taken in turn."""
    module = JointEmbedding.of(recipe, build(recipe, load_data(recipe)[0]))
    steps = BareSteps(module, size)
    with patch(EXTERNAL, lambda group: [steps]):
        train(recipe, out=out)
    return steps.rates()


def prepared(name: str, objective: str, epochs: int, folder: Path) -> tuple[Recipe, np.ndarray]:
    """The recipe for a net and an objective, and its images."""
    size = NETS[name]["image_size"]
    # Noise costs the same as pictures and needs no data set.
    images = np.random.default_rng(0).integers(0, 256, (STEPS_AN_EPOCH * BATCH, size, size), dtype=np.uint8)
    np.savez(folder / f"{size}.npz", x_train=images, x_test=images[:500])
    settings = {"data": f"npz:{folder}/{size}.npz", "epochs": epochs, "batch_size": BATCH}
    settings |= {"objective": objective, "limit": None, "monitor_every": 20} | NETS[name]
    return Recipe.resolve("fashion-mnist", settings), images


def compare(name: str, rounds: int, epochs: int, workers: list[int], folder: Path) -> None:
    """Print a row for one net."""
    size = NETS[name]["image_size"]
    recipe, images = prepared(name, f"ntxent:{TEMPERATURE}", epochs, folder)
    rates: dict[str, list[float]] = {"bare": [], "fullrank": [], "lightly": []}
    for number in range(rounds):
        module = JointEmbedding.of(recipe, build(recipe, load_data(recipe)[0]))
        bare, run = bare_and_run(recipe, size, folder / f"{size}-{number}")
        rates["bare"].append(bare)
        rates["fullrank"].append(run)
        rates["lightly"].append(max(lightly_rate(module, images, STEPS_AN_EPOCH, count) for count in workers))
    rows = list(zip(*rates.values(), strict=True))
    share = statistics.median(100 * ours / bare for bare, ours, _ in rows)
    times = statistics.median(ours / theirs for _, ours, theirs in rows)
    mine = statistics.median(1 / ours - 1 / bare for bare, ours, _ in rows)
    lightlys = statistics.median(1 / theirs - 1 / bare for bare, _, theirs in rows)
    saved = f"{lightlys / mine:.0f}" if mine > 0 else "ours is not measurable"
    medians = " | ".join(f"{statistics.median(values):,.0f}" for values in rates.values())
    print(f"| {name} | {medians} | {share:.0f} % | {times:.1f} | {saved} |", flush=True)


@flushed_denormals()
def main() -> None:
    """Print a table with both nets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="epochs a round, of 20 steps each")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="of lightly's loader")
    parser.add_argument("--objectives", nargs="+", help="only the share kept, with these objectives")
    arguments = parser.parse_args()
    keep_freed_memory()
    if arguments.objectives:
        print("| net | objective | kept |\n|---|---|---|")
        with tempfile.TemporaryDirectory() as folder:
            for name, objective in product(NETS, arguments.objectives):
                kept(name, objective, arguments.rounds, arguments.epochs, Path(folder))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, batch {BATCH}, views a second\n")
    print("| net | bare step | fullrank | lightly | kept | times lightly | lightly's overhead, times ours |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in NETS:
            compare(name, arguments.rounds, arguments.epochs, arguments.workers, Path(folder))


if __name__ == "__main__":
    main()
