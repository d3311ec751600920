"""Images, small nets and short trainings, all from seeds, and what settles whether they collapsed."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from real_sample import FEW_DIRECTIONS
from torch import Tensor, nn

from fullrank.objectives.contrastive import info_nce
from fullrank.places import evaluating

HALVES = {"fix": "digits", "held": "fashion-mnist"}
# Below this share of its healthy twin's effective rank, features have collapsed; up to HURT nobody can say.
COLLAPSED, HURT = 0.25, 0.6
# Below this share of its twin's, the rank is lower than weak views or one layer leave it; up to HIGHER it is
# unclear.
LOWER, HIGHER = 0.75, 0.9


@dataclass(frozen=True)
class Images:
    """Images (N, 3, S, S) with values of mean 0, and their labels: some to train on, others to test on."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @property
    def classes(self) -> int:
        return int(self.train_labels.max()) + 1


@cache
def images(data: str, size: int, train: int = 1000, test: int = 1000) -> Images:
    """The first images of a source, standardised as a whole, resized and in three channels."""
    from fullrank.data import source

    def read(split: str, count: int) -> tuple[Tensor, Tensor]:
        every = source(data).load(split)
        some = every.limited(min(count, len(every)), 0)
        pixels = torch.cat(list(some.batches(512))).float() / 255
        resized = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
        return resized.expand(-1, 3, -1, -1), torch.as_tensor(some.labels["label"])

    x, y = read("train", train)
    x_test, y_test = read("test", test)
    mean, spread = x.mean(), x.std()
    return Images(((x - mean) / spread).contiguous(), y, ((x_test - mean) / spread).contiguous(), y_test)


@torch.no_grad()
def read(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The output of a net in eval mode, in batches."""
    if isinstance(net, nn.Module):
        with evaluating(net):
            return torch.cat([net(batch) for batch in x.split(250)])
    return torch.cat([net(batch) for batch in x.split(250)])


@dataclass(frozen=True)
class Schedule:
    """How a net is trained."""

    optimizer: str = "adam"
    rate: float = 1e-3
    steps: int = 100
    batch: int = 64
    decay: float = 0.0

    def of(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        if self.optimizer == "adam":
            return torch.optim.AdamW(parameters, self.rate, weight_decay=self.decay)
        return torch.optim.SGD(parameters, self.rate, momentum=0.9, weight_decay=self.decay)


def supervise(
    net: nn.Module, classifier: nn.Module, data: Images, schedule: Schedule, generator: torch.Generator
) -> None:
    """Cross-entropy on the training images, without augmentation."""
    step = schedule.of([*net.parameters(), *classifier.parameters()])
    net.train()
    for _ in range(schedule.steps):
        rows = torch.randint(len(data.train), (schedule.batch,), generator=generator)
        loss = F.cross_entropy(classifier(net(data.train[rows])), data.train_labels[rows])
        if not torch.isfinite(loss):
            raise ValueError("The loss is not finite.")
        step.zero_grad()
        loss.backward()
        step.step()
    net.eval()


def jittered(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """A view: a shift by some pixels, another contrast and brightness for each image, and noise."""
    most = max(1, round(strength * x.shape[-1] / 8))
    shift = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
    contrast = 1 + strength * (torch.rand(len(x), 1, 1, 1, generator=generator) - 0.5)
    light = strength * (torch.rand(len(x), 1, 1, 1, generator=generator) - 0.5)
    noise = 0.3 * strength * torch.randn(x.shape, generator=generator)
    return contrast * x.roll(shift, (2, 3)) + light + noise


def agree(
    net: nn.Module,
    data: Images,
    schedule: Schedule,
    generator: torch.Generator,
    weight: float,
) -> None:
    """Training on two views: alignment alone (`weight` 0), or InfoNCE's negatives weighted by `weight`."""
    step = schedule.of(list(net.parameters()))
    net.train()
    for _ in range(schedule.steps):
        x = data.train[torch.randint(len(data.train), (schedule.batch,), generator=generator)]
        a, b = net(jittered(x, 0.5, generator)), net(jittered(x, 0.5, generator))
        alignment = 1 - F.cosine_similarity(a, b).mean()
        loss = alignment if weight == 0 else (1 - weight) * alignment + weight * info_nce(a, b, 0.2)
        step.zero_grad()
        loss.backward()
        step.step()
    net.eval()


def contrast_linear(
    x: Tensor, maps: list[Tensor], noise: Tensor, schedule: Schedule, generator: torch.Generator
) -> list[Tensor]:
    """InfoNCE through consecutive linear maps, with additive noise as augmentation (P1, Sections 4 and 5)."""
    weights = [nn.Parameter(map_.clone()) for map_ in maps]
    step = schedule.of(weights)
    for _ in range(schedule.steps):
        rows = x[torch.randint(len(x), (schedule.batch,), generator=generator)]
        sides = [rows + noise * torch.randn(rows.shape, generator=generator) for _ in range(2)]
        a, b = (through(side, weights) for side in sides)
        step.zero_grad()
        info_nce(a, b, 0.1).backward()
        step.step()
    return [weight.detach() for weight in weights]


def through(x: Tensor, maps: list[Tensor]) -> Tensor:
    """Rows (N, D) after consecutive linear maps."""
    for weight in maps:
        x = x @ weight.T
    return x


def effective_rank(x: Tensor) -> float:
    """exp of the entropy of the normalised variances (of the eigenvalues, not of the singular values)."""
    values = torch.linalg.svdvals((x - x.mean(0)).double()).square()
    p = values / values.sum().clamp_min(1e-300)
    return math.exp(-float((p * p.clamp_min(1e-300).log()).sum()))


def mean_cosine(x: Tensor) -> float:
    return float(F.normalize(x, dim=1).mean(0).square().sum())


def copied(net: nn.Module) -> nn.Module:
    """The same net with weights of its own."""
    return copy.deepcopy(net)


def tiny(seed: int, size: int) -> nn.Module:
    """A small residual net for images of `size` pixels; D = 48."""
    from fullrank.encoders.tiny import TinyResNet

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return TinyResNet(12, image_size=size, in_chans=3, mean=(0.0,), std=(1.0,))


def judged(rank: float, twin: float) -> tuple[tuple[str, ...], str]:
    """The expected causes and the level, by the effective rank beside that of the healthy twin."""
    if rank < COLLAPSED * twin:
        return FEW_DIRECTIONS, "alarm"
    return (FEW_DIRECTIONS, "ambiguous") if rank < HURT * twin else ((), "none")


def lowered(cause: str, rank: float, twin: float) -> tuple[tuple[str, ...], str]:
    """The expected cause and the level where a cause should have lowered the rank below its twin's."""
    if rank < LOWER * twin:
        return (cause,), "any"
    return ((cause,), "ambiguous") if rank < HIGHER * twin else ((), "none")
