"""Views alone on one core: our full SimCLR chain against other packages' and torchvision's, image by image.

    uv run --group benchmark python benchmarks/views.py
    uv run --group benchmark python benchmarks/views.py --sizes 32:32 --rounds 9

Each contender makes two views of each of `--images` random uint8 images. The operations are crop with
antialiasing, flip, brightness, contrast, saturation, hue and grey, with the same probabilities everywhere.
Views of 96 pixels or more also have blur. A size is that of the images and that of the views; if they are
equal, no crop shrinks. All contenders take turns in one process with one thread.

Equality is checked with the same drawn parameters. `exact` is compared with torchvision's functions image by
image; if they differ by more than 1e-3 anywhere, the exit status is 1. `composed` and `linear` are
approximations; the table shows their mean absolute difference from torchvision.
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as tv
from paired import median_ratio, seconds_in_turn
from PIL import Image
from torch import Tensor

from fullrank import view_pipeline
from fullrank.allocator import keep_freed_memory
from fullrank.batch import Batch, as_float
from fullrank.devices import flushed_denormals
from fullrank.views import step_generator

WAYS = ("exact", "composed", "linear")
FARTHEST = 1e-3


def batch_of(count: int, size: int) -> Batch:
    """Images that are smooth enough for crops and blurs to matter."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(count, 3, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(small, size=size, mode="bicubic").clamp(0, 1).mul(255).byte()
    return Batch(images, torch.full((count,), -1), torch.arange(count))


def ours(batch: Batch, size: int, blur: float, way: str) -> Callable[[], Any]:
    """Both views by this package, with new random parameters at each call."""
    views = view_pipeline(f"simclr,blur={blur},colour={way}", image_size=size)
    source = (batch.images.shape[-2], batch.images.shape[-1])
    steps = itertools.count()
    return lambda: views.apply(batch, views.sample(len(batch), step_generator(0, 0, next(steps)), source))


def lightly_views(batch: Batch, size: int, blur: float) -> Callable[[], Any]:
    """lightly's transform on Pillow images, one after the other."""
    from lightly.transforms import SimCLRTransform

    transform = SimCLRTransform(
        input_size=size, cj_strength=0.5, gaussian_blur=blur, sigmas=(0.1, 2), normalize=None
    )
    pictures = [Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0))) for image in batch.images]
    return lambda: [transform(picture) for picture in pictures]


def kornia_views(batch: Batch, size: int, blur: float) -> Callable[[], Any]:
    """kornia's batched operations; its crop does not antialias."""
    import kornia.augmentation as ka

    kernel = min(13, 2 * size - 1)
    transform = ka.AugmentationSequential(
        ka.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        ka.RandomHorizontalFlip(),
        ka.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        ka.RandomGrayscale(p=0.2),
        *([ka.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=blur)] if blur else []),
    )

    def both() -> None:
        images = as_float(batch.images)
        transform(images), transform(images)

    return both


def torchvision_view(image: Tensor, size: int, values: dict[str, Tensor], row: int) -> Tensor:
    """One view of one image by torchvision's functions, with the parameters drawn for `row`."""
    top, left, tall, wide = values["crop"][row].tolist()
    view = tv.resized_crop(as_float(image), top, left, tall, wide, [size, size], antialias=True)
    for name, value in (
        (name, parameters[row].item()) for name, parameters in values.items() if name != "crop"
    ):
        if name == "flip" and value:
            view = tv.horizontal_flip(view)
        if name in ("brightness", "contrast", "saturation", "hue"):
            view = getattr(tv, f"adjust_{name}")(view, value)
        if name == "grey" and value:
            view = tv.rgb_to_grayscale(view, num_output_channels=3)
        if name == "blur" and value:
            kernel = min(13, 2 * size - 1)
            view = tv.gaussian_blur(view, [kernel, kernel], [value, value])
    return view


def differences(batch: Batch, size: int, blur: float) -> dict[str, tuple[float, float]]:
    """Largest and mean absolute difference of each way from torchvision, with the same parameters."""
    source = (batch.images.shape[-2], batch.images.shape[-1])
    pipeline = view_pipeline(f"simclr,blur={blur}", image_size=size)
    parameters = pipeline.sample(len(batch), step_generator(0, 0, 0), source)
    expected = torch.stack(
        [torchvision_view(image, size, parameters.first, row) for row, image in enumerate(batch.images)]
    )
    apart_by_way = {}
    for way in WAYS:
        views = view_pipeline(f"simclr,blur={blur},colour={way}", image_size=size)
        apart = (views.apply_first(batch, parameters) - expected).abs()
        apart_by_way[way] = (apart.max().item(), apart.mean().item())
    return apart_by_way


def compare(source: int, size: int, count: int, rounds: int) -> bool:
    """Print a row for each contender at one size; return whether `exact` agrees with torchvision."""
    batch, blur = batch_of(count, source), 0.5 if size >= 96 else 0.0
    contenders = {f"fullrank, {way}": ours(batch, size, blur, way) for way in WAYS}
    contenders["lightly"] = lightly_views(batch, size, blur)
    contenders["kornia"] = kornia_views(batch, size, blur)
    seconds = seconds_in_turn(contenders, rounds)
    apart = differences(batch, size, blur)
    for name, times in seconds.items():
        rate = 2 * count / statistics.median(times)
        ratios = " | ".join(f"{median_ratio(seconds[peer], times):.1f}" for peer in ("lightly", "kornia"))
        way = name.removeprefix("fullrank, ")
        difference = f"{apart[way][1]:.1e}, at most {apart[way][0]:.1e}" if way in apart else ""
        print(f"| {source} to {size} | {name} | {rate:,.0f} | {ratios} | {difference} |", flush=True)
    return apart["exact"][0] <= FARTHEST


@flushed_denormals()
def main() -> int:
    """Print a table with all sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["32:32", "96:96", "128:96"])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the command does
    print(f"one thread, torch {torch.__version__}, {arguments.images} images, two views each\n")
    print("| pixels | whose | views a second | times lightly | times kornia | from torchvision |")
    print("|---|---|---|---|---|---|")
    exact = []
    for source, size in (map(int, pair.split(":")) for pair in arguments.sizes):
        exact.append(compare(source, size, arguments.images, arguments.rounds))
    return 0 if all(exact) else 1


if __name__ == "__main__":
    sys.exit(main())
