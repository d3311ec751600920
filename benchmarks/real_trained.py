"""The families of real cases that train nets."""

from collections.abc import Iterator
from functools import cache, partial

import torch
import torch.nn.functional as F
from real_families import pca_of
from real_sample import FEW_DIRECTIONS, RealCase, Sample
from real_training import (
    Images, Schedule, agree, contrast_linear, copied, effective_rank, images, jittered, read, supervise, through,
)
from torch import Tensor, nn

# Below this share of its healthy twin's effective rank, features have collapsed; up to _HURT nobody can say.
_COLLAPSED, _HURT = 0.25, 0.6


def timm_net(arch: str, seed: int, size: int = 32) -> nn.Module:
    """An untrained timm encoder for small images."""
    import timm

    small = {"img_size": size, "patch_size": size // 4, "depth": 4} if arch.startswith(("vit", "deit")) else {}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return timm.create_model(arch, num_classes=0, **small).eval()


def tiny(seed: int, size: int) -> nn.Module:
    """A small residual net for images of `size` pixels; D = 48."""
    from fullrank.encoders.tiny import TinyResNet

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return TinyResNet(12, image_size=size, in_chans=3, mean=(0.0,), std=(1.0,))


small_images = cache(images)


def judged(rank: float, twin: float) -> tuple[tuple[str, ...], str]:
    """The expected causes and the level, by the effective rank beside that of the healthy twin."""
    if rank < _COLLAPSED * twin:
        return FEW_DIRECTIONS, "alarm"
    return (FEW_DIRECTIONS, "ambiguous") if rank < _HURT * twin else ((), "none")


# Fine-tunings: architecture, data, seed, bad schedule, whether batch norms stay frozen.
_TUNED = {
    "fix": (
        ("vit_tiny_patch16_224", "digits", 0, Schedule("adam", 0.01, 60, 32), False),
        ("resnet10t", "digits", 0, Schedule("sgd", 0.3, 40, 32), True),
        ("mobilenetv3_small_050", "digits", 0, Schedule("adam", 0.1, 60, 32), False),
    ),
    "held": (
        ("convnext_atto", "fashion-mnist", 0, Schedule("adam", 0.03, 50, 32), False),
        ("vit_tiny_patch16_224", "fashion-mnist", 1, Schedule("adam", 0.03, 60, 32), False),
        ("resnet10t", "fashion-mnist", 1, Schedule("adam", 0.02, 40, 32), True),
        ("mobilenetv3_small_050", "fashion-mnist", 1, Schedule("adam", 0.1, 60, 32), False),
    ),
}


class Frozen(nn.Module):
    """An encoder whose batch norms stay in eval mode, as fine-tunings often have them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@cache
def tuned_well(arch: str, data: str, seed: int) -> tuple[nn.Module, nn.Module]:
    """A net after a few good steps, and its classifier."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        net = timm_net(arch, seed)
        classifier = nn.Linear(read(net, small_images(data, 32, 800, 600).test[:2]).shape[1], 10)
        supervise(net, classifier, small_images(data, 32, 800, 600), Schedule("adam", 1e-3, 40, 32),
                  torch.Generator().manual_seed(seed))
    return net, classifier


def finetune_family() -> Iterator[RealCase]:
    """Fine-tunings at too high a rate that end at chance, and the nets before."""
    def tuned(arch: str, data: str, seed: int, schedule: Schedule | None, frozen: bool) -> Sample:
        x = small_images(data, 32, 800, 600)
        good, classifier = tuned_well(arch, data, seed)
        twin = effective_rank(read(good, x.test))
        if schedule is None:
            # Rectified channels may be idle on these images.
            return Sample({"h": read(good, x.test)}, accepted=("dead-channels",), measured=f"er {twin:.1f}",
                          labels=x.test_labels)
        net, classifier = copied(good), copied(classifier)
        net = Frozen(net) if frozen else net
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            supervise(net, classifier, x, schedule, torch.Generator().manual_seed(seed + 1))
        h = read(net, x.test)
        loss = float(F.cross_entropy(classifier(h), x.test_labels))
        accuracy = float((classifier(h).argmax(1) == x.test_labels).float().mean())
        rank = effective_rank(h)
        expected, level = judged(rank, twin)
        if accuracy > 0.3 and expected:
            level = "ambiguous"
        said = f"loss {loss:.2f}, accuracy {accuracy:.2f}, er {rank:.2f}, before {twin:.1f}"
        return Sample({"h": h}, expected, level, ("dead-channels", "mean-dominance"), said, labels=x.test_labels)

    for half, runs in _TUNED.items():
        for arch, data, seed, schedule, frozen in runs:
            name = arch.split("_")[0]
            yield RealCase("finetune", f"{name}-high", half, partial(tuned, arch, data, seed, schedule, frozen))
            yield RealCase("finetune", f"{name}-good", half, partial(tuned, arch, data, seed, None, frozen))


def mlp(width: int, hidden: int, layers: int, seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        sizes = [width, *[hidden] * layers]
        return nn.Sequential(*[m for i in range(layers) for m in (nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU())])


def dead_family() -> Iterator[RealCase]:
    """MLPs on pixels, whose ReLUs die at too high a rate."""
    def run(data: str, layers: int, rate: float, seed: int) -> Sample:
        x = small_images(data, 16, 800, 800)
        flat = Images(x.train.mean(1).flatten(1), x.train_labels, x.test.mean(1).flatten(1), x.test_labels)
        net = mlp(256, 96, layers, seed)
        torch.manual_seed(seed)
        classifier = nn.Linear(96, 10)
        supervise(net, classifier, flat, Schedule("sgd", rate, 200), torch.Generator().manual_seed(seed))
        h = read(net, flat.test)
        dead = float((h == h[0]).all(0).float().mean())
        accuracy = float((classifier(h).argmax(1) == x.test_labels).float().mean())
        said = f"dead {dead:.2f}, accuracy {accuracy:.2f}, er {effective_rank(h):.2f}"
        if dead > 0.95:
            return Sample({"h": h}, ("dead-channels", "complete-collapse"), "alarm", FEW_DIRECTIONS, said, x.test_labels)
        if dead > 0.05:
            # Above 0.6 the channels cannot be idle by chance.
            level = "alarm" if dead > 0.6 else "any"
            return Sample({"h": h}, ("dead-channels",), level, FEW_DIRECTIONS if dead > 0.6 else (), said, x.test_labels)
        return Sample({"h": h}, (), "none", ("dead-channels",), said, x.test_labels)

    for half, data, rates in (("fix", "digits", (0.05, 0.15, 0.2, 0.3)), ("held", "fashion-mnist", (0.03, 0.1, 0.2, 0.25))):
        for layers in (2, 4):
            for rate in rates:
                yield RealCase("dead", f"mlp{layers}-rate{rate:g}", half, partial(run, data, layers, rate, layers))


def norms_family() -> Iterator[RealCase]:
    """Nets whose batch norms have running statistics of something else."""
    def trained(data: str, seed: int, half: str) -> tuple[nn.Module, nn.Module, Images]:
        return _normed(data, seed)

    def run(data: str, seed: int, fault: str) -> Sample:
        good, classifier, x = _normed(data, seed)
        net = copied(good)
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        with torch.no_grad():
            if fault == "reset":
                for norm in norms:
                    norm.reset_running_stats()
            elif fault == "one-layer":
                norms[len(norms) // 2].running_var.mul_(400)
            elif fault == "bytes":  # statistics of images from 0 to 255 in place of standardised ones
                _estimate(net, norms, x.train * 80 + 80)
            elif fault == "zeros":
                for norm in norms:
                    norm.running_var.mul_(1e-3)
        h = read(net, x.test)
        by_batch = copied(net).train()
        with torch.no_grad():
            own = by_batch(x.test)
        right = [float((classifier(each).argmax(1) == x.test_labels).float().mean()) for each in (h, own)]
        said = f"accuracy {right[0]:.2f}, with batch statistics {right[1]:.2f}, er {effective_rank(h):.2f} ({effective_rank(own):.2f})"
        faulty = fault != "none"
        return Sample({"h": h}, ("batch-statistics",) if faulty else (), "any" if faulty else "none",
                      ("dead-channels", "mean-dominance", *FEW_DIRECTIONS) if faulty else ("dead-channels",), said,
                      labels=x.test_labels, model=(net, x.test[:256]))

    for half, data, seed, faults in (
        ("fix", "digits", 0, ("none", "reset", "one-layer", "bytes")),
        ("held", "fashion-mnist", 1, ("none", "reset", "zeros", "bytes")),
    ):
        for fault in faults:
            yield RealCase("norms", fault, half, partial(run, data, seed, fault))


@cache
def _normed(data: str, seed: int) -> tuple[nn.Module, nn.Module, Images]:
    x, net = small_images(data, 16, 800, 800), tiny(seed, 16)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        classifier = nn.Linear(48, 10)
        supervise(net, classifier, x, Schedule("adam", 3e-3, 100), torch.Generator().manual_seed(seed))
    return net, classifier, x


@torch.no_grad()
def _estimate(net: nn.Module, norms: list[nn.BatchNorm2d], x: Tensor) -> None:
    """Running statistics estimated on other images."""
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    net.train()
    for batch in x.split(100):
        net(batch)
    net.eval()


def align_family() -> Iterator[RealCase]:
    """Positive pairs only, from the start or late, beside InfoNCE."""
    def run(data: str, head: str, seed: int, plan: tuple[tuple[float, int], ...]) -> Sample:
        net, x = _aligned(data, head, seed, plan)
        h, z = read(net[0], x.test), read(net, x.test)
        twin_net, _ = _aligned(data, head, seed, ((1.0, 150),))
        ranks, twin = effective_rank(z), effective_rank(read(twin_net, x.test))
        expected, level = judged(ranks, twin) if plan != ((1.0, 150),) else ((), "none")
        said = f"er of z {ranks:.2f}, twin {twin:.2f}, h {effective_rank(h):.2f}, cosine {mean_cosine(z):.3f}"
        generator = torch.Generator().manual_seed(9)
        sides = [jittered(x.test, 0.5, generator) for _ in range(2)]
        views = {"h": tuple(read(net[0], s) for s in sides), "z": tuple(read(net, s) for s in sides)}
        # The rank of z may be low because of augmentation or the head too, and h may follow z.
        accepted = ("augmentation", "implicit-regularisation", "mean-dominance", "dead-channels") if expected else ("dead-channels",)
        return Sample({"h": h, "z": z}, expected, level, accepted, said, labels=x.test_labels, views=views,
                      supervised=False, temperature=0.2)

    plans = {
        "infonce": ((1.0, 150),),
        "align": ((0.0, 150),),
        "late": ((1.0, 100), (0.0, 100)),
        "weak": ((0.02, 150),),
    }
    for half, data, seed in (("fix", "digits", 0), ("held", "fashion-mnist", 1)):
        for head in ("linear", "mlp"):
            for name, plan in plans.items():
                yield RealCase("align", f"{name}-{head}", half, partial(run, data, head, seed, plan))


@cache
def _aligned(data: str, head: str, seed: int, plan: tuple[tuple[float, int], ...]) -> tuple[nn.Sequential, Images]:
    x = small_images(data, 8, 800, 800)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        last = nn.Linear(48, 32)
        top = last if head == "linear" else nn.Sequential(nn.Linear(48, 48), nn.BatchNorm1d(48), nn.ReLU(), last)
        net = nn.Sequential(tiny(seed, 8), top)
        generator = torch.Generator().manual_seed(seed)
        for weight, steps in plan:
            agree(net, x, Schedule("adam", 3e-3, steps), generator, weight=weight)
    return net, x


def mean_cosine(x: Tensor) -> float:
    return float(F.normalize(x, dim=1).mean(0).square().sum())


def augment_family() -> Iterator[RealCase]:
    """InfoNCE on real features whose augmentation is noise that is stronger than the signal in some directions."""
    def run(data: str, head: str, strength: float) -> Sample:
        x = pca_of(data)[0]
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
        weaker = ranks[0] < 0.75 * ranks[1]
        level = "any" if weaker else "none"
        if strength < 1:
            level, weaker = "none", False
        return Sample(places, ("augmentation",) if weaker else (), level, ("dead-channels", "unexplained-low-rank") if weaker else ("dead-channels",), said, views=views,
                      supervised=False, temperature=0.1)

    for half, data, strengths in (("fix", "digits", (0.1, 1.5, 3.0)), ("held", "fashion-mnist", (0.2, 2.0, 4.0))):
        for head in ("linear", "mlp2", "mlp3"):
            for strength in strengths:
                yield RealCase("augment", f"{head}-noise{strength:g}", half, partial(run, data, head, strength))


@cache
def _contrasted(data: str, head: str, noise: tuple[float, ...]) -> tuple[nn.Module, torch.Generator]:
    from fullrank.objectives.contrastive import info_nce

    x, sigma = pca_of(data)[0], torch.tensor(noise)
    layers = 1 if head == "linear" else int(head[3:])
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(5)
        steps_: list[nn.Module] = []
        for layer in range(layers):
            steps_ += [nn.Linear(40, 40, bias=False)]
            steps_ += [nn.BatchNorm1d(40), nn.ReLU()] if layer < layers - 1 else []
        net = nn.Sequential(*steps_)
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
        x = pca_of(data)[0]
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
        lower = layers > 1 and ranks[0] < _HURT * ranks[1]
        level = "any" if lower else "none"
        return Sample(places, ("implicit-regularisation",) if lower else (), level,
                      ("unexplained-low-rank", "dimensional-collapse") if lower else (), said, views=views, stacked=kept,
                      supervised=False, temperature=0.1)

    for half, data, depths in (("fix", "digits", (1, 2, 4, 8)), ("held", "fashion-mnist", (1, 3, 5, 10))):
        for layers in depths:
            for scale in (0.3, 1.0):
                yield RealCase("stack", f"depth{layers}-scale{scale:g}", half, partial(run, data, layers, scale, layers))


_TIMM = {
    "fix": ("resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224", "regnetx_002", "convnext_atto", "ghostnet_050"),
    "held": ("resnet18", "tinynet_e", "lcnet_035", "edgenext_xx_small", "repvgg_a0", "mixnet_s", "efficientnet_b0"),
}
_HEADS = {
    "fix": ("none", "mlp:32", "subvector:24", "reweight:1.05", "diagonal"),
    "held": ("linear:32", "orthogonal", "lowrank:24", "random-subvector:24", "mlp:48,layers=3"),
}
_OBJECTIVES = {
    "fix": ("ntxent:0.2", "vicreg", "supcon:0.1"),
    "held": ("infonce:0.1", "barlow-twins", "spectral", "cross-entropy"),
}


def untrained_family() -> Iterator[RealCase]:
    """Untrained timm encoders. Their features are narrow, and nothing of it is a fault."""
    def run(arch: str, data: str) -> Sample:
        x = small_images(data, 32, 800, 600)
        h = read(timm_net(arch, 0), x.test)
        said = f"er {effective_rank(h):.1f} of {h.shape[1]}, cosine {mean_cosine(h):.3f}"
        return Sample({"h": h}, (), "none", (), said, labels=x.test_labels, trained=False)

    for half, archs in _TIMM.items():
        for arch in archs:
            yield RealCase("untrained", arch.replace("_patch16_224", ""), half, partial(run, arch, HALF_DATA[half]))


HALF_DATA = {"fix": "digits", "held": "fashion-mnist"}


def healthy_family() -> Iterator[RealCase]:
    """Short good runs of every head with InfoNCE, and of every objective with an MLP."""
    def run(data: str, head_spec: str, objective_spec: str) -> Sample:
        from fullrank.diagnosis.imposed import imposed_rank
        from fullrank.heads import head as build_head
        from fullrank.objectives import needs, objective

        x = small_images(data, 8, 800, 800)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(3)
            net, top = tiny(3, 8), build_head(head_spec, in_dim=48)
            width = 48 if top is None else top(torch.randn(4, 48)).shape[1]
            loss = objective(objective_spec, in_dim=width, num_classes=10)
            generator = torch.Generator().manual_seed(3)
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
        return Sample({"h": h, "z": z}, (), "none", ("dead-channels",), said, labels=x.test_labels,
                      supervised=labelled, imposed={} if rank is None else {"z": rank})

    for half, data in HALF_DATA.items():
        for spec in _HEADS[half]:
            yield RealCase("healthy", f"head-{spec.replace(':', '').replace(',', '-')}", half, partial(run, data, spec, "infonce:0.2"))
        for spec in _OBJECTIVES[half]:
            yield RealCase("healthy", f"loss-{spec.replace(':', '')}", half, partial(run, data, "mlp:32", spec))
