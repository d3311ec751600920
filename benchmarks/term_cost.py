"""The cost of a training step with an auxiliary term, as a ratio to the same step without it.

    uv run python benchmarks/term_cost.py
    uv run python benchmarks/term_cost.py --terms augself:1,hidden=512 sdssl --rounds 40

A step draws two views, passes them through encoder and head, computes the losses and their gradient, and
updates the weights. The net, the images and the batch are those of the recipe `digits`. The steps take turns
in one process and their order alternates, so the drift of a shared machine falls on all of them. The ratio is
taken within each round.
"""

import argparse
import os
import statistics
from collections.abc import Callable

import torch
from paired import seconds_in_turn

from fullrank.data import BatchLoader
from fullrank.devices import flushed_denormals
from fullrank.runs.build import build, load_data
from fullrank.runs.recipe import Recipe
from fullrank.training.module import JointEmbedding, build_optimizer


def steps_of(recipe: Recipe, number: int) -> Callable[[], None]:
    """`number` training steps of a recipe, as one call."""
    torch.manual_seed(0)
    images, _ = load_data(recipe)
    parts = build(recipe, images)
    module = JointEmbedding.of(recipe, parts).train()
    optimizer = build_optimizer(recipe.optimizer, list(module.children()))
    batch = next(iter(BatchLoader(images, recipe.batch_size, 0)))

    def take() -> None:
        for step in range(number):
            loss = module.step(batch, 0, step, progress=0.5).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return take


@flushed_denormals()
def main() -> None:
    """Print the median ratio of each term, and the spread over rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--terms", nargs="+", default=["augself:1,hidden=128", "sdssl", "augself"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=5, help="steps of each contender in a round")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--recipe", default="digits")
    arguments = parser.parse_args()
    plain = Recipe.resolve(arguments.recipe, {"batch_size": arguments.batch})
    recipes = {"plain": plain} | {
        term: Recipe.resolve(plain, {"objective": f"{plain.objective} + {term}"}) for term in arguments.terms
    }
    contenders = {name: steps_of(recipe, arguments.steps) for name, recipe in recipes.items()}
    seconds = seconds_in_turn(contenders, arguments.rounds)
    milliseconds = 1000 * statistics.median(seconds["plain"]) / arguments.steps
    print(f"{os.cpu_count()} cores, torch {torch.__version__} with {torch.get_num_threads()} threads")
    print(f"a plain step of {plain.objective} takes {milliseconds:.0f} ms")
    for term in arguments.terms:
        ratios = [one / other for one, other in zip(seconds[term], seconds["plain"], strict=True)]
        low, *_, high = statistics.quantiles(ratios, n=4)
        print(f"{term:24s} {statistics.median(ratios):.2f} times (quartiles {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
