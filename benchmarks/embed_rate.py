"""How much of the bare forward's rate `embed` keeps, and how its memory grows with the number of images.

    uv run python benchmarks/embed_rate.py
    uv run python benchmarks/embed_rate.py --images 20000 --rounds 5 --source npz

The bare forward has its images ready in memory, as normalised float32 tensors in batches of the same size.
`embed` decodes them from JPEG files (or reads them from a .npz file), normalises them, and writes the
features with their ids. Both take turns in one process, since the speed of a shared machine drifts. The first
round does not count. The share of processor time depends less on other load than the share of the rate.
Peak memory is that of a process of its own for each number of images.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor

from fullrank.allocator import keep_freed_memory
from fullrank.devices import accelerator, flushed_denormals
from fullrank.targets.embed import BATCH, write_embeddings
from fullrank.targets.opening import Target, target

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_images(folder: Path, kind: str, count: int, size: int) -> str:
    """Smooth random colour images as JPEG files or as one .npz file; returns their spec."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    images = (Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC) for each in coarse)
    if kind == "npz":
        np.savez(folder / f"{count}.npz", images=np.stack([np.asarray(image) for image in images]))
        return f"npz:{folder}/{count}.npz"
    for number, image in enumerate(images):
        path = folder / str(count) / f"{number % 10}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)
    return f"folder:{folder}/{count}"


def opened(name: str, size: int, weights: Path) -> Target:
    return target(name, weights=weights, image_size=size, mean=MEAN, std=STD)


def write(model: Target, data: str, out: Path) -> None:
    """Embed all images and remove what was written."""
    with redirect_stderr(StringIO()):
        written = write_embeddings(model, data, out, split="all")
    for path in written.files:
        path.unlink()


@torch.no_grad()
def forward(net: torch.nn.Module, batches: list[Tensor], rows: int) -> None:
    """The bare forward of `rows` images; a batch serves again and again."""
    for start in range(0, rows, BATCH):
        batch = batches[start // BATCH % len(batches)]
        net(batch[: rows - start])
    if accelerator() == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds, and seconds of the processor."""
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def peak(arguments: argparse.Namespace, data: str, weights: Path) -> float:
    """The peak memory in MiB of a process that embeds these images."""
    command = [sys.executable, __file__, "--peak-of", data, "--weights", str(weights)]
    command += ["--net", arguments.net, "--size", str(arguments.size)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


@flushed_denormals()
def compare(arguments: argparse.Namespace, data: str, weights: Path, folder: Path) -> None:
    """Print the share of the bare forward's rate that `embed` keeps."""
    with redirect_stderr(StringIO()):
        model = opened(arguments.net, arguments.size, weights)
    net = timm.create_model(arguments.net, num_classes=0).eval().to(accelerator())
    batches = [torch.randn(BATCH, 3, arguments.size, arguments.size, device=accelerator()) for _ in range(2)]
    rows, shares = arguments.images, []
    for number in range(arguments.rounds + 1):
        bare = timed(lambda: forward(net, batches, rows))
        whole = timed(lambda: write(model, data, folder / "x.npy"))
        share = bare[0] / whole[0], bare[1] / whole[1]
        rates = f"bare {rows / bare[0]:.0f} images/s, embed {rows / whole[0]:.0f}"
        print(f"round {number}: {rates}: {share[0]:.1%}; of the processor time {share[1]:.1%}", flush=True)
        if number:
            shares.append(share)
    rate, processor = (statistics.median(each) for each in zip(*shares, strict=True))
    print(f"median: {rate:.1%} of the bare forward's rate, {processor:.1%} of its processor time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--net", default="resnet18", help="a timm model")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--images", type=int, default=4096, help="images in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--source", choices=("folder", "npz"), default="folder")
    parser.add_argument("--memory", type=int, nargs="*", default=[5000, 20000], help="numbers of images")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.peak_of:
            model = opened(arguments.net, arguments.size, arguments.weights)
            write(model, arguments.peak_of, folder / "x.npy")
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            return
        weights = folder / "weights.pth"
        torch.save(timm.create_model(arguments.net, num_classes=0).state_dict(), weights)
        print(f"{arguments.net}, {arguments.size} pixels, {torch.get_num_threads()} threads, {accelerator()}")
        if arguments.rounds:
            data = make_images(folder, arguments.source, arguments.images, arguments.size)
            compare(arguments, data, weights, folder)
        for count in arguments.memory:
            data = make_images(folder, arguments.source, count, arguments.size)
            print(f"{count} images: peak memory {peak(arguments, data, weights):.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
