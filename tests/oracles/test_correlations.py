"""Correlations along an axis against the oracle of the classes, which takes pairs one by one."""

import numpy as np
import pytest
from oracles import classes as oracle

from fullrank.statistics import correlations, mean_ranks


@pytest.mark.parametrize("count", [3, 4, 12])
def test_correlations_and_ranks_of_many_lists_equal_the_oracle(count):
    random = np.random.default_rng(count)
    one, other = random.normal(size=(30, count)), random.integers(0, 4, (30, count)) / 7
    other[::5] = 0.1  # constant, though its mean is not 0.1 to the last bit
    ranks = mean_ranks(one), mean_ranks(other)
    np.testing.assert_array_equal(ranks[1], [oracle.average_ranks(row) for row in other])
    for a, b in ((one, other), ranks):
        expected = [oracle.pearson(*pair) for pair in zip(a.tolist(), b.tolist(), strict=True)]
        found = correlations(a, b)
        np.testing.assert_allclose(found, np.array(expected, dtype=float), rtol=1e-9, atol=1e-12)
        assert np.isnan(found[::5]).all()
