"""Time the cached-feature probes against scikit-learn and the bare matrix product.

    uv run python benchmarks/probes.py
    uv run python benchmarks/probes.py --rows 5000 --rounds 2

Linear probe: `--rows` x 512 features of 10 overlapping classes, with channels of falling scale, after a ReLU,
in float32. The comparison is the LogisticRegression (L-BFGS) of scikit-learn with the same penalty and
tolerance, on the features in float64 and in float32. The table shows how far each objective, computed in
float64, is above that of a solution to 1e-8. If ours is above by more than 1e-4 (relative), the exit status
is 1. The path has 12 penalties from 1 to 1e-7 of the features' variance. "The last" is the smallest penalty
alone, which is the slowest.

Nearest neighbours: k = 20 among 2 x `--rows` training rows, for a third as many queries. The comparison is
the product of the same matrices in one call.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from paired import median_ratio, seconds_in_turn
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from fullrank.probes import NearestProbe
from fullrank.probes.design import Design
from fullrank.probes.logistic import LogisticFit, minimise, solve_logistic

CHANNELS, CLASSES, FURTHEST = 512, 10, 1e-4
TOLERANCES = (1e-4, 1e-5, 1e-6)
PATH = [float(penalty) for penalty in np.logspace(0, -7, 12)]


def features_of(rows: int) -> tuple[Tensor, Tensor]:
    """Features (N, D) and labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    centres = 0.5 * torch.randn(CLASSES, CHANNELS, generator=generator)
    noise = torch.randn(rows, CHANNELS, generator=generator)
    return ((centres[labels] + noise) * torch.logspace(0, -2, CHANNELS)).relu(), labels


def objective(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, penalty: float) -> float:
    """Mean cross-entropy and the penalty, in float64."""
    logits = x.double() @ weight.double().T + bias.double()
    return float(torch.nn.functional.cross_entropy(logits, y) + penalty / 2 * weight.double().square().sum())


def compare_linear(rows: int, rounds: int) -> bool:
    """Print the rows of the linear probe; return whether our objectives are near the optimum."""
    x, y = features_of(rows)
    penalty = 1e-4 * float((x - x.mean(0)).double().square().sum(1).mean())
    wide, labels = x.double().numpy(), y.numpy()
    best = solve_logistic(x, y, CLASSES, penalty, tol=1e-8)
    lowest, furthest = objective(x, y, best.weight, best.bias, penalty), 0.0
    for tol in TOLERANCES:
        theirs = LogisticRegression(C=1 / (rows * penalty), tol=tol, max_iter=10_000)
        contenders: dict[str, Callable[[], Any]] = {
            "fullrank": lambda tol=tol: solve_logistic(x, y, CLASSES, penalty, tol),
            "scikit-learn": lambda theirs=theirs: theirs.fit(wide, labels),
            "scikit-learn, float32": lambda theirs=theirs: theirs.fit(x.numpy(), labels),
        }
        seconds = seconds_in_turn(contenders, rounds)
        for name, times in seconds.items():
            above = objective(x, y, *_solution(contenders[name]()), penalty) / lowest - 1
            ratio = median_ratio(times, seconds["fullrank"])
            row = (
                f"linear, to {tol:g}",
                name,
                f"{statistics.median(times):.2f}",
                f"{ratio:.1f}",
                f"{above:.0e}",
            )
            print(f"| {' | '.join(row)} |", flush=True)
            furthest = max(furthest, above if name == "fullrank" else 0.0)
    design = Design.of(x)
    path = seconds_in_turn(
        {
            "the last alone": lambda: minimise(design, y, CLASSES, PATH[-1:], 1e-6),
            "all 12": lambda: minimise(design, y, CLASSES, PATH, 1e-6),
        },
        rounds,
    )
    for name, times in path.items():
        ratio = median_ratio(times, path["the last alone"])
        print(f"| linear, a path | {name} | {statistics.median(times):.2f} | {ratio:.1f} | |", flush=True)
    return furthest <= FURTHEST


def _solution(fit: LogisticFit | LogisticRegression) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) of either solver's fit."""
    if isinstance(fit, LogisticFit):
        return fit.weight, fit.bias
    return torch.tensor(fit.coef_), torch.tensor(fit.intercept_)


def compare_nearest(rows: int, rounds: int) -> bool:
    """Print the rows of nearest neighbours; return whether they are those of the whole product."""
    x, y = features_of(2 * rows)
    queries, _ = features_of(rows // 3)
    probe = NearestProbe().fit(x, y)
    unit, unit_queries = (torch.nn.functional.normalize(some, dim=1) for some in (x, queries))
    some = unit_queries[:200] @ unit.T
    values, numbers = some.topk(20)
    votes = torch.zeros(200, CLASSES).scatter_add_(1, y[numbers], (values / 0.07).exp())
    agree = float((votes.argmax(1) == probe.predict(queries[:200])).double().mean())
    seconds = seconds_in_turn(
        {"bare product": lambda: unit_queries @ unit.T, "fullrank": lambda: probe.predict(queries)}, rounds
    )
    for name, times in seconds.items():
        ratio = median_ratio(times, seconds["bare product"])
        print(f"| nearest | {name} | {statistics.median(times):.2f} | {ratio:.2f} | |", flush=True)
    return agree >= 0.99


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.rows} x {CHANNELS}\n")
    print("| probe | whose | seconds | times the first | above the optimum |\n|---|---|---|---|---|")
    equal = [
        compare_linear(arguments.rows, arguments.rounds),
        compare_nearest(arguments.rows, arguments.rounds),
    ]
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
