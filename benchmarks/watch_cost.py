"""The cost of `fullrank.watch` at its defaults in a bare training loop, as a share of training time.

    uv run python benchmarks/watch_cost.py
    uv run python benchmarks/watch_cost.py --quick    # a few steps of the small net, to try the script

A loop makes steps (forward, loss, backward, optimizer) of an encoder and a head on batches of 128 rows. It
runs in blocks of 50 steps, with a watch over both and without; a block holds one look. The blocks take turns
in one process, the order alternates, and ratios are taken pair by pair. Other programs on the machine disturb
the wall time. They hardly disturb the watch's own share: the processor seconds inside its hooks and its
`step` over those of the block without it. The look at the first 4096 rows comes once a training and is in no
block.
"""

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
import timm
import torch
from scipy.stats import bootstrap
from torch import Tensor, nn

import fullrank
from fullrank.devices import flushed_denormals
from fullrank.diagnosis.watch import watched

NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (lambda: timm.create_model("resnet18", num_classes=0), 32),
    "tiny-resnet": (lambda: fullrank.encoder("tiny-resnet", image_size=8, in_chans=3), 8),
}
BATCH, BLOCK = 128, 50


class OwnTime:
    """Processor seconds inside a function of the watch."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.seconds, self._function = 0.0, function

    def __call__(self, *arguments: object) -> object:
        start = time.process_time()
        result = self._function(*arguments)
        self.seconds += time.process_time() - start
        return result


class Loop:
    """A bare training loop of an encoder and a head on random images."""

    def __init__(self, name: str) -> None:
        make, size = NETS[name]
        torch.manual_seed(0)
        encoder = make()
        width = encoder(torch.randn(2, 3, size, size)).shape[1]
        self.model = nn.ModuleDict({"encoder": encoder, "head": fullrank.head("mlp:128", in_dim=width)})
        self.objective = fullrank.InfoNCELoss(temperature=0.2)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3)
        self.images = torch.randn(16, BATCH, 3, size, size)

    def seconds(self, steps: int, after: Callable[[Tensor], object] | None) -> np.ndarray:
        """Wall and processor seconds of `steps` steps, with `after(loss)` called after each."""
        start = np.array([time.perf_counter(), time.process_time()])
        for number in range(steps):
            z = self.model["head"](self.model["encoder"](self.images[number % len(self.images)]))
            loss = self.objective(*z.chunk(2))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if after:
                after(loss)
        return np.array([time.perf_counter(), time.process_time()]) - start


def shares(name: str, rounds: int, block: int) -> np.ndarray:
    """Costs (rounds, 3) in percent: by wall time, by processor time, and the watch's own."""
    loop, costs = Loop(name), []
    rows_of = watched.rows_of
    hooks = OwnTime(rows_of)
    watched.rows_of = hooks
    try:
        with fullrank.watch(loop.model, ["encoder", "head"], every=block) as watch:
            step = OwnTime(watch.step)
            loop.seconds(block, step)  # warm-up, with the look at the first rows
            for number in range(rounds):
                hooks.seconds = step.seconds = 0.0
                order = (None, step) if number % 2 == 0 else (step, None)
                taken = {after: loop.seconds(block, after) for after in order}
                own = (hooks.seconds + step.seconds) / taken[None][1]
                costs.append(100 * np.array([*(taken[step] / taken[None] - 1), own]))
    finally:
        watched.rows_of = rows_of
    return np.array(costs)


@flushed_denormals()
def main() -> None:
    """Print for each net the median cost over rounds, with a bootstrap interval."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12, help="pairs of blocks")
    parser.add_argument("--net", choices=NETS, action="append", help="default: all")
    parser.add_argument("--quick", action="store_true", help="2 pairs of 4 steps of the small net")
    arguments = parser.parse_args()
    nets = ["tiny-resnet"] if arguments.quick else arguments.net or list(NETS)
    rounds, block = (2, 4) if arguments.quick else (arguments.rounds, BLOCK)
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in nets:
        costs = shares(name, rounds, block)
        print(f"{name}, batches of {BATCH}, {rounds} pairs of {block} steps, median cost of watch:")
        for what, values in zip(("wall time", "processor time", "own hooks and steps"), costs.T, strict=True):
            interval = bootstrap((values,), np.median, rng=0).confidence_interval
            print(
                f"  {what}: {np.median(values):+.2f} % "
                f"(95 % interval {interval.low:+.2f} to {interval.high:+.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
