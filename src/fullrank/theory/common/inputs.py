"""Inputs of the closed forms, checked and in float64: moments of views, and numbers for each feature."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fullrank.errors import UsageError
from fullrank.theory.common.flow import Array

Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]

# Shares of the largest entry or eigenvalue: below them, asymmetry and negative eigenvalues are rounding, and
# a moment's direction does not vary.
ROUNDING, VANISHING = 1e-9, 1e-12


def view_moments(moment: ArrayLike, cross_moment: ArrayLike) -> tuple[Array, Array]:
    """Both second moments (d, d) in float64, of one view and across the two views of an image.

    Raises UsageError unless both are finite, square, of one size, symmetric and positive semi-definite.
    """
    first, second = semidefinite("moment", moment), semidefinite("cross_moment", cross_moment)
    if first.shape != second.shape:
        raise UsageError(
            f"moment of width {len(first)} and cross_moment of width {len(second)} belong to different "
            "features; measure both at one place."
        )
    if not first.any():
        raise UsageError("moment holds only zeros, so nothing is learned from it; give features that vary.")
    return first, second


def semidefinite(name: str, matrix: ArrayLike) -> Array:
    """A symmetric positive semi-definite matrix (d, d) in float64; raises UsageError for any other."""
    values = np.array(matrix, np.float64)
    require_symmetric(values, name)
    values = (values + values.T) / 2
    eigenvalues = np.linalg.eigvalsh(values)
    if eigenvalues[0] < -ROUNDING * np.abs(eigenvalues).max():
        raise UsageError(
            f"{name} must have no negative eigenvalue, but its lowest is {eigenvalues[0]:.3g} with a "
            f"largest of {eigenvalues[-1]:.3g}; measure it on more images or cut that direction."
        )
    return values


def require_symmetric(matrix: Array, name: str) -> None:
    """Raises UsageError, with `name` as its subject, unless the matrix is square, finite and symmetric."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise UsageError(f"{name} must be a square matrix, but got shape {matrix.shape}.")
    if not np.isfinite(matrix).all():
        raise UsageError(f"{name} must be finite, but it holds NaN or infinity; look for the broken rows.")
    gap = float(np.abs(matrix - matrix.T).max())
    if gap > ROUNDING * np.abs(matrix).max():
        raise UsageError(
            f"{name} must be symmetric, but it differs from its transpose by up to {gap:.3g}; take the mean "
            "of both, which is the moment over both orders of the views."
        )


def diagonal_moments(moment: ArrayLike, cross_moment: ArrayLike) -> tuple[Array, Array]:
    """The diagonals (d,) of both moments of independent features; raises UsageError for correlated ones."""
    first, second = view_moments(moment, cross_moment)
    for name, values in (("moment", first), ("cross_moment", second)):
        largest = float(np.abs(values - np.diag(np.diag(values))).max())
        if largest > ROUNDING * np.abs(values).max():
            raise UsageError(
                f"{name} must be diagonal here, but features are correlated by up to {largest:.3g}; use "
                "`optimal_gram` for a full linear net or `correlated_gains` for a diagonal one."
            )
    return np.diag(first).copy(), np.diag(second).copy()


def per_feature(name: str, values: ArrayLike, low: float = 0.0, high: float = np.inf) -> Array:
    """One number a feature (d,), in float64; raises UsageError outside `low` to `high`."""
    array = np.array(values, np.float64)
    if array.ndim != 1 or not array.size:
        raise UsageError(f"{name} must be a list of one number a feature, but got shape {array.shape}.")
    wrong = np.flatnonzero(~(np.isfinite(array) & (array >= low) & (array <= high)))
    if len(wrong):
        limit = f"{low:g} to {high:g}" if np.isfinite(high) else f"a finite number of {low:g} or more"
        raise UsageError(
            f"{name} must be {limit} for each feature, but feature {wrong[0] + 1} has {array[wrong[0]]:g}."
        )
    return array


def feature_strengths(values: ArrayLike) -> Array:
    """The strengths (d,) of features, each above 0; raises UsageError for others."""
    array = per_feature("strengths", values)
    if not array.all():
        raise UsageError(
            f"strengths must be above 0, but feature {int(np.argmin(array)) + 1} has 0; leave it out."
        )
    return array


def features(strengths: ArrayLike, *, high: float = np.inf, **numbers: ArrayLike) -> tuple[Array, ...]:
    """The strengths of features and other numbers of theirs, 0 to `high`; raises UsageError for others."""
    checked = {name: per_feature(name, values, high=high) for name, values in numbers.items()}
    lists = {"strengths": feature_strengths(strengths)} | checked
    same_count(**lists)
    return tuple(lists.values())


def same_count(**lists: Array) -> None:
    """Raises UsageError unless all lists have one number for each of the same features."""
    if len({len(values) for values in lists.values()}) > 1:
        counts = ", ".join(f"{len(values)} {name}" for name, values in lists.items())
        raise UsageError(f"Each feature needs one number of each kind, but got {counts}.")


def whole_number(name: str, value: int, low: int, high: float = np.inf) -> int:
    """The `value` as an int; raises UsageError outside `low` to `high`."""
    if not low <= value <= high or value != int(value):
        limit = f"from {low} to {high}" if high < np.inf else f"of {low} or more"
        raise UsageError(f"{name} must be a whole number {limit}, but got {value}.")
    return int(value)


def number(name: str, value: float, low: float = 0.0, *, above: bool = False, remedy: str = "") -> float:
    """The `value` as a float; raises UsageError unless it is finite and `low` or more, or `above` it."""
    if not (low < value < np.inf or (value == low and not above)):
        limit = f"above {low:g}" if above else f"of {low:g} or more"
        raise UsageError(f"{name} must be a number {limit}, but got {value}{remedy and f'; {remedy}'}.")
    return float(value)
