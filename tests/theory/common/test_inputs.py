import numpy as np
import pytest
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.theory.common.inputs import (
    diagonal_moments,
    feature_strengths,
    per_feature,
    same_count,
    view_moments,
)

EYE = np.eye(2)


@pytest.mark.parametrize(
    ("moment", "cross_moment", "parts"),
    [
        ([[1, 0.5], [0, 1]], EYE, ["moment", "symmetric", 0.5]),
        (EYE, [[1, 2], [2, 1]], ["cross_moment", "negative", -1]),
        ([[1, np.nan], [np.nan, 1]], EYE, ["moment", "NaN"]),
        (np.ones((2, 3)), EYE, ["moment", "square", (2, 3)]),
        (np.eye(3), EYE, ["moment", 3, "cross_moment", 2]),
        (np.zeros((2, 2)), EYE, ["moment", "zeros"]),
    ],
)
def test_moments_that_are_none_are_refused(moment, cross_moment, parts):
    with refuses(UsageError, *parts):
        view_moments(moment, cross_moment)


def test_rounding_is_no_asymmetry_and_no_negative_eigenvalue():
    moment = np.array([[1.0, 1.0], [1.0 + 1e-13, 1.0 - 1e-13]])
    first, _ = view_moments(moment, EYE)
    np.testing.assert_array_equal(first, first.T)


def test_correlated_features_are_no_diagonal_moments():
    with refuses(UsageError, "moment", "diagonal", 0.1, "`optimal_gram`"):
        diagonal_moments([[1, 0.1], [0.1, 1]], EYE)


def test_numbers_per_feature_are_checked():
    with refuses(UsageError, "keep", "0 to 1", "feature 1", -0.1):
        per_feature("keep", [-0.1, 0.3], high=1)
    with refuses(UsageError, "strengths", 0, "feature 2", -1):
        feature_strengths([1, -1])
    with refuses(UsageError, "strengths", "above 0", "feature 2"):
        feature_strengths([1, 0])
    with refuses(UsageError, "keep", (1, 2)):
        per_feature("keep", [[0.5, 0.5]])
    with refuses(UsageError, "2 strengths", "3 keep"):
        same_count(strengths=np.ones(2), keep=np.ones(3))
