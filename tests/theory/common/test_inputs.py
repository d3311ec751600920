import numpy as np
import pytest

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
    ("moment", "cross_moment", "words"),
    [
        ([[1, 0.5], [0, 1]], EYE, "moment must be symmetric, but it differs from its transpose by up to 0.5"),
        (EYE, [[1, 2], [2, 1]], "cross_moment must have no negative eigenvalue, but its lowest is -1"),
        ([[1, np.nan], [np.nan, 1]], EYE, "moment must be finite"),
        (np.ones((2, 3)), EYE, r"moment must be a square matrix, but got shape \(2, 3\)"),
        (np.eye(3), EYE, "moment of width 3 and cross_moment of width 2"),
        (np.zeros((2, 2)), EYE, "moment holds only zeros"),
    ],
)
def test_moments_that_are_none_are_refused_in_a_sentence(moment, cross_moment, words):
    with pytest.raises(UsageError, match=words):
        view_moments(moment, cross_moment)


def test_rounding_is_no_asymmetry_and_no_negative_eigenvalue():
    moment = np.array([[1.0, 1.0], [1.0 + 1e-13, 1.0 - 1e-13]])
    first, _ = view_moments(moment, EYE)
    np.testing.assert_array_equal(first, first.T)


def test_correlated_features_are_no_diagonal_moments():
    with pytest.raises(UsageError, match=r"moment must be diagonal here, .* up to 0.1; use `optimal_gram`"):
        diagonal_moments([[1, 0.1], [0.1, 1]], EYE)


def test_numbers_per_feature_are_checked():
    with pytest.raises(UsageError, match=r"keep must be 0 to 1 for each feature, but feature 1 has -0.1"):
        per_feature("keep", [-0.1, 0.3], high=1)
    with pytest.raises(
        UsageError, match=r"strengths must be a finite number of 0 or more .* feature 2 has -1"
    ):
        feature_strengths([1, -1])
    with pytest.raises(UsageError, match="strengths must be above 0, but feature 2 has 0; leave it out"):
        feature_strengths([1, 0])
    with pytest.raises(UsageError, match=r"one number a feature, but got shape \(1, 2\)"):
        per_feature("keep", [[0.5, 0.5]])
    with pytest.raises(UsageError, match="but got 2 strengths, 3 keep"):
        same_count(strengths=np.ones(2), keep=np.ones(3))
