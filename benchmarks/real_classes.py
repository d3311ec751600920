"""Supervised nets whose classes become points, their healthy twins, and pairs of encoders in two cones."""

from collections.abc import Iterator
from functools import cache, partial

import torch
import torch.nn.functional as F
from real_sample import RealCase, Sample
from real_training import effective_rank
from torch import Tensor, nn

from fullrank.data import source
from fullrank.objectives.contrastive import info_nce
from fullrank.objectives.supervised import SupConLoss
from fullrank.spectrum import mean_cosine

HALVES = {"fix": ("digits", 8, 600), "held": ("fashion-mnist", 14, 300), "fresh": ("fashion-mnist", 12, 400)}
# Labels of training rows explain all but this share of the variance where classes are called points.
_POINTS = 0.02
Net = tuple[nn.Module, nn.Module]


@cache
def images(half: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Standardised images (N, 1, S, S) to train on, their labels, 600 images to test on, and their labels."""
    name, size, count = HALVES[half]

    def read(split: str, most: int) -> tuple[Tensor, Tensor]:
        every = source(name).load(split)
        some = every.limited(min(most, len(every)), 0)
        pixels = torch.cat(list(some.batches(512))).float().mean(1, keepdim=True) / 255
        resized = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
        return resized, torch.as_tensor(some.labels["label"])

    (x, y), (x_test, y_test) = read("train", count), read("test", 600)
    mean, spread = x.mean(), x.std()
    return (x - mean) / spread, y, (x_test - mean) / spread, y_test


def mlp(half: str, depth: int, width: int, last: bool) -> Net:
    """Hidden layers, and the layer of h, which ends in a ReLU if `last`."""
    size = HALVES[half][1]

    def layer(inputs: int, outputs: int, rectified: bool) -> list[nn.Module]:
        end = [nn.ReLU()] if rectified else []
        return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), *end]

    hidden = [nn.Flatten(), *layer(size**2, 128, True)]
    for _ in range(depth - 1):
        hidden += layer(128, 128, True)
    return nn.Sequential(*hidden), nn.Sequential(*layer(128, width, last))


def train(
    net: nn.Module, half: str, kind: str, epochs: int, decay: float, seed: int, rate: float = 0.1
) -> None:
    """Stochastic gradient descent with a cosine schedule: cross-entropy, SupCon or InfoNCE."""
    x, y, *_ = images(half)
    generator = torch.Generator().manual_seed(seed)
    width = net(x[:2]).shape[1]
    classifier = nn.Linear(width, 10)
    step = torch.optim.SGD(
        [*net.parameters(), *classifier.parameters()], rate, momentum=0.9, weight_decay=decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(step, epochs)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(100):
            if kind == "cross-entropy":
                loss = F.cross_entropy(classifier(net(x[rows])), y[rows])
            else:
                sides = [viewed(x[rows], generator) for _ in range(2)]
                a, b = net(torch.cat(sides)).chunk(2)
                loss = SupConLoss()(a, b, labels=y[rows]) if kind == "supcon" else info_nce(a, b, 0.2)
            step.zero_grad()
            loss.backward()
            step.step()
        schedule.step()
    net.eval()


def viewed(x: Tensor, generator: torch.Generator) -> Tensor:
    """A view: a shift by at most one pixel, another contrast, and noise."""
    shift = torch.randint(-1, 2, (2,), generator=generator).tolist()
    contrast = 0.7 + 0.6 * torch.rand(len(x), 1, 1, 1, generator=generator)
    return contrast * x.roll(shift, (2, 3)) + 0.3 * torch.randn(x.shape, generator=generator)


@cache
def trained(half: str, depth: int, last: bool, kind: str, epochs: int, decay: float) -> Net:
    """A net and its layer of h, trained from a seed."""
    torch.manual_seed({"fix": 1, "held": 2, "fresh": 3}[half])
    hidden, end = mlp(half, depth, 64 if half == "fix" else 128, last)
    train(nn.Sequential(hidden, end), half, kind, epochs, decay, 0)
    return hidden.eval(), end.eval()


@torch.no_grad()
def read(net: Net, x: Tensor) -> dict[str, Tensor]:
    """Features at the hidden layer and at h."""
    hidden = net[0](x)
    return {"hidden": hidden, "h": net[1](hidden)}


def unexplained(x: Tensor, y: Tensor) -> float:
    """One minus the share of the variance that labels explain."""
    means = torch.stack([x[y == label].mean(0) for label in range(10)])
    return float((x - means[y]).square().sum() / (x - x.mean(0)).square().sum())


def of_net(half: str, depth: int, last: bool, kind: str, epochs: int, decay: float, rows: str) -> Sample:
    """What a net makes of the rows that it was trained on, or of others."""
    net = trained(half, depth, last, kind, epochs, decay)
    x, y, x_test, y_test = images(half)
    left = unexplained(read(net, x)["h"], y)
    right = float((nearest_mean(net, x, y, x_test) == y_test).float().mean())
    points = kind != "infonce" and left < _POINTS
    # A class that is one point for training rows need not be one for others.
    level = "note" if points and (rows == "train" or right > 0.97) else "ambiguous" if points else "none"
    return Sample(
        read(net, x if rows == "train" else x_test),
        ("class-collapse",) if points else (),
        level,
        accepted=("class-collapse",) if kind != "infonce" and left < 0.1 else (),
        labels=y if rows == "train" else y_test,
        supervised=kind != "infonce",
        measured=f"unexplained in training rows {left:.4f}, nearest mean right {right:.3f}",
    )


def nearest_mean(net: Net, x: Tensor, y: Tensor, x_test: Tensor) -> Tensor:
    """The class with the nearest mean of training rows, for each test row."""
    h = read(net, x)["h"]
    means = torch.stack([h[y == label].mean(0) for label in range(10)])
    return torch.cdist(read(net, x_test)["h"], means).argmin(1)


def classes_family() -> Iterator[RealCase]:
    """Supervised nets until their classes are points, before that, and self-supervised ones."""
    nets = {
        "fix": (("mlp", 1, True), ("linear", 1, False)),
        "held": (("deep", 3, True), ("linear", 3, False)),
        "fresh": (("mlp", 2, True),),
    }
    for half, some in nets.items():
        for name, depth, last in some:
            net = partial(of_net, half, depth, last)
            for kind, short in (("cross-entropy", "ce"), ("supcon", "supcon")):
                for rows in ("train", "test"):
                    until = partial(net, kind, 60 if half == "held" else 80, 2e-2, rows)
                    yield RealCase("classes", f"{name}-{short}-{rows}", half, until)
                yield RealCase("classes", f"{name}-{short}-early", half, partial(net, kind, 3, 0.0, "test"))
            yield RealCase("classes", f"{name}-infonce", half, partial(net, "infonce", 30, 1e-4, "test"))


def towers(half: str, depth: int, shared: bool) -> Sample:
    """Two encoders of the left and the right half of each image, or one encoder for both."""
    x, _, x_test, _ = images(half)
    middle = x.shape[-1] // 2
    torch.manual_seed(5 if half == "fix" else 6)

    def tower() -> nn.Module:
        layers = [nn.Flatten(), nn.Linear(x[0].numel() // 2, 256), nn.ReLU()]
        for _ in range(depth - 1):
            layers += [nn.Linear(256, 256), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(256, 64 if half == "fix" else 128))

    left = tower()
    right = left if shared else tower()
    weights = list(left.parameters()) if shared else [*left.parameters(), *right.parameters()]
    step = torch.optim.AdamW(weights, 1e-4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100 if half == "fix" else 60):
        rows = torch.randint(len(x), (64,), generator=generator)
        loss = info_nce(left(x[rows, :, :, :middle]), right(x[rows, :, :, middle:]), 0.03)
        step.zero_grad()
        loss.backward()
        step.step()
    with torch.no_grad():
        a, b = left(x_test[..., :middle]), right(x_test[..., middle:])
    inside = (mean_cosine(a) + mean_cosine(b)) / 2
    across = float((F.normalize(a) @ F.normalize(b).T).mean())
    ill = inside - across > 0.15
    rank = effective_rank(a)
    # So few directions are no fault that was put in, but an alarm for them is right.
    low = rank < a.shape[1] / 10
    level = ("any" if low else "note") if ill else ("ambiguous" if low else "none")
    return Sample(
        {"embedding": a},
        ("view-gap",) if ill else (),
        level,
        ("unexplained-low-rank", "augmentation") if low else (),
        f"mean cosine within {inside:.3f}, across {across:.3f}, er {rank:.1f}",
        positives=b,
    )


def gap_family() -> Iterator[RealCase]:
    """Two towers that were trained contrastively, and one."""
    for half, depth in {"fix": 6, "held": 8}.items():
        for shared in (False, True):
            name = "one-tower" if shared else "two-towers"
            yield RealCase("gap", name, half, partial(towers, half, depth, shared))
