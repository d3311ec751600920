"""Features with one fault only, at three strengths, and healthy features near each of them."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullrank.diagnosis import Evidence, PlaceEvidence
from fullrank.diagnosis.norms import norm_shifts
from fullrank.diagnosis.rows import survey_features
from fullrank.diagnosis.tokens import TokenNorms
from fullrank.objectives.contrastive import info_nce
from fullrank.record import ProbedAgain

WIDTH, TEMPERATURE = 16, 0.1


@dataclass(frozen=True)
class Case:
    """One row of the table: the fault of the features that `build` makes from a seed, and its strength."""

    cause: str
    strength: str
    build: Callable[[int], Evidence]
    slow: bool = False


def one_place(features: Tensor) -> Evidence:
    return Evidence((PlaceEvidence("z", features),))


def gaussian(generator: torch.Generator, rows: int = 1000, width: int = 64) -> Tensor:
    return torch.randn(rows, width, generator=generator)


def random_numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dead(share: float, seed: int) -> Evidence:
    x = gaussian(random_numbers(seed))
    x[:, : round(share * 64)] = 0.0
    return one_place(x)


def cone(mean_share: float, seed: int) -> Evidence:
    generator = random_numbers(seed)
    x = gaussian(generator)
    direction = F.normalize(torch.randn(64, generator=generator), dim=0)
    return one_place(x + direction * math.sqrt(64 * mean_share / (1 - mean_share)))


def few(rows: int, seed: int) -> Evidence:
    return one_place(gaussian(random_numbers(seed), rows, 200))


def one_point(spread: float, seed: int) -> Evidence:
    generator = random_numbers(seed)
    point = F.normalize(torch.randn(64, generator=generator), dim=0)
    return one_place(point + spread / 8 * gaussian(generator))


def low_rank(rank: int, seed: int) -> Evidence:
    generator = random_numbers(seed)
    map_ = torch.linalg.qr(torch.randn(64, rank, generator=generator)).Q.T
    return one_place(gaussian(generator, width=rank) @ map_ + 1e-3 * gaussian(generator))


def train_linear(
    maps: list[Tensor], noise: Tensor, steps: int, optimizer: str, rate: float, generator: torch.Generator
) -> Evidence:
    """P1's toy models in miniature: Gaussian data, additive noise as augmentation, InfoNCE, linear maps."""
    x = torch.randn(2000, WIDTH, generator=generator)
    weights = [map_.clone().requires_grad_() for map_ in maps]
    step = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer](weights, lr=rate)

    def views(clean: Tensor) -> tuple[Tensor, Tensor]:
        a, b = (clean + noise * torch.randn(clean.shape, generator=generator) for _ in range(2))
        return a, b

    def embed(features: Tensor) -> Tensor:
        for weight in weights:
            features = features @ weight.T
        return features

    for _ in range(steps):
        a, b = views(x[torch.randint(len(x), (128,), generator=generator)])
        step.zero_grad()
        info_nce(embed(a), embed(b), TEMPERATURE).backward()
        step.step()
    with torch.no_grad():
        a, b = views(x[:800])
        places = (PlaceEvidence("x", x, (a, b)), PlaceEvidence("z", embed(x), (embed(a), embed(b))))
    return Evidence(places, tuple(weight.detach() for weight in weights), TEMPERATURE)


def augmented(strength: float, seed: int) -> Evidence:
    """One layer; noise of this standard deviation on the last 8 of 16 channels (P1, Figure 3)."""
    generator = random_numbers(seed)
    noise = torch.cat([torch.zeros(8), torch.full((8,), strength)])
    start = [torch.randn(WIDTH, WIDTH, generator=generator) / math.sqrt(WIDTH)]
    return train_linear(start, noise, 400, "adam", 0.02, generator)


def stacked(decay: float, seed: int) -> Evidence:
    """Two layers whose singular values start at e^(-decay i), with little noise (P1, Figures 5 and 6)."""
    generator = random_numbers(seed)
    scales = torch.exp(-decay * torch.arange(WIDTH))

    def rotation() -> Tensor:
        return torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q

    start = [rotation() @ torch.diag(scales) @ rotation() for _ in range(2)]
    return train_linear(start, torch.full((WIDTH,), 0.1), 600, "sgd", 0.2, generator)


def power_law(exponent: float, seed: int) -> Evidence:
    return one_place(gaussian(random_numbers(seed)) * torch.arange(1, 65) ** (-exponent / 2))


def pooled(seed: int) -> Evidence:
    """Positive features: a random 1 x 1 convolution, a ReLU, the mean over 8 x 8 positions."""
    generator = random_numbers(seed)
    maps = torch.randn(1000, 32, 1, generator=generator) + torch.randn(1000, 32, 64, generator=generator)
    weight = torch.randn(64, 32, generator=generator) / math.sqrt(32)
    return one_place(F.relu(weight @ maps).mean(2))


def untrained(seed: int) -> Evidence:
    import timm

    from fullrank.places import evaluating

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = timm.create_model("resnet10t", num_classes=0)
    images = F.interpolate(digits().float() / 255, size=32, mode="bilinear").expand(-1, 3, -1, -1)
    with torch.no_grad(), evaluating(model):
        return one_place(torch.cat([model(batch) for batch in images.split(256)]))


def trained(head: str, imposed_rank: int | None, seed: int) -> Evidence:
    """A short run on the digits, with features of every place of its encoder, of h and of z."""
    from fullrank import train
    from fullrank.places import collect_features

    with tempfile.TemporaryDirectory() as folder:
        run = train("digits", out=Path(folder) / "run", head=head, epochs=3, seed=seed)
    features = collect_features(run.encoder, run.head, digits(), [*run.encoder.places, "h", "z"])
    return Evidence(
        tuple(
            PlaceEvidence(place, rows, imposed_rank=imposed_rank if place == "z" else None)
            for place, rows in features.items()
        )
    )


def digits() -> Tensor:
    from fullrank.data import source

    images = source("digits").load("train")
    return torch.cat(list(images.batches(512)))


def zeroed(rows: int, scale: float, seed: int) -> Evidence:
    """So many of 1,000 rows times `scale`."""
    x = gaussian(random_numbers(seed))
    x[:rows] *= scale
    return surveyed(x)


def twinned(rows: int, noise: float, seed: int) -> Evidence:
    """So many rows twice; the second one has this much noise."""
    generator = random_numbers(seed)
    x = gaussian(generator)
    again = x[:rows]
    return surveyed(torch.cat([x, again + noise * torch.randn(again.shape, generator=generator)]))


def leaked(rows: int, noise: float, seed: int) -> Evidence:
    """So many of 400 test rows are training rows with this much noise."""
    generator = random_numbers(seed)
    x = gaussian(generator)
    x[600 : 600 + rows] = x[:rows] + noise * torch.randn(rows, 64, generator=generator)
    survey = survey_features(x).of_split(range(600), range(600, 1000))
    return Evidence((PlaceEvidence("z", x),), survey=survey)


def surveyed(x: Tensor) -> Evidence:
    return Evidence((PlaceEvidence("z", x),), survey=survey_features(x))


def two_cones(distance: float, seed: int) -> Evidence:
    """Two views with noise 0.3, whose means are `distance` times the spread of the rows apart."""
    generator = random_numbers(seed)
    x = gaussian(generator)
    away = 8 * distance * F.normalize(torch.randn(64, generator=generator), dim=0)
    return Evidence((PlaceEvidence("z", x, (x, x + 0.3 * gaussian(generator) + away)),))


def class_means(noise: float, classes: int, width: int, labelled: bool, seed: int) -> Evidence:
    """Classes of 1,000 rows, with Gaussian means and `noise` around them."""
    generator = random_numbers(seed)
    labels = torch.arange(1000) % classes
    x = gaussian(generator, classes, width)[labels] + noise * gaussian(generator, width=width)
    return Evidence((PlaceEvidence("z", x),), labels=labels if labelled else None)


def one_channel(scale: float, channels: int, width: int, seed: int) -> Evidence:
    x = gaussian(random_numbers(seed), width=width)
    x[:, :channels] *= scale
    return one_place(x)


def two_groups(distance: float, seed: int) -> Evidence:
    """Two groups at plus and minus `distance` along one axis."""
    x = gaussian(random_numbers(seed))
    x[:, 0] += distance * (torch.arange(1000) % 2 * 2 - 1)
    return one_place(x)


def geometric(decay: float, seed: int) -> Evidence:
    """Directions whose standard deviations fall by a factor, so that no drop is sharp."""
    generator = random_numbers(seed)
    rotation = torch.linalg.qr(torch.randn(64, 64, generator=generator)).Q
    return one_place(gaussian(generator) * decay ** torch.arange(64) @ rotation)


def unlike_units(scale: float, seed: int) -> Evidence:
    """The label is the sign of a channel, and another channel has a scale of its own; with both probes."""
    x = gaussian(random_numbers(seed))
    x[:, 0] *= scale
    before, after = probed(x, seed), probed(x / x.std(0), seed)
    again = ProbedAgain(place="z", change="standardised channels", linear=after, before=before, tested=500)
    return Evidence((PlaceEvidence("z", x),), probed_again=(again,))


def probed(x: Tensor, seed: int) -> float:
    """The accuracy, on 500 rows, of twenty steps of logistic regression on 500 others."""
    y = (x[:, 1] > 0).float()
    weight = torch.zeros(64)
    rate = 1 / float(x.square().sum(1).mean())
    for _ in range(20):
        weight -= 64 * rate * x[:500].T @ (torch.sigmoid(x[:500] @ weight) - y[:500]) / 500
    return float(((x[500:] @ weight > 0) == (y[500:] > 0)).float().mean())


def normed(factor: float, seed: int) -> Evidence:
    """A convolution, and a batch norm whose running variances are wrong by a factor."""
    generator = random_numbers(seed)
    images = torch.rand(256, 3, 8, 8, generator=generator)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        norm = nn.BatchNorm2d(32, momentum=None)
        net = nn.Sequential(nn.Conv2d(3, 32, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        net(images)
        norm.running_var *= factor
        features = net.eval()(images)
    return Evidence((PlaceEvidence("h", features),), norms=norm_shifts(net, images))


def tokens(ratio: float, seed: int) -> Evidence:
    """One of 49 patch tokens has a norm of so many times that of the others."""
    generator = random_numbers(seed)
    norms = 1 + 0.2 * torch.rand(256, 49, generator=generator)
    norms[:, 7] *= ratio
    place = PlaceEvidence("blocks.3", gaussian(generator))
    return Evidence((place,), tokens=(TokenNorms.of("blocks.3", norms),))


def bound(build: Callable[..., Evidence], *arguments: object) -> Callable[[int], Evidence]:
    return lambda seed: build(*arguments, seed)


CASES = (
    *(Case("augmentation", f"noise {k:g}", bound(augmented, k)) for k in (1.0, 1.5, 3.0)),
    *(Case("implicit-regularisation", f"decay {d:g}", bound(stacked, d)) for d in (0.3, 0.45, 0.6)),
    *(Case("dead-channels", f"{s:.0%} dead", bound(dead, s)) for s in (0.1, 0.3, 0.5)),
    *(Case("mean-dominance", f"mean share {s:g}", bound(cone, s)) for s in (0.93, 0.99, 0.9999)),
    *(Case("too-few-samples", f"{n} of 200", bound(few, n)) for n in (190, 100, 20)),
    *(Case("complete-collapse", f"spread {s:g}", bound(one_point, s)) for s in (2e-4, 1e-5, 0.0)),
    *(Case("unexplained-low-rank", f"rank {r} of 64", bound(low_rank, r)) for r in (48, 24, 6)),
    *(Case("zero-rows", f"{n} of 1000", bound(zeroed, n, 0.0)) for n in (5, 100, 500)),
    *(Case("duplicate-rows", f"{n} rows twice", bound(twinned, n, 0.0)) for n in (20, 300, 1000)),
    *(Case("leakage", f"{n} of 400 test rows", bound(leaked, n, 0.0)) for n in (12, 120, 400)),
    *(Case("view-gap", f"distance {d:g}", bound(two_cones, d)) for d in (1.5, 4.0, 20.0)),
    *(
        Case("class-collapse", f"noise {s:g}", bound(class_means, s, 10, 128, True))
        for s in (0.1, 1e-2, 1e-3)
    ),
    *(
        Case("class-collapse", f"noise {s:g}, no labels", bound(class_means, s, 10, 128, False))
        for s in (1e-3, 1e-5)
    ),
    *(Case("dimensional-collapse", f"decay {d:g}", bound(geometric, d)) for d in (0.2, 0.15, 0.05)),
    *(
        Case("dominant-direction", f"channel x {k:g}", bound(one_channel, k, 1, 64))
        for k in (50.0, 100.0, 1e4)
    ),
    *(Case("dominant-direction", f"groups at {d:g}", bound(two_groups, d)) for d in (40.0, 60.0, 200.0)),
    *(Case("uneven-scale", f"channel x {k:g}", bound(unlike_units, k)) for k in (50.0, 200.0, 1e3)),
    *(Case("batch-statistics", f"variances x {k:g}", bound(normed, k)) for k in (20.0, 1e3, 1e6)),
    *(Case("outlier-tokens", f"norm x {k:g}", bound(tokens, k)) for k in (10.0, 30.0, 100.0)),
    Case("healthy", "5 rows x 0.001", bound(zeroed, 5, 1e-3)),
    Case("healthy", "300 rows twice, noise 0.001", bound(twinned, 300, 1e-3)),
    Case("healthy", "120 test rows near training rows", bound(leaked, 120, 1e-3)),
    Case("healthy", "views at distance 0.3", bound(two_cones, 0.3)),
    *(
        Case("healthy", f"{k} class means in {d} dimensions, noise 1", bound(class_means, 1.0, k, d, True))
        for k, d in ((5, 256), (10, 128))
    ),
    Case("healthy", "3 channels of 256 x 20", bound(one_channel, 20.0, 3, 256)),
    Case("healthy", "decay 0.9", bound(geometric, 0.9)),
    Case("healthy", "units of one scale", bound(unlike_units, 1.0)),
    Case("healthy", "variances x 1", bound(normed, 1.0)),
    Case("healthy", "tokens x 3", bound(tokens, 3.0)),
    *(
        Case(
            "healthy",
            f"Gaussian {n} x {d}",
            lambda seed, n=n, d=d: one_place(gaussian(random_numbers(seed), n, d)),
        )
        for n, d in ((60, 10), (200, 10), (300, 64))
    ),
    Case("healthy", "Gaussian 1000 x 64", lambda seed: one_place(gaussian(random_numbers(seed)))),
    *(Case("healthy", f"power law, exponent {a:g}", bound(power_law, a)) for a in (0.5, 1.0, 2.0)),
    Case("healthy", "ReLU, pooled", pooled),
    Case("healthy", "augmentation of noise 0.3", bound(augmented, 0.3)),
    Case("healthy", "resnet10t, untrained", untrained, slow=True),
    Case("healthy", "subvector:24, trained", bound(trained, "subvector:24", 24), slow=True),
    Case("healthy", "reweight:1.05, trained", bound(trained, "reweight:1.05", None), slow=True),
)
