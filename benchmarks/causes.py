"""Which causes of collapse are named when only one is present, and what is reported for healthy features.

    uv run python benchmarks/causes.py

Prints the figures of docs/causes.md, one row per strength. Thresholds were fixed on the seeds 0 to 19
(`--first 0`). The page has the seeds 100 to 119, which were not used to fix any threshold.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes
from fullrank.objectives.contrastive import info_nce
from fullrank.record import Finding

WIDTH, TEMPERATURE = 16, 0.1


@dataclass(frozen=True)
class Case:
    """One row of the table: the fault of the features that `build` makes from a seed, and its strength."""

    cause: str
    strength: str
    build: Callable[[int], Evidence]
    slow: bool = False


@dataclass(frozen=True)
class Row:
    """How often the cause of a case was named, and how often an alarm or a note named another one."""

    case: Case
    seeds: int
    named: int
    false_alarms: int
    false_notes: int

    def __str__(self) -> str:
        named = "-" if self.case.cause == "healthy" else str(self.named)
        cells = (self.case.cause, self.case.strength, named, self.false_alarms, self.false_notes)
        return f"| {' | '.join(map(str, cells))} |"


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
    Case("healthy", "Gaussian 1000 x 64", lambda seed: one_place(gaussian(random_numbers(seed)))),
    *(Case("healthy", f"power law, exponent {a:g}", bound(power_law, a)) for a in (0.5, 1.0, 2.0)),
    Case("healthy", "ReLU, pooled", pooled),
    Case("healthy", "augmentation of noise 0.3", bound(augmented, 0.3)),
    Case("healthy", "resnet10t, untrained", untrained, slow=True),
    Case("healthy", "subvector:24, trained", bound(trained, "subvector:24", 24), slow=True),
    Case("healthy", "reweight:1.05, trained", bound(trained, "reweight:1.05", None), slow=True),
)


def judge(case: Case, seeds: Iterable[int], show: bool = False) -> Row:
    """Diagnose one case for every seed."""
    named = alarms = notes = count = 0
    for seed in seeds:
        findings = find_causes(case.build(seed))
        others = [finding for finding in findings if finding.cause != case.cause]
        count += 1
        named += any(finding.cause == case.cause for finding in findings)
        alarms += _any(others, "alarm")
        notes += _any(others, "note")
        for finding in others if show else ():
            print(f"{case.strength}, seed {seed}: {finding.cause}: {finding.evidence}", file=sys.stderr)
    return Row(case, count, named, alarms, notes)


def _any(findings: Iterable[Finding], level: str) -> bool:
    return any(finding.level == level for finding in findings)


def header(seeds: range) -> str:
    """The first two lines of the table."""
    return f"| cause | strength | named of {len(seeds)} | false alarms | false notes |\n|---|---|---|---|---|"


def summary(rows: list[Row], seeds: range) -> str:
    """The totals of all rows."""
    ill = [row for row in rows if row.case.cause != "healthy"]
    named, of = sum(row.named for row in ill), sum(row.seeds for row in ill)
    alarms, all_ = sum(row.false_alarms for row in rows), sum(row.seeds for row in rows)
    notes = sum(row.false_notes for row in rows)
    return (
        f"Seeds {seeds[0]} to {seeds[-1]}: named {named} of {of} ({100 * named / of:.1f} %), false alarms "
        f"{alarms} of {all_} ({100 * alarms / all_:.1f} %), false notes {notes}."
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=100, help="the first seed")
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds")
    parser.add_argument("--quick", action="store_true", help="leave out the trained runs and the timm model")
    parser.add_argument("--show", action="store_true", help="print each false finding on stderr")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    cases = [case for case in CASES if not (arguments.quick and case.slow)]
    rows = []
    print(header(seeds))
    for case in cases:
        rows.append(judge(case, seeds, arguments.show))
        print(rows[-1], flush=True)
    print(f"\n{summary(rows, seeds)}")


if __name__ == "__main__":
    main()
