"""Our contrastive losses, forward and backward, against other packages': time, memory and equality.

    uv run --group benchmark python benchmarks/losses.py
    uv run --group benchmark python benchmarks/losses.py --rows 2048 --rounds 5
    uv run python benchmarks/losses.py --alone 65536

Each loss takes two embeddings of `--rows` images and width 128 in float32 and sends its gradient back. All
contenders of a loss take turns in one process. Memory is what one call adds to a new process. If a loss or
gradient differs from ours by more than 1e-4 (relative), the exit status is 1. The ceiling is the cost of the
matrix products that the tiles need, without the exponentials. Memory and time of pytorch-metric-learning's
NT-Xent grow with the cube of the batch (a minute at 512 images), so it is left out above 128.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from paired import alone, median_ratio, seconds_in_turn
from torch import Tensor

from fullrank.objectives import InfoNCELoss, NTXentLoss, SupConLoss

TEMPERATURE, WIDTH, CLASSES, TILE = 0.5, 128, 10, 512
TOLERANCE = 1e-4
KINDS = ("NT-Xent", "InfoNCE", "SupCon")
CUBIC, CUBIC_ROWS = "pytorch-metric-learning (cubic)", 128


Inputs = tuple[Tensor, Tensor, Tensor]


def embeddings(rows: int) -> Inputs:
    """Two similar views (N, K), and labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(rows, WIDTH, generator=generator)
    other = z + torch.randn(rows, WIDTH, generator=generator)
    return z.requires_grad_(), other.requires_grad_(), torch.randint(CLASSES, (rows,), generator=generator)


def ours(kind: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """This package's loss, called with both views and labels."""
    if kind == "SupCon":
        return SupConLoss(TEMPERATURE)
    loss = NTXentLoss(TEMPERATURE) if kind == "NT-Xent" else InfoNCELoss(TEMPERATURE)
    return lambda z_a, z_b, labels: loss(z_a, z_b)


def peers(kind: str) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """The same loss in each package that has it."""
    import lightly.loss
    import stable_pretraining.losses
    from pytorch_metric_learning import losses as metric_learning

    if kind == "NT-Xent":
        lightly_loss = lightly.loss.NTXentLoss(TEMPERATURE)
        stable_loss = stable_pretraining.losses.NTXEntLoss(TEMPERATURE)
        learnt = metric_learning.SelfSupervisedLoss(metric_learning.NTXentLoss(TEMPERATURE))
        return {
            "lightly": lambda z_a, z_b, labels: lightly_loss(z_a, z_b),
            "stable-pretraining": lambda z_a, z_b, labels: stable_loss(z_a, z_b),
            CUBIC: lambda z_a, z_b, labels: learnt(z_a, z_b),
        }
    if kind == "InfoNCE":
        stable_clip = stable_pretraining.losses.CLIPLoss(TEMPERATURE)
        return {"stable-pretraining (CLIP)": lambda z_a, z_b, labels: stable_clip(z_a, z_b)}
    supervised = metric_learning.SupConLoss(TEMPERATURE)
    return {
        "pytorch-metric-learning": lambda z_a, z_b, labels: supervised(
            torch.cat([z_a, z_b]), labels.repeat(2)
        )
    }


def step(loss: Callable[..., Tensor], inputs: Inputs) -> tuple[float, Tensor]:
    """The value of a loss and its gradient to the first view."""
    z_a, z_b, labels = inputs
    z_a.grad = z_b.grad = None
    value = loss(z_a, z_b, labels)
    value.backward()
    assert z_a.grad is not None
    return value.item(), z_a.grad


def one_step(kind: str, name: str, rows: int, small: bool) -> None:
    """One call, whose memory is measured in a new process."""
    step(ours(kind) if name == "fullrank" else peers(kind)[name], embeddings(64 if small else rows))


def products(kind: str, inputs: Inputs) -> None:
    """The matrix products of a step, tile by tile: one forward, three backward."""
    z_a, z_b, _ = inputs
    with torch.no_grad():
        u = F.normalize(z_a if kind == "InfoNCE" else torch.cat([z_a, z_b]), dim=1)
        gradient = torch.zeros_like(u)
        for here in range(0, len(u), TILE):
            for column in range(0 if kind == "InfoNCE" else here, len(u), TILE):
                mine, other = u[here : here + TILE], u[column : column + TILE]
                mine @ other.T
                tile = mine @ other.T
                gradient[here : here + TILE].addmm_(tile, other)
                if kind == "InfoNCE" or here != column:
                    gradient[column : column + TILE].addmm_(tile.T, mine)


def compare(kind: str, rows: int, rounds: int) -> bool:
    """Print a row for each contender; return whether all agree."""
    contenders = {"fullrank": ours(kind)} | peers(kind)
    if rows > CUBIC_ROWS:
        contenders.pop(CUBIC, None)
    inputs = embeddings(rows)
    value, gradient = step(contenders["fullrank"], inputs)
    equal = True
    for name, loss in contenders.items():
        theirs, slope = step(loss, inputs)
        error = max(abs(theirs - value) / abs(value), float((slope - gradient).norm() / gradient.norm()))
        if error > TOLERANCE:
            print(
                f"{kind}: {name} differs by {error:.1e} (loss {theirs:.6f}, ours {value:.6f})",
                file=sys.stderr,
            )
            equal = False
    runs: dict[str, Callable[[], Any]] = {
        name: (lambda loss=loss: step(loss, inputs)) for name, loss in contenders.items()
    }
    seconds = seconds_in_turn(runs | {"ceiling": lambda: products(kind, inputs)}, rounds)
    for name, times in seconds.items():
        memory = "" if name == "ceiling" else f"{alone(one_step, kind, name, rows)[1]:.0f}"
        ratio = median_ratio(times, seconds["fullrank"])
        print(f"| {kind} | {name} | {statistics.median(times):.2f} | {ratio:.2f} | {memory} |", flush=True)
    return equal


def main() -> int:
    """Print a table of all losses, or of ours alone at a size that no other package can hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8192, help="images in the batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", type=int, metavar="ROWS", help="only our losses, at this many images")
    arguments = parser.parse_args()
    rows = arguments.alone or arguments.rows
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {rows} x {WIDTH}, float32\n")
    print("| loss | whose | seconds | times ours | MB |\n|---|---|---|---|---|")
    if arguments.alone:
        for kind in KINDS:
            seconds, memory = alone(one_step, kind, "fullrank", rows)
            print(f"| {kind} | fullrank | {seconds:.1f} | 1.00 | {memory:.0f} |", flush=True)
        return 0
    equal = [compare(kind, rows, arguments.rounds) for kind in KINDS]
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
