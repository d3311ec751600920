"""The bias of three estimates of the best accuracy among many candidates, by Monte Carlo with known truths.

    python benchmarks/best_of_many.py
    python benchmarks/best_of_many.py --images 1000 --accuracy 0.97 --trials 400

The largest of m noisy accuracies is too high. Each trial draws true accuracies, then whether each candidate
is right on each test image. Some images are hard for all candidates, so their errors go together. Biases are
in standard errors of one accuracy. They are given against the largest truth, and in brackets against the
truth of the candidate that won. `bootstrap` is the estimate that `fullrank.choosing.judging` takes.
"""

import argparse
import math
from collections.abc import Callable

import numpy as np
from scipy.special import ndtri

from fullrank.choosing.judging import expected_best

COUNTS = (3, 12, 72)
# Standard deviations of the truths, in standard errors of one accuracy.
SPREADS = (0.0, 0.5, 1.0, 2.0, 5.0)
SAMPLES = 200


def drawn(truths: np.ndarray, images: int, shared: float, generator: np.random.Generator) -> np.ndarray:
    """Hits (m, n) of truths (m,): a normal ease of each image has the share `shared` of the variance."""
    ease = generator.normal(size=images)
    own = generator.normal(size=(len(truths), images))
    return math.sqrt(shared) * ease + math.sqrt(1 - shared) * own < ndtri(truths)[:, None]


def largest(hits: np.ndarray) -> float:
    """The largest accuracy, without a correction."""
    return float(hits.mean(1).max())


def bootstrap(hits: np.ndarray) -> float:
    """The largest accuracy less its bootstrap excess."""
    return expected_best(hits, SAMPLES)


def out_of_bag(hits: np.ndarray) -> float:
    """The mean accuracy of the winner of a bootstrap sample on the images that the sample left out."""
    table, count = hits.astype(float), hits.shape[1]
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=SAMPLES)
    winners = (weights @ table.T).argmax(1)
    left = (weights == 0).astype(float)
    return float((np.einsum("bn,bn->b", left, table[winners]) / left.sum(1)).mean())


ESTIMATES: tuple[Callable[[np.ndarray], float], ...] = (largest, bootstrap, out_of_bag)


def evenly(count: int, spread: float, top: float, generator: np.random.Generator) -> np.ndarray:
    """Truths spread evenly below the top, with a standard deviation of `spread`."""
    return top - math.sqrt(12) * spread * generator.random(count)


def two_groups(count: int, gap: float, top: float, generator: np.random.Generator) -> np.ndarray:
    """Half of the truths at the top, the others lower by the gap."""
    return np.where(np.arange(count) < (count + 1) // 2, top, top - gap)


def biases(truths: np.ndarray, given: argparse.Namespace) -> str:
    """The biases of all estimates over trials, as cells of a row; truths is (trials, m)."""
    error = math.sqrt(given.accuracy * (1 - given.accuracy) / given.images)
    generator = np.random.default_rng(0)
    off = np.empty((len(truths), len(ESTIMATES), 2))
    for trial, true in enumerate(truths):
        hits = drawn(true, given.images, given.shared, generator)
        won = true[hits.mean(1).argmax()]
        for number, estimate in enumerate(ESTIMATES):
            off[trial, number] = np.array([estimate(hits)]) - [true.max(), won]
    means = off.mean(0) / error
    return " ".join(f"{best:+8.2f} ({winner:+.2f})" for best, winner in means)


def main() -> None:
    """Print the biases for numbers of candidates and spreads of their truths."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--accuracy", type=float, default=0.92, help="the largest truth")
    parser.add_argument("--shared", type=float, default=0.5, help="how far errors go together, 0 to 1")
    parser.add_argument("--trials", type=int, default=100)
    given = parser.parse_args()
    error = math.sqrt(given.accuracy * (1 - given.accuracy) / given.images)
    test = drawn(np.full(2, given.accuracy), 200_000, given.shared, np.random.default_rng(1))
    print(
        f"One standard error is {100 * error:.2f} points; errors correlate by {np.corrcoef(test)[0, 1]:.2f}."
    )
    print(f"{'m':>3s} {'truths':16s}" + " ".join(f"{each.__name__:>16s}" for each in ESTIMATES))
    for count in COUNTS:
        generator = np.random.default_rng(count)
        for spread in SPREADS:
            truths = [evenly(count, spread * error, given.accuracy, generator) for _ in range(given.trials)]
            print(f"{count:3d} {f'spread {spread:g}':16s}" + biases(np.array(truths), given), flush=True)
        truths = [two_groups(count, 10 * error, given.accuracy, generator) for _ in range(given.trials)]
        print(f"{count:3d} {'half 10 below':16s}" + biases(np.array(truths), given), flush=True)


if __name__ == "__main__":
    main()
