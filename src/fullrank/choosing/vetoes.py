"""Vetoes: candidates that are no choice, each with its reason."""

import torch
from torch import Tensor

from fullrank.choosing.candidates import Candidate, Pool
from fullrank.spectrum import effective_rank, mean_cosine, recalled_views

# Features with a lower effective rank hold less than the classes of any usual label.
LEAST_RANK = 5.0
# Rows whose mean cosine is above this are one direction, up to the noise of float32.
MOST_COSINE = 0.9999
# Recall of the other view below this times chance tells no image from another. InfoNCE does not serve: at a
# temperature of 0.2 it may be above chance where recall is 30 times chance.
NEAR_CHANCE = 5


def find_vetoes(pool: Pool) -> list[list[str]]:
    """Why each candidate is left out, in sentences; an empty list for one that is kept.

    A candidate is left out if a row is not finite, if all rows are one, if its effective rank is below
    `LEAST_RANK`, or if the other view of an image is recalled hardly more often than by chance.
    """
    return [list(_vetoes(each)) for each in pool.candidates]


def _vetoes(candidate: Candidate) -> list[str]:
    rows: list[Tensor] = [candidate.clean]
    rows += [] if candidate.views is None else [candidate.views.flatten(0, 1)]
    if not all(bool(torch.isfinite(each).all()) for each in rows):
        return ["It has features that are not finite."]
    if not bool((candidate.clean != candidate.clean[:1]).any()):
        return ["All images have the same features."]
    cosine = mean_cosine(candidate.clean)
    if cosine > MOST_COSINE:
        return [f"All rows have nearly one direction: their mean cosine is {cosine:.5f}."]
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
