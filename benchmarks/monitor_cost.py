"""The cost of SpectrumMonitor at its defaults, as a share of training time.

    uv run python benchmarks/monitor_cost.py
    uv run python benchmarks/monitor_cost.py --encoder resnet18 --image-size 32 --steps 50

The same steps (both views, forward, loss, backward, optimizer, under Lightning) are timed with and without
the monitor on encoder and head. The two take turns in one process, and the order alternates each round. The
ratio is taken pair by pair. Other programs on the machine disturb the wall time and the processor time of all
threads. They hardly disturb the monitor's own share: the seconds inside its hooks and measurements over those
of the run without it. The monitor measures once in 50 steps and once more at the first 4096 rows, so a long
run pays less.
"""

import argparse
import os
import time
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from fullrank.data import BatchLoader, ImageSet, source
from fullrank.devices import flushed_denormals
from fullrank.diagnosis.watch import watched
from fullrank.diagnosis.watch.spectrum_monitor import SpectrumMonitor
from fullrank.runs.build import build
from fullrank.runs.recipe import Recipe
from fullrank.statistics import Estimate
from fullrank.training.engine import quiet_lightning
from fullrank.training.module import JointEmbedding

WARM_UP = 3


class Clock(pl.Callback):
    """Wall and processor time at the end of each step."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def on_train_batch_end(self, *anything: Any) -> None:
        self.times.append((time.perf_counter(), time.process_time()))


class HookClock:
    """Call `rows_of`, which is all that the monitor's hooks do, and count its processor seconds."""

    def __init__(self) -> None:
        self.seconds, self._rows_of = 0.0, watched.rows_of

    def __call__(self, *arguments: Any) -> Tensor:
        start = time.process_time()
        rows = self._rows_of(*arguments)
        self.seconds += time.process_time() - start
        return rows


def seconds(
    module: JointEmbedding, images: ImageSet, recipe: Recipe, steps: int, extra: list[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Wall and processor seconds of `steps` steps, and of the extra callbacks' step ends among them."""
    before, after = Clock(), Clock()
    trainer = pl.Trainer(
        max_steps=steps + WARM_UP,
        accelerator="cpu",
        callbacks=[before, *extra, after],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, BatchLoader(images, recipe.batch_size, 0))
    ends = np.array(after.times)[WARM_UP - 1 :]
    return ends[-1] - ends[0], (ends - np.array(before.times)[WARM_UP - 1 :])[1:].sum(0)


@flushed_denormals()
def main() -> None:
    """Print each round, and both ratios with their intervals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--encoder", default="tiny-resnet")
    parser.add_argument("--head", default="mlp:128")
    parser.add_argument("--image-size", type=int, default=8)
    arguments = parser.parse_args()
    settings = {"encoder": arguments.encoder, "head": arguments.head, "image_size": arguments.image_size}
    recipe = Recipe.resolve("digits", settings | {"epochs": 1})
    images = source("digits").load("train").resized(arguments.image_size)
    module = JointEmbedding.of(recipe, build(recipe, images))
    hooks = HookClock()
    watched.rows_of = hooks
    shares = []
    for number in range(arguments.rounds):
        monitor = SpectrumMonitor(["encoder", "head"])
        hooks.seconds = 0.0
        taken = {}
        for with_monitor in (True, False) if number % 2 else (False, True):
            extra = [monitor] if with_monitor else []
            with quiet_lightning():
                taken[with_monitor] = seconds(module, images, recipe, arguments.steps, extra)
        (with_it, inside), (without, _) = taken[True], taken[False]
        shares.append(100 * np.array([*(with_it / without - 1), (inside[1] + hooks.seconds) / without[1]]))
        print(
            f"round {number}: without {without[0]:.2f} s, with {with_it[0]:.2f} s and "
            f"{len(monitor.looks['encoder'])} measurements: wall {shares[-1][0]:+.2f} %, processor "
            f"{shares[-1][1]:+.2f} %, own {shares[-1][2]:.2f} %",
            flush=True,
        )
    widths = [len(looks[-1].singular_values) for looks in monitor.looks.values()]
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, {arguments.encoder} at {arguments.image_size} pixels, widths {widths}:"
    )
    for name, values in zip(
        ("wall time", "processor time", "own hooks and measurements"), np.array(shares).T, strict=True
    ):
        cost = Estimate.of(values.tolist())
        print(f"  {name}: {cost.mean:+.2f} % (95 % interval {cost.low:+.2f} to {cost.high:+.2f})")


if __name__ == "__main__":
    main()
