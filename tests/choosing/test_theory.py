"""Runs whose head is a known diagonal map."""

import numpy as np
import pytest
import torch

from fullrank.choosing.candidates import Candidate, Pool
from fullrank.choosing.choose import choose_among
from fullrank.choosing.theory import shares_for_h

COUNT = 600


def run_with(name, head, *, first="h", noisiest=3.0, seed=0):
    """Candidates at h and z of a run with z = h * head."""
    rng = np.random.default_rng(seed)
    clean = rng.normal(size=(COUNT, len(head)))
    # Each direction has another agreement, and the same signal.
    noise = np.geomspace(0.1, noisiest, len(head))
    views = np.stack([clean + noise * rng.normal(size=clean.shape) for _ in range(4)])
    weights = np.asarray(head, float)
    return [
        Candidate(name, place, *map(tensor, rows), depth, recipe=name)
        for depth, (place, rows) in enumerate(
            {first: (clean, views), "z": (clean * weights, views * weights)}.items()
        )
    ]


def tensor(rows):
    return torch.from_numpy(rows).float()


def pool_of(*candidates, views="weak"):
    return Pool(candidates, np.arange(COUNT).astype(str), np.arange(COUNT), views)


def test_each_run_has_the_share_of_its_own_head():
    weakens_one, strengthens_one = [1, 1, 1, 1, 0.1, 1, 1, 1], [1, 1, 1, 1, 9, 1, 1, 1]
    shares = shares_for_h(pool_of(*run_with("a", weakens_one), *run_with("b", strengthens_one, seed=1)))
    assert shares == {"a": pytest.approx(1 / 8, abs=0.03), "b": pytest.approx(7 / 8, abs=0.03)}


def test_runs_without_both_places_or_with_z_equal_to_h_have_no_share():
    same = run_with("same", np.ones(8))
    only_z = run_with("only z", np.arange(1, 9))[1:]
    inner = run_with("inner", np.arange(1, 9), first="head.1")
    assert shares_for_h(pool_of(*same, *only_z, *inner)) == {}


def test_without_views_there_is_no_share():
    files = [Candidate(each.run, each.place, each.clean) for each in run_with("a", np.arange(1, 9))]
    assert shares_for_h(pool_of(*files, views=None)) == {}


@pytest.mark.parametrize("place", ["h", "z"])
@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_a_run_with_a_vetoed_place_has_no_share_and_stops_no_choice(place, value):
    broken = [
        Candidate(
            each.run, each.place, torch.full_like(each.clean, value), torch.full_like(each.views, value)
        )
        if each.place == place
        else each
        for each in run_with("broken", np.arange(1, 9), noisiest=0.4, seed=1)
    ]
    entry = choose_among(pool_of(*run_with("good", np.arange(1, 9), noisiest=0.4), *broken))
    assert set(entry.theory) == {"good"}
    assert [row.place for row in entry.candidates if row.vetoes] == [place]
