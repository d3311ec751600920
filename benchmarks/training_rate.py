"""How much of the bare step's rate a whole training run keeps.

    uv run python benchmarks/training_rate.py

The bare step has both views ready as tensors: forward, loss, backward, optimizer. The run is
`fullrank train` as users have it: loader, views, Lightning, curves, progress, checkpoints. Both are timed in
turn in one process, and the ratio is taken pair by pair, for the machine's speed drifts.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from fullrank.reports.tables import Estimate
from fullrank.training.module import JointEmbedding, build_optimizer
from fullrank.training.recipe import Recipe
from fullrank.training.run import build, flushed_denormals, load_data, train

SETTINGS = {
    "image_size": 28,
    "encoder": "tiny-resnet,width=8",
    "head": "mlp:16",
    "batch_size": 256,
    "limit": None,
    "monitor_every": 20,
}


def bare_rate(module: JointEmbedding, batch_size: int, steps: int) -> float:
    """Views a second of forward, loss, backward and optimizer on views that are ready."""
    optimizer = build_optimizer(module.optimizer, [module.encoder, module.head])
    module.encoder.train(), module.head.train()
    views = torch.rand(2 * batch_size, 1, SETTINGS["image_size"], SETTINGS["image_size"])
    started = 0.0
    for step in range(steps + 3):
        if step == 3:  # after warming up
            started = time.perf_counter()
        optimizer.zero_grad()
        module.objective(*module.head(module.encoder(views)).chunk(2)).backward()
        optimizer.step()
    return 2 * batch_size * steps / (time.perf_counter() - started)


@flushed_denormals()
def main() -> None:
    """Print both rates and their ratio with its interval."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="steps a round, in epochs of 20")
    arguments = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        # Noise costs the same as pictures, and needs no data set.
        images = np.random.default_rng(0).integers(
            0, 256, (20 * SETTINGS["batch_size"], 28, 28), dtype=np.uint8
        )
        np.savez(Path(folder) / "noise.npz", images=images, test_images=images[:500])
        settings = SETTINGS | {"data": f"npz:{folder}/noise.npz", "epochs": arguments.steps // 20}
        recipe = Recipe.resolve("fashion-mnist", settings)
        for number in range(arguments.rounds):
            module = build(recipe, load_data(recipe)[0])
            bare = bare_rate(module, recipe.batch_size, arguments.steps)
            run = train(recipe, out=Path(folder) / f"run{number}")
            rate = run.record.runs[0].views_per_second
            ratios.append(100 * rate / bare)
            print(
                f"round {number}: bare step {bare:.0f} views/s, run {rate:.0f}, {ratios[-1]:.1f} %",
                flush=True,
            )
    ratio = Estimate.of(ratios)
    print(
        f"{run.record.machine.processor}, {torch.get_num_threads()} threads, torch {torch.__version__}: "
        f"a run keeps {ratio.mean:.1f} % of the bare step's rate "
        f"(95 % interval {ratio.low:.1f} to {ratio.high:.1f})"
    )


if __name__ == "__main__":
    main()
