"""What SpectrumMonitor costs at its defaults, as a share of training time.

    uv run python benchmarks/monitor_cost.py
    uv run python benchmarks/monitor_cost.py --encoder resnet18 --image-size 32 --steps 50

The same steps (both views, forward, loss, backward, optimizer, under Lightning) are timed with the monitor on
encoder and head and without it, in turn in one process and in the other order each round; the ratio is taken
pair by pair. Wall time is what a user waits, but other programs on the machine move it; processor time, of
all threads, moves less. There is one look more than 1 in 50 steps, that at the first 4096 rows, so a long run
pays less.
"""

import argparse
import logging
import time
import warnings
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from fullrank.data import BatchLoader, ImageSet, source
from fullrank.reports.tables import Estimate
from fullrank.training.module import JointEmbedding
from fullrank.training.recipe import Recipe
from fullrank.training.run import build, flushed_denormals
from fullrank.training.spectrum_monitor import SpectrumMonitor

WARM_UP = 3


class Clock(pl.Callback):
    """Wall and processor seconds of the steps after the first few."""

    def __init__(self) -> None:
        self.started, self.ended = np.zeros(2), np.zeros(2)

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        now = np.array([time.perf_counter(), time.process_time()])
        if trainer.global_step == WARM_UP:
            self.started = now
        self.ended = now


def seconds(module: JointEmbedding, images: ImageSet, recipe: Recipe, steps: int, extra: list[Any]) -> Any:
    """Wall and processor seconds of so many steps."""
    clock = Clock()
    trainer = pl.Trainer(
        max_steps=steps + WARM_UP,
        accelerator="cpu",
        callbacks=[*extra, clock],  # the clock reads last, when the monitor has done its part
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, BatchLoader(images, recipe.batch_size, 0))
    return clock.ended - clock.started


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
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    settings = {"encoder": arguments.encoder, "head": arguments.head, "image_size": arguments.image_size}
    recipe = Recipe.resolve("digits", settings | {"epochs": 1})
    images = source("digits").load("train").resized(arguments.image_size)
    module = build(recipe, images)
    shares = []
    for number in range(arguments.rounds):
        monitor = SpectrumMonitor(["encoder", "head"])
        order = (True, False) if number % 2 else (False, True)
        taken = {
            on: seconds(module, images, recipe, arguments.steps, [monitor] if on else []) for on in order
        }
        shares.append(100 * (taken[True] / taken[False] - 1))
        looks = monitor.looks["encoder"]
        print(
            f"round {number}: without {taken[False][0]:.2f} s, with {taken[True][0]:.2f} s and {len(looks)} "
            f"looks: {shares[-1][0]:+.2f} % wall, {shares[-1][1]:+.2f} % processor",
            flush=True,
        )
    width = len(looks[-1].singular_values)
    print(f"two cores, {torch.get_num_threads()} threads, torch {torch.__version__}, h of width {width}:")
    for name, values in zip(("wall", "processor"), np.array(shares).T, strict=True):
        cost = Estimate.of(values.tolist())
        print(f"  {name} time: {cost.mean:+.2f} % (95 % interval {cost.low:+.2f} to {cost.high:+.2f})")


if __name__ == "__main__":
    main()
