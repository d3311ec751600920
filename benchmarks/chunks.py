"""The memory and the time of a training step with `engine.chunk`, beside the same step without it.

    uv run python benchmarks/chunks.py
    uv run python benchmarks/chunks.py --nets tiny-vit --batches 256 --chunk 32 --rounds 10

A step draws two views, passes them through encoder and head, and computes the loss and its gradient. Its peak
memory is what it adds to a process of its own, after a step of a few images. The ratio of times is taken
within each round, in which both steps take turns in one process.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from functools import partial

import torch
from paired import alone, seconds_in_turn

from fullrank import JointEmbedding, encoder, head, objective, view_pipeline
from fullrank.batch import Batch
from fullrank.devices import flushed_denormals

SMALL_BATCH = 8


def step_of(net: str, size: int, batch: int, chunk: int | None) -> Callable[[], None]:
    """Forward and backward pass of one step, as one call."""
    torch.manual_seed(0)
    model = encoder(net, image_size=size, in_chans=3)
    module = JointEmbedding(
        model,
        head("linear:64", in_dim=model.feature_dim),
        objective("infonce:0.2"),
        view_pipeline("weak", image_size=size, channels=3),
        chunk=chunk,
        chunk_statistics=True,
    ).train()
    images = torch.randint(256, (batch, 3, size, size), dtype=torch.uint8)
    labels = torch.zeros(batch, dtype=torch.int64)

    def take() -> None:
        module.zero_grad()
        module.step(Batch(images, labels, torch.arange(batch)), 0, 0).loss.backward()

    return take


def one_step(net: str, size: int, batch: int, chunk: int | None, threads: int, small: bool) -> None:
    """A step in this process; a `small` one has few images, of which a chunk still has only some."""
    torch.set_num_threads(threads)
    if small:
        batch, chunk = SMALL_BATCH, None if chunk is None else SMALL_BATCH
    step_of(net, size, batch, chunk)()


@flushed_denormals()
def main() -> None:
    """Print a row for each net and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["tiny-vit", "tiny-resnet"])
    parser.add_argument("--batches", nargs="+", type=int, default=[256, 512, 1024])
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--size", type=int, default=16, help="pixels of a side of the images")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"{os.cpu_count()} cores, torch {torch.__version__} with {threads} threads")
    print(f"{'net':14s} {'batch':>5s} {'MB':>6s} {'MB in chunks':>12s} {'times as long':>13s}")
    for net in arguments.nets:
        for batch in arguments.batches:
            make = partial(step_of, net, arguments.size, batch)
            ways = {"whole": None, "chunks": arguments.chunk}
            memory = {
                name: alone(one_step, net, arguments.size, batch, chunk, threads)[1]
                for name, chunk in ways.items()
            }
            seconds = seconds_in_turn({name: make(chunk) for name, chunk in ways.items()}, arguments.rounds)
            ratios = [ours / theirs for ours, theirs in zip(seconds["chunks"], seconds["whole"], strict=True)]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{net:14s} {batch:5d} {memory['whole']:6.0f} {memory['chunks']:12.0f} {ratio:>13s}")


if __name__ == "__main__":
    main()
