"""What the linear theory says of h and z, for each run of a pool."""

import numpy as np
import torch

from fullrank.choosing.candidates import Candidate, Pool
from fullrank.choosing.parts import views_of
from fullrank.theory.weighting.placement import share_better_before, strengths_before_and_after


def shares_for_h(pool: Pool) -> dict[str, float]:
    """By run with h and z: the share of the signal for which P2's closed form predicts h to be better.

    A half means that theory has no preference. Runs whose z is h are left out. Features must be finite and
    must vary, so candidates with a veto are not for it.

    What it cannot see: which directions the label uses; see `share_better_before`.
    """
    shares: dict[str, float] = {}
    if pool.views is None:
        return shares
    at = {(each.run, each.place): each for each in pool.candidates}
    for (run, place), z in at.items():
        h = at.get((run, "h"))
        if place == "z" and h is not None and not torch.equal(h.clean, z.clean):
            views, outcome = (_pair(each) for each in (h, z))
            before, after, agreement = strengths_before_and_after(views, outcome)
            shares[run] = share_better_before(before, after, agreement * before)
    return shares


def _pair(candidate: Candidate) -> tuple[np.ndarray, np.ndarray]:
    views = views_of(candidate)
    return views[0].numpy(), views[1].numpy()
