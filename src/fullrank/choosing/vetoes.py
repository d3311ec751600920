"""Vetoes: candidates that are no choice, each with its reason."""

import torch
from torch import Tensor

from fullrank.choosing.candidates import Candidate, Pool
from fullrank.spectrum import effective_rank, recalled_views

# Features with a lower effective rank hold less than the classes of any usual label.
LEAST_RANK = 5.0
# Features whose spread relative to their norm is below this nearly coincide, as in `complete-collapse`.
LEAST_SPREAD = 5e-4
# Recall of the other view below this times chance tells no image from another. InfoNCE does not serve: at a
# temperature of 0.2 it may be above chance where recall is 30 times chance.
NEAR_CHANCE = 5


def find_vetoes(pool: Pool) -> list[list[str]]:
    """Why each candidate is left out, in sentences; an empty list for one that is kept.

    A candidate is left out if a row is not finite, if all rows nearly coincide, if its effective rank is
    below `LEAST_RANK`, or if the other view of an image is recalled hardly more often than by chance.
    """
    return [list(_vetoes(each)) for each in pool.candidates]


def _vetoes(candidate: Candidate) -> list[str]:
    rows: list[Tensor] = [candidate.clean]
    rows += [] if candidate.views is None else [candidate.views.flatten(0, 1)]
    if not all(bool(torch.isfinite(each).all()) for each in rows):
        return ["It has features that are not finite."]
    if not bool((candidate.clean != candidate.clean[:1]).any()):
        return ["All images have the same features."]
    spread = _spread(candidate.clean)
    if spread < LEAST_SPREAD:
        return [f"All images have nearly the same features: their spread is {spread:.2g} times their norm."]
    found = []
    rank = effective_rank(candidate.clean)
    if rank < LEAST_RANK:
        width = candidate.clean.shape[1]
        found.append(f"Its effective rank is {rank:.2f} of {width}, below {LEAST_RANK:g}.")
    if candidate.views is not None:
        recall = float(recalled_views(candidate.views[0], candidate.views[1]).mean())
        chance = 1 / candidate.views.shape[1]
        if recall < NEAR_CHANCE * chance:
            found.append(f"Views tell no image from another: recall is {recall:.4f}, chance {chance:.4f}.")
    return found


def _spread(features: Tensor) -> float:
    """The root of the total variance over the mean squared norm: 0 if all rows coincide, at most 1."""
    rows = features.double()
    return float(((rows - rows.mean(0)).square().sum() / rows.square().sum()).sqrt())
