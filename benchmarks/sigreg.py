"""SIGReg forward and backward, against lightly's and against a plain computation: time, memory, equality.

    uv run --group benchmark python benchmarks/sigreg.py
    uv run python benchmarks/sigreg.py --rows 256 --rounds 2

Each contender takes one view of `--rows` images and width `--width` in float32, draws its directions, and
sends its gradient back; all take turns in one process. A ratio is the median over rounds, with the least and
the greatest. Memory is what one call adds to a new process. Where lightly is not installed, it is left out.
If a value or gradient on the same directions differs from the plain one in float64 by more than 1e-5
(relative), the exit status is 1. The ceiling is the products with the directions alone, one forward and one
backward.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from importlib.util import find_spec

import torch
from paired import alone, median_ratio, seconds_in_turn
from torch import Tensor

from fullrank.epps_pulley import EppsPulley, random_slices, wave_sums

GRID = EppsPulley()
TOLERANCE = 1e-5
SMALL = 64


def ours(z: Tensor, slices: Tensor) -> Tensor:
    """N T of rows (N, K) as the objective computes it."""
    sums = wave_sums(z[None], slices, GRID.step, GRID.knots - 1)
    return len(z) * GRID.statistic(sums, len(z))


def plain(z: Tensor, slices: Tensor) -> Tensor:
    """The same from the cosine and sine of every row, direction and knot."""
    angles = (z @ slices)[..., None] * GRID.t.to(z)
    cosines, sines = angles.cos().mean(0), angles.sin().mean(0)
    distance = (cosines - GRID.phi.to(z)).square() + sines.square()
    return len(z) * (distance @ GRID.weights.to(z)).mean()


def product(z: Tensor, slices: Tensor) -> Tensor:
    """The product with the directions, whose gradient is another."""
    return (z @ slices).sum()


def contenders(count: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """What takes rows to a value, by name; each draws its directions from torch's own generator."""

    def drawing(value: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda z: value(z, random_slices(z.shape[1], count, None, z))

    found = {"fullrank": drawing(ours), "plain torch": drawing(plain), "ceiling": drawing(product)}
    if find_spec("lightly") is not None:
        from lightly.loss.lejepa_loss import SIGReg

        found["lightly"] = SIGReg(num_vectors=count)
    return found


def step(value: Callable[[Tensor], Tensor], z: Tensor) -> tuple[float, Tensor]:
    """A value, and its gradient to the rows, on the directions of one seed."""
    torch.manual_seed(0)
    leaf = z.clone().requires_grad_()
    found = value(leaf)
    found.backward()
    assert leaf.grad is not None
    return found.item(), leaf.grad


def rows_of(count: int, width: int) -> Tensor:
    """Rows that are not quite normal."""
    return 1.2 * torch.randn(count, width, generator=torch.Generator().manual_seed(1)) + 0.1


def one_step(name: str, rows: int, width: int, slices: int, small: bool) -> None:
    """One call, whose memory is measured in a new process."""
    step(contenders(slices)[name], rows_of(SMALL if small else rows, width))


def error_of(found: tuple[float, Tensor], exact: tuple[float, Tensor]) -> float:
    """The greater relative error of a value and its gradient."""
    slope = float((found[1] - exact[1]).norm() / exact[1].norm())
    return max(abs(found[0] - exact[0]) / abs(exact[0]), slope)


def compare(rows: int, width: int, slices: int, rounds: int) -> bool:
    """Print a row for each contender; return whether all agree with the plain one in float64."""
    z = rows_of(rows, width)
    values = contenders(slices)
    exact = step(values["plain torch"], z.double())
    times = seconds_in_turn({name: (lambda v=value: step(v, z)) for name, value in values.items()}, rounds)
    agree = True
    for name, value in values.items():
        ratios = [their / own for their, own in zip(times[name], times["fullrank"], strict=True)]
        ratio = f"{median_ratio(times[name], times['fullrank']):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        memory = error = ""
        if name != "ceiling":
            memory = f"{alone(one_step, name, rows, width, slices)[1]:.0f}"
            apart = error_of(step(value, z), exact)
            agree, error = agree and apart <= TOLERANCE, f"{apart:.0e}"
        seconds = f"{1000 * statistics.median(times[name]):.1f}"
        print(f"| {rows} | {name} | {seconds} | {ratio} | {memory} | {error} |", flush=True)
    return agree


def main() -> int:
    """Print a table for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[512, 4096], help="images in the batch")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--slices", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads, torch {torch.__version__}, width {arguments.width}, float32\n")
    print("| rows | whose | ms | times ours | MB | error |\n|---|---|---|---|---|---|")
    agree = [compare(n, arguments.width, arguments.slices, arguments.rounds) for n in arguments.rows]
    return 0 if all(agree) else 1


if __name__ == "__main__":
    sys.exit(main())
