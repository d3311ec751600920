import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses
from sklearn.neighbors import NearestNeighbors

from fullrank.errors import DataError, UsageError
from fullrank.spectrum import hubness, near_duplicates


def normal(n, d, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 20), k=st.integers(1, 12), n=st.sampled_from([60, 600]))
def test_hubness_against_sklearns_neighbours_and_scipys_skewness(seed, k, n):
    x = normal(n, 8, seed)
    rows = x.numpy() / np.linalg.norm(x, axis=1, keepdims=True)
    # Of unit rows the nearest by distance are the nearest by cosine; without a query the row itself is out.
    nearest = NearestNeighbors(n_neighbors=k).fit(rows).kneighbors(return_distance=False)
    counts = np.bincount(nearest.ravel(), minlength=n)
    assert hubness(x, k) == pytest.approx(scipy.stats.skew(counts), abs=1e-9)
    assert hubness(5 * x.flip(0), k) == pytest.approx(hubness(x, k), abs=1e-9)


def test_rows_off_centre_have_hubs_where_the_dimension_is_high():
    assert hubness(normal(1200, 100) + 1) > hubness(normal(1200, 100)) + 1
    assert hubness(normal(1200, 100) + 1) > hubness(normal(1200, 3) + 1) + 1


def test_rows_that_are_neighbours_equally_often_have_no_hubs():
    angles = torch.arange(12) * (2 * math.pi / 12) + torch.tensor([0.0, 0.1]).repeat(6)
    pairs = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert hubness(pairs, k=1) == 0.0


def test_samples_are_seeded():
    x = normal(200, 6)
    assert hubness(x, sample=100) == hubness(x, sample=100) != hubness(x, sample=100, seed=1)
    doubled = torch.cat([x[:50], x])
    assert near_duplicates(doubled, 0.9999, sample=120) == near_duplicates(doubled, 0.9999, sample=120)
    assert near_duplicates(doubled, 0.9999, sample=120) == pytest.approx(100 / 250, abs=0.15)


def test_near_duplicates_are_counted_at_any_scale_and_place():
    x = normal(40, 16)
    assert near_duplicates(x) == 0.0
    doubled = torch.cat([x, 3 * x[:10]])
    assert near_duplicates(doubled) == 20 / 50
    assert near_duplicates(torch.ones(7, 3)) == 1.0
    assert near_duplicates(torch.zeros(7, 3)) == 0.0


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_near_duplicates_in_float32_at_lengths_whose_squares_leave_its_range(scale):
    x = normal(40, 16).float()
    assert near_duplicates(torch.cat([x, scale * x[:10]])) == 20 / 50


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 30), cosine=st.floats(0.3, 0.95))
def test_near_duplicates_against_all_pairs(seed, cosine):
    x = normal(25, 3, seed)
    pairs = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1).fill_diagonal_(-1)
    assert near_duplicates(x, cosine) == pytest.approx(float((pairs.amax(1) >= cosine).double().mean()))


def test_what_does_not_fit_raises():
    with refuses(UsageError, "k", 1, 0):
        hubness(torch.eye(4), k=0)
    with refuses(DataError, "k=4", 4):
        hubness(torch.eye(4), k=4)
    with refuses(UsageError, "cosine", 0, 1, 1.0):
        near_duplicates(torch.eye(4), 1.0)
    for measure in (hubness, near_duplicates):
        with refuses(DataError, 2, 1):
            measure(torch.ones(1, 3))
        with refuses(DataError, "1 of 2", "NaN"):
            measure(torch.tensor([[1.0], [math.inf]]))


@pytest.mark.parametrize("cosine", [0.5, 0.999, 0.99999])
def test_near_duplicates_in_a_narrow_cone_are_those_of_float64(cosine):
    """The spread is such that many cosines differ from the limit by less than float32 can tell."""
    x = normal(300, 6) * (1 - cosine) ** 0.5 / 6
    x[:, 0] += 1
    rows = x / x.norm(dim=1, keepdim=True)
    cosines = (rows @ rows.T).fill_diagonal_(-1)
    share = float((cosines >= cosine).any(1).double().mean())
    assert near_duplicates(x, cosine) == share
    # A limit right above the largest cosine of a row, and right below it.
    largest = float(cosines[0].max())
    for limit in (largest + 1e-9, largest - 1e-9):
        assert near_duplicates(x, limit) == float((cosines >= limit).any(1).double().mean())
