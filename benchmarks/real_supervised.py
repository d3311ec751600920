"""Real cases of supervised nets: fine-tunings at chance, dead ReLUs, batch norms, and untrained encoders."""

from collections.abc import Iterator
from functools import cache, partial

import torch
import torch.nn.functional as F
from real_sample import FEW_DIRECTIONS, RealCase, Sample
from real_training import (
    HALVES,
    Images,
    Schedule,
    copied,
    effective_rank,
    images,
    judged,
    mean_cosine,
    read,
    supervise,
    tiny,
)
from torch import Tensor, nn

# A dead layer makes rows that are zero, or equal to others.
_OF_DEAD = ("zero-rows", "duplicate-rows")
# What may be noted of an encoder that nobody trained.
_OF_UNTRAINED = ("dead-channels", "mean-dominance", *FEW_DIRECTIONS)


def timm_net(arch: str, seed: int, size: int = 32) -> nn.Module:
    """An untrained timm encoder for small images."""
    import timm

    small = (
        {"img_size": size, "patch_size": size // 4, "depth": 4} if arch.startswith(("vit", "deit")) else {}
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return timm.create_model(arch, num_classes=0, **small).eval()


# Fine-tunings: architecture, data, seed, bad schedule, whether batch norms stay frozen.
_TUNED = {
    "fix": (
        ("vit_tiny_patch16_224", "digits", 0, Schedule("adam", 0.01, 60, 32), False),
        ("resnet10t", "digits", 0, Schedule("adam", 0.01, 40, 32), True),
        ("mobilenetv3_small_050", "digits", 0, Schedule("adam", 0.1, 60, 32), False),
    ),
    "held": (
        ("convnext_atto", "fashion-mnist", 0, Schedule("adam", 0.03, 50, 32), False),
        ("vit_tiny_patch16_224", "fashion-mnist", 1, Schedule("adam", 0.03, 60, 32), False),
        ("resnet10t", "fashion-mnist", 1, Schedule("adam", 0.02, 40, 32), True),
        ("mobilenetv3_small_050", "fashion-mnist", 1, Schedule("adam", 0.1, 60, 32), False),
    ),
    "fresh": (
        ("resnet10t", "fashion-mnist", 4, Schedule("adam", 0.03, 40, 32), True),
        ("mobilenetv3_small_050", "digits", 4, Schedule("adam", 0.15, 60, 32), False),
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
        classifier = nn.Linear(read(net, images(data, 32, 800, 600).test[:2]).shape[1], 10)
        supervise(
            net,
            classifier,
            images(data, 32, 800, 600),
            Schedule("adam", 1e-3, 40, 32),
            torch.Generator().manual_seed(seed),
        )
    return net, classifier


def finetune_family() -> Iterator[RealCase]:
    """Fine-tunings at too high a rate that end at chance, and the nets before."""

    def tuned(arch: str, data: str, seed: int, schedule: Schedule | None, frozen: bool) -> Sample:
        x = images(data, 32, 800, 600)
        good, classifier = tuned_well(arch, data, seed)
        twin = effective_rank(read(good, x.test))
        if schedule is None:
            h = read(good, x.test)
            accuracy = float((classifier(h).argmax(1) == x.test_labels).float().mean())
            said = f"accuracy {accuracy:.2f}, er {twin:.1f}"
            # Below one half, nobody can say whether the few steps were good.
            if accuracy < 0.5:
                return Sample({"h": h}, FEW_DIRECTIONS, "ambiguous", _OF_UNTRAINED, said, x.test_labels)
            return Sample({"h": h}, (), "none", ("dead-channels",), said, x.test_labels)
        net, classifier = copied(good), copied(classifier)
        net = Frozen(net) if frozen else net
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            supervise(net, classifier, x, schedule, torch.Generator().manual_seed(seed + 1))
        h = read(net, x.test)
        loss = float(F.cross_entropy(classifier(h), x.test_labels).detach())
        accuracy = float((classifier(h).argmax(1) == x.test_labels).float().mean())
        rank = effective_rank(h)
        # At chance, half of the rank is enough: nothing of the classes is left.
        at_chance = accuracy < 0.2 and rank < 0.5 * twin
        expected, level = (FEW_DIRECTIONS, "alarm") if at_chance else judged(rank, twin)
        if (accuracy > 0.3 and expected) or (accuracy < 0.5 and not expected):
            level = "ambiguous"
        said = f"loss {loss:.2f}, accuracy {accuracy:.2f}, er {rank:.2f}, before {twin:.1f}"
        return Sample(
            {"h": h}, expected, level, ("dead-channels", "mean-dominance"), said, labels=x.test_labels
        )

    for half, runs in _TUNED.items():
        for arch, data, seed, schedule, frozen in runs:
            name = arch.split("_")[0]
            yield RealCase(
                "finetune", f"{name}-high", half, partial(tuned, arch, data, seed, schedule, frozen)
            )
            yield RealCase("finetune", f"{name}-good", half, partial(tuned, arch, data, seed, None, frozen))


def mlp(width: int, hidden: int, layers: int, seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        sizes = [width, *[hidden] * layers]
        return nn.Sequential(
            *[m for i in range(layers) for m in (nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU())]
        )


def dead_family() -> Iterator[RealCase]:
    """MLPs on pixels, whose ReLUs die at too high a rate."""

    def run(data: str, layers: int, rate: float, seed: int) -> Sample:
        x = images(data, 16, 800, 800)
        flat = Images(x.train.mean(1).flatten(1), x.train_labels, x.test.mean(1).flatten(1), x.test_labels)
        net = mlp(256, 96, layers, seed)
        torch.manual_seed(seed)
        classifier = nn.Linear(96, 10)
        supervise(net, classifier, flat, Schedule("sgd", rate, 200), torch.Generator().manual_seed(seed))
        h = read(net, flat.test)
        dead = float((h == h[0]).all(0).float().mean())
        accuracy = float((classifier(h).argmax(1) == x.test_labels).float().mean())
        said = f"dead {dead:.2f}, accuracy {accuracy:.2f}, er {effective_rank(h):.2f}"
        few = (*FEW_DIRECTIONS, *_OF_DEAD)
        if dead > 0.95:
            expected = ("dead-channels", "complete-collapse")
            return Sample({"h": h}, expected, "alarm", few, said, x.test_labels)
        if dead > 0.6:  # so many cannot be idle by chance
            return Sample({"h": h}, ("dead-channels",), "alarm", few, said, x.test_labels)
        if dead > 0.05:
            return Sample({"h": h}, ("dead-channels",), "any", _OF_DEAD, said, x.test_labels)
        return Sample({"h": h}, (), "none", ("dead-channels",), said, x.test_labels)

    for half, data, rates in (
        ("fix", "digits", (0.05, 0.15, 0.2, 0.3)),
        ("held", "fashion-mnist", (0.03, 0.1, 0.2, 0.25)),
        ("fresh", "fashion-mnist", (0.02, 0.12, 0.22, 0.28)),
    ):
        for layers in (2, 4):
            for rate in rates:
                yield RealCase(
                    "dead",
                    f"mlp{layers}-rate{rate:g}",
                    half,
                    partial(run, data, layers, rate, layers + 10 * (half == "fresh")),
                )


def norms_family() -> Iterator[RealCase]:
    """Nets whose batch norms have running statistics of something else."""

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
        ranks = f"er {effective_rank(h):.2f} ({effective_rank(own):.2f})"
        said = f"accuracy {right[0]:.2f}, with batch statistics {right[1]:.2f}, {ranks}"
        faulty = fault != "none"
        return Sample(
            {"h": h},
            ("batch-statistics",) if faulty else (),
            "any" if faulty else "none",
            ("dead-channels", "mean-dominance", *FEW_DIRECTIONS) if faulty else ("dead-channels",),
            said,
            labels=x.test_labels,
            model=(net, x.test[:256]),
        )

    for half, data, seed, faults in (
        ("fix", "digits", 0, ("none", "reset", "one-layer", "bytes")),
        ("held", "fashion-mnist", 1, ("none", "reset", "zeros", "bytes")),
        ("fresh", "fashion-mnist", 5, ("none", "reset", "one-layer", "zeros")),
    ):
        for fault in faults:
            yield RealCase("norms", fault, half, partial(run, data, seed, fault))


@cache
def _normed(data: str, seed: int) -> tuple[nn.Module, nn.Module, Images]:
    x, net = images(data, 16, 800, 800), tiny(seed, 16)
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


_TIMM = {
    "fix": (
        "resnet10t",
        "mobilenetv3_small_050",
        "vit_tiny_patch16_224",
        "regnetx_002",
        "convnext_atto",
        "ghostnet_050",
    ),
    "held": (
        "resnet18",
        "tinynet_e",
        "lcnet_035",
        "edgenext_xx_small",
        "repvgg_a0",
        "mixnet_s",
        "efficientnet_b0",
    ),
    "fresh": ("mobilenetv2_035", "regnety_002", "lcnet_050"),
}


def untrained_family() -> Iterator[RealCase]:
    """Untrained timm encoders. Their features are narrow, and nothing of it is a fault."""

    def run(arch: str, data: str) -> Sample:
        x = images(data, 32, 800, 600)
        h = read(timm_net(arch, 0), x.test)
        said = f"er {effective_rank(h):.1f} of {h.shape[1]}, cosine {mean_cosine(h):.3f}"
        return Sample({"h": h}, (), "none", _OF_UNTRAINED, said, labels=x.test_labels, trained=False)

    for half, archs in _TIMM.items():
        data = HALVES.get(half, "digits")
        for arch in archs:
            yield RealCase(
                "untrained",
                arch.replace("_patch16_224", ""),
                half,
                partial(run, arch, data),
            )
