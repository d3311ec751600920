"""Real cases of training on two views: alignment alone, strong augmentation, deep stacks, and good runs."""

from collections.abc import Iterator
from functools import cache, partial

import torch
from real_features import principal
from real_sample import RealCase, Sample
from real_training import (
    HALVES,
    Images,
    Schedule,
    agree,
    contrast_linear,
    effective_rank,
    images,
    jittered,
    judged,
    lowered,
    mean_cosine,
    read,
    through,
    tiny,
)
from torch import nn

from fullrank.diagnosis.imposed import imposed_rank
from fullrank.heads import head as build_head
from fullrank.objectives import needs, objective
from fullrank.objectives.contrastive import info_nce

_HEADS = {
    "fix": ("none", "mlp:32", "subvector:24", "reweight:1.05", "diagonal"),
    "held": ("linear:32", "orthogonal", "lowrank:24", "random-subvector:24", "mlp:48,layers=3"),
    "fresh": ("linear:24", "mlp:40", "subvector:16", "mlp:32,layers=3", "lowrank:20"),
}
_OBJECTIVES = {
    "fix": ("ntxent:0.2", "vicreg", "supcon:0.1"),
    "held": ("infonce:0.1", "barlow-twins", "spectral", "cross-entropy"),
    "fresh": ("ntxent:0.5", "vicreg", "barlow-twins", "supcon:0.2"),
}


def align_family() -> Iterator[RealCase]:
    """Positive pairs only, from the start or late, beside InfoNCE."""

    def run(data: str, head: str, seed: int, plan: tuple[tuple[float, int], ...]) -> Sample:
        net, x = _aligned(data, head, seed, plan)
        h, z = read(net[0], x.test), read(net, x.test)
        twin_net, _ = _aligned(data, head, seed, ((1.0, 150),))
        ranks, twin = effective_rank(z), effective_rank(read(twin_net, x.test))
        expected, level = judged(ranks, twin) if plan != ((1.0, 150),) else ((), "none")
        said = f"er of z {ranks:.2f}, twin {twin:.2f}, h {effective_rank(h):.2f}, cosine {mean_cosine(z):.3f}"
        # A loss of cosines ends where all rows have one direction.
        expected = (*expected, "mean-dominance") if expected else ()
        accepted = ("dead-channels",) if not expected else ("implicit-regularisation", "dead-channels")
        return Sample(
            {"h": h, "z": z},
            expected,
            level,
            accepted,
            said,
            labels=x.test_labels,
            supervised=False,
            temperature=0.2,
        )

    plans = {
        "infonce": ((1.0, 150),),
        "align": ((0.0, 150),),
        "late": ((1.0, 100), (0.0, 100)),
        "weak": ((0.02, 150),),
    }
    for half, data, seed in (
        ("fix", "digits", 0),
        ("held", "fashion-mnist", 1),
        ("fresh", "fashion-mnist", 7),
    ):
        for head in ("linear", "mlp"):
            for name, plan in plans.items():
                yield RealCase("align", f"{name}-{head}", half, partial(run, data, head, seed, plan))


@cache
def _aligned(
    data: str, head: str, seed: int, plan: tuple[tuple[float, int], ...]
) -> tuple[nn.Sequential, Images]:
    x = images(data, 8, 800, 800)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        last = nn.Linear(48, 32)
        top = (
            last
            if head == "linear"
            else nn.Sequential(nn.Linear(48, 48), nn.BatchNorm1d(48), nn.ReLU(), last)
        )
        net = nn.Sequential(tiny(seed, 8), top)
        generator = torch.Generator().manual_seed(seed)
        for weight, steps in plan:
            agree(net, x, Schedule("adam", 3e-3, steps), generator, weight=weight)
    return net, x


def augment_family() -> Iterator[RealCase]:
    """InfoNCE on real features, with noise on half of the directions that is stronger than the data."""

    def run(data: str, head: str, strength: float) -> Sample:
        x = principal(data)[0]
        noise = torch.cat([torch.full((20,), 0.1), torch.full((20,), strength)])
        twin = torch.full((40,), 0.1)
        z, ranks = {}, []
        for sigma in (noise, twin):
            net, generator = _contrasted(data, head, tuple(sigma.tolist()))
            z = read(net, x)
            ranks.append(effective_rank(z))
            if sigma is noise:
                sides = [x[:600] + sigma * torch.randn(600, 40, generator=generator) for _ in range(2)]
                places = {"h": x, "z": z}
                views = {"h": tuple(sides), "z": tuple(read(net, s) for s in sides)}
        said = f"er of z {ranks[0]:.2f}, twin {ranks[1]:.2f}"
        expected, level = lowered("augmentation", *ranks) if strength >= 1 else ((), "none")
        return Sample(
            places,
            expected,
            level,
            ("dead-channels", "unexplained-low-rank") if expected else ("dead-channels",),
            said,
            views=views,
            supervised=False,
            temperature=0.1,
        )

    for half, data, strengths in (
        ("fix", "digits", (0.1, 1.5, 3.0)),
        ("held", "fashion-mnist", (0.2, 2.0, 4.0)),
        ("fresh", "fashion-mnist", (0.3, 2.5, 5.0)),
    ):
        for head in ("linear", "mlp2", "mlp3"):
            for strength in strengths:
                yield RealCase(
                    "augment", f"{head}-noise{strength:g}", half, partial(run, data, head, strength)
                )


@cache
def _contrasted(data: str, head: str, noise: tuple[float, ...]) -> tuple[nn.Module, torch.Generator]:
    x, sigma = principal(data)[0], torch.tensor(noise)
    layers = 1 if head == "linear" else int(head[3:])
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(5)
        modules: list[nn.Module] = []
        for layer in range(layers):
            modules += [nn.Linear(40, 40, bias=False)]
            modules += [nn.BatchNorm1d(40), nn.ReLU()] if layer < layers - 1 else []
        net = nn.Sequential(*modules)
    step = torch.optim.Adam(net.parameters(), 0.01)
    net.train()
    for _ in range(400):
        rows = x[torch.randint(len(x), (128,), generator=generator)]
        a, b = (net(rows + sigma * torch.randn(rows.shape, generator=generator)) for _ in range(2))
        step.zero_grad()
        info_nce(a, b, 0.1).backward()
        step.step()
    return net.eval(), generator


def stack_family() -> Iterator[RealCase]:
    """InfoNCE through deep linear stacks on real features, from small weights (P1, Section 5)."""

    def run(data: str, layers: int, scale: float, seed: int) -> Sample:
        x = principal(data)[0]
        noise = torch.full((40,), 0.1)
        generator = torch.Generator().manual_seed(seed)
        ranks = []
        for depth in (layers, 1):
            maps = [scale * torch.randn(40, 40, generator=generator) / 40**0.5 for _ in range(depth)]
            maps = contrast_linear(x, maps, noise, Schedule("sgd", 0.1, 400, 128), generator)
            z = through(x, maps)
            ranks.append(effective_rank(z))
            if depth == layers:
                sides = [x[:600] + noise * torch.randn(600, 40, generator=generator) for _ in range(2)]
                places = {"h": x, "z": z}
                views = {"h": tuple(sides), "z": tuple(through(s, maps) for s in sides)}
                kept = tuple(maps)
        said = f"er of z {ranks[0]:.2f}, one layer {ranks[1]:.2f}"
        expected, level = lowered("implicit-regularisation", *ranks) if layers > 1 else ((), "none")
        return Sample(
            places,
            expected,
            level,
            ("unexplained-low-rank", "dimensional-collapse") if expected else (),
            said,
            views=views,
            stacked=kept,
            supervised=False,
            temperature=0.1,
        )

    for half, data, depths in (
        ("fix", "digits", (1, 2, 4, 8)),
        ("held", "fashion-mnist", (1, 3, 5, 10)),
        ("fresh", "fashion-mnist", (1, 4, 6, 9)),
    ):
        for layers in depths:
            for scale in (0.3, 1.0):
                yield RealCase(
                    "stack", f"depth{layers}-scale{scale:g}", half, partial(run, data, layers, scale, layers)
                )


def healthy_family() -> Iterator[RealCase]:
    """Short good runs of every head with InfoNCE, and of every objective with an MLP."""

    def run(data: str, seed: int, head_spec: str, objective_spec: str) -> Sample:
        x = images(data, 8, 800, 800)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            net, top = tiny(seed, 8), build_head(head_spec, in_dim=48)
            width = 48 if top is None else top(torch.randn(4, 48)).shape[1]
            loss = objective(objective_spec, in_dim=width, num_classes=10)
            generator = torch.Generator().manual_seed(seed)
            step = torch.optim.AdamW([*net.parameters(), *top.parameters(), *loss.parameters()], 3e-3)
            labelled = "labels" in needs(objective_spec)
            net.train(), top.train()
            for _ in range(120):
                rows = torch.randint(len(x.train), (64,), generator=generator)
                views = torch.cat([jittered(x.train[rows], 0.5, generator) for _ in range(2)])
                a, b = top(net(views)).chunk(2)
                extra = {"labels": x.train_labels[rows]} if labelled else {}
                step.zero_grad()
                loss(a, b, **extra).backward()
                step.step()
            net.eval(), top.eval()
            h = read(net, x.test)
            z = read(top, h)
        rank = imposed_rank(top, "z", None)
        said = f"er of h {effective_rank(h):.1f}, of z {effective_rank(z):.1f}"
        return Sample(
            {"h": h, "z": z},
            (),
            "none",
            ("dead-channels",),
            said,
            labels=x.test_labels,
            supervised=labelled,
            imposed={} if rank is None else {"z": rank},
        )

    for half, data in (*HALVES.items(), ("fresh", "fashion-mnist")):
        seed = 8 if half == "fresh" else 3
        for spec in _HEADS[half]:
            yield RealCase(
                "healthy",
                f"head-{spec.replace(':', '').replace(',', '-')}",
                half,
                partial(run, data, seed, spec, "infonce:0.2"),
            )
        for spec in _OBJECTIVES[half]:
            yield RealCase(
                "healthy",
                f"loss-{spec.replace(':', '')}",
                half,
                partial(run, data, seed, "mlp:32", spec),
            )
