"""Two nets on the same images whose relation is known: features of real nets and real trainings.

    uv run --group benchmark python benchmarks/beside_cases.py FOLDER

Writes one file per case with `a` (N, D), `b` (N, E), `labels` (N,), the words that a comparison of b with a
may end in (`expected`) and what settles them (`measured`). Cases of `fix` may be used to choose thresholds;
those of `held` have other data and other seeds. What is expected follows from what was done. After a training
it follows from the effective rank and from the accuracy of scikit-learn's logistic regression.
"""

import argparse
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from real_sample import Half
from real_supervised import Frozen, timm_net
from real_training import (
    COLLAPSED,
    HURT,
    Images,
    Schedule,
    agree,
    copied,
    effective_rank,
    images,
    read,
    supervise,
    tiny,
)
from torch import Tensor, nn

DATA = {"fix": "digits", "held": "fashion-mnist"}
SEED = {"fix": 0, "held": 7}
# Differences in accuracy above this are real on 900 rows; below half of it they are not.
APART = 0.06
GOOD, UNLIKE = Schedule("adam", 1e-3, 60, 64), ("drifted", "not told apart")
# Architecture, whether batch norms stay frozen, and the rate that ruins it.
_RUINED = (("tiny", True, 0.3), ("resnet10t", True, 0.02))

Pair = tuple[Tensor, Tensor]


def shown(half: Half) -> Images:
    """The images of a half: 800 to train on and 900 to compare on."""
    return images(DATA[half], 16, 800, 900)


@cache
def start(arch: str, half: Half, seed: int = 0, steps: int = 60) -> tuple[nn.Module, nn.Module]:
    """A net after a short supervised training, and its classifier."""
    seed += SEED[half]
    net = tiny(seed, 16) if arch == "tiny" else timm_net(arch, seed, 16)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        classifier = nn.Linear(read(net, shown(half).test[:2]).shape[1], 10)
        schedule = Schedule("adam", 1e-3, steps, 64)
        supervise(net, classifier, shown(half), schedule, torch.Generator().manual_seed(seed))
    return net, classifier


def tuned(arch: str, half: Half, schedule: Schedule, *, frozen: bool = False, noise: float = 0) -> nn.Module:
    """A net that goes on from its start, on labels of which a share is replaced by chance."""
    net, classifier = map(copied, start(arch, half))
    x, generator = shown(half), torch.Generator().manual_seed(SEED[half] + 1)
    chance = torch.rand(len(x.train), generator=generator) < noise
    labels = torch.where(chance, torch.randint(10, (len(x.train),), generator=generator), x.train_labels)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(SEED[half])
        moved = Frozen(net) if frozen else net
        supervise(moved, classifier, Images(x.train, labels, x.test, x.test_labels), schedule, generator)
    return net


def of_tuned(arch: str, half: Half, schedule: Schedule, frozen: bool = False, noise: float = 0) -> Pair:
    x = shown(half).test
    net = tuned(arch, half, schedule, frozen=frozen, noise=noise)
    return read(start(arch, half)[0], x), read(net, x)


def of_aligned(half: Half, weight: float, steps: int) -> Pair:
    """A contrastive start, and the same net after more steps with the negatives weighted by `weight`."""
    x, generator = shown(half), torch.Generator().manual_seed(SEED[half])
    net = tiny(SEED[half] + 3, 16)
    agree(net, x, Schedule("adam", 3e-3, 80, 64), generator, 0.5)
    before = read(net, x.test)
    agree(net, x, Schedule("adam", 1e-2, steps, 64), generator, weight)
    return before, read(net, x.test)


def of_seeds(half: Half) -> Pair:
    return read(start("tiny", half)[0], shown(half).test), read(start("tiny", half, 11)[0], shown(half).test)


def of_epochs(half: Half) -> Pair:
    """A checkpoint early in a training and one at its end."""
    x = shown(half).test
    return read(start("tiny", half, 0, 15)[0], x), read(start("tiny", half, 0, 120)[0], x)


def of_training(half: Half) -> Pair:
    """The untrained net, and the trained one."""
    return read(tiny(SEED[half], 16), shown(half).test), read(
        start("tiny", half, 0, 120)[0], shown(half).test
    )


def of_random(half: Half) -> Pair:
    a, b = (read(timm_net("resnet18", seed + SEED[half], 16), shown(half).test) for seed in (0, 1))
    return a, b


def of_rotation(half: Half, channels: bool) -> Pair:
    """A net and the same net after an orthogonal layer, or with its channels in another order."""
    a = read(start("tiny", half)[0], shown(half).test)
    generator = torch.Generator().manual_seed(5)
    if channels:
        return a, a[:, torch.randperm(a.shape[1], generator=generator)]
    return a, a @ torch.linalg.qr(torch.randn(a.shape[1], a.shape[1], generator=generator)).Q


def of_itself(half: Half) -> Pair:
    a = read(start("tiny", half)[0], shown(half).test)
    return a, a.clone()


def judged(a: Tensor, b: Tensor, labels: Tensor) -> tuple[tuple[str, ...], str]:
    """The words that fit what a training did to features, by effective rank and accuracy."""
    ranks, right = [effective_rank(each) for each in (a, b)], [_accuracy(each, labels) for each in (a, b)]
    share, gain = ranks[1] / ranks[0], right[1] - right[0]
    words: tuple[str, ...] = UNLIKE
    if share < COLLAPSED and gain < -APART:
        words = ("collapsed",)
    elif share < HURT and gain < -APART:
        words = ("collapsed", "worse")
    elif gain < -APART / 2:
        words = ("worse",) if gain < -APART else ("worse", *UNLIKE)
    elif gain > APART / 2:
        words = ("better",) if gain > APART else ("better", *UNLIKE)
    said = f"er {ranks[0]:.1f} -> {ranks[1]:.1f}, accuracy {right[0]:.3f} -> {right[1]:.3f}"
    return words, said


def _accuracy(x: Tensor, labels: Tensor) -> float:
    """Mean accuracy of logistic regression over five folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
    return float(cross_val_score(model, x.numpy(), labels.numpy(), cv=5).mean())


def cases(half: Half) -> Iterator[tuple[str, partial[Pair], tuple[str, ...] | None]]:
    """The name of each case, what makes it, and the words that are known beforehand, if they are."""
    for arch, frozen, rate in _RUINED[:1]:
        bad = Schedule("adam", rate, 60, 32)
        yield f"ruined-{arch}", partial(of_tuned, arch, half, bad, frozen), None
        yield f"tuned-{arch}", partial(of_tuned, arch, half, GOOD, frozen), None
    for noise in (0.5, 1.0):
        long = Schedule("adam", 3e-3, 120, 32)
        yield f"noisy-labels-{noise:g}", partial(of_tuned, "tiny", half, long, noise=noise), None
    for weight, steps in ((0.0, 80), (0.1, 60), (0.5, 60)):
        yield f"aligned-{weight:g}", partial(of_aligned, half, weight, steps), None
    yield "epochs", partial(of_epochs, half), None
    yield "training", partial(of_training, half), None
    yield "seeds", partial(of_seeds, half), None
    yield "random", partial(of_random, half), UNLIKE
    yield "rotated", partial(of_rotation, half, False), ("rotated",)
    yield "channels", partial(of_rotation, half, True), ("rotated",)
    yield "itself", partial(of_itself, half), ("same",)
    for arch, frozen, rate in _RUINED[1:]:
        bad = Schedule("adam", rate, 60, 32)
        yield f"ruined-{arch.split('_')[0]}", partial(of_tuned, arch, half, bad, frozen), None
        yield f"tuned-{arch.split('_')[0]}", partial(of_tuned, arch, half, GOOD, frozen), None


def main() -> None:
    """Make the cases that do not exist yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for half in DATA:
        for name, make, known in cases(half):
            path = folder / f"{name}-{half}.npz"
            if path.exists():
                continue
            began = time.perf_counter()
            a, b = (features.detach() for features in make())
            labels = shown(half).test_labels
            words, said = judged(a, b, labels)
            expected = np.array(known or words)
            np.savez(path, a=a, b=b, labels=labels, expected=expected, measured=said, half=half)
            print(
                f"{path.stem}: {', '.join(expected)} ({said}) {time.perf_counter() - began:.0f} s", flush=True
            )


if __name__ == "__main__":
    main()
