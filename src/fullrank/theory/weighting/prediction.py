"""Prediction of the linear theory for measured features: which directions a map keeps."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from fullrank.errors import UsageError
from fullrank.theory.common.flow import Array, Weights
from fullrank.theory.common.inputs import Indices

# A direction is kept if its weight is this share of the strongest one's or more, and lost below the other.
KEPT, LOST = 0.7, 0.2
FATES = ("kept", "shrunk", "lost")
_PER_DIRECTION = 4
_VANISHING = 1e-9
# Ways to split the images; results are means over them.
_SPLITS = 60


@dataclass(frozen=True)
class Prediction:
    """The weight of each direction behind a map, relative to the strongest: predicted and measured, (r,).

    `agreement` (r,) is the correlation of the direction between two views. `correlation` is the mean of
    Spearman's of the two weights over ways to split the images; 95 % of them lie between `low` and `high`,
    which is not a confidence interval, since splits share images.
    """

    agreement: Array
    predicted: Array
    measured: Array
    correlation: float
    low: float
    high: float


def view_correlations(first: Array, second: Array) -> tuple[Array, Array, Array]:
    r"""The directions of features in which two views agree, the one that agrees most first.

    .. math:: N = M^{-1/2} \tilde M M^{-1/2}, \quad M = \tfrac12 (\mathrm{cov}\, x_1 + \mathrm{cov}\, x_2),
              \quad \tilde M = \tfrac12 (E[x_1 x_2^\top] + E[x_2 x_1^\top])

    of centred features. Shapes: (n, D) twice -> the mean (D,), a map (D, r) onto coordinates of variance 1,
    and the eigenvalues of N (r,), the agreements. Only the leading components of M are used, with 4 images
    for each. Raises UsageError for views that do not fit together or fewer than 8 images. Derived here.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(4000, 2))
    >>> views = (x + [0, 3] * rng.normal(size=x.shape) for _ in range(2))
    >>> view_correlations(*views)[2].round(1).tolist()
    [1.0, 0.1]
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 2 or first.shape != second.shape or len(first) < 2 * _PER_DIRECTION:
        raise UsageError(
            f"Two views of the same {2 * _PER_DIRECTION} images or more are needed as (n, D), but got "
            f"{first.shape} and {second.shape}; give more images."
        )
    mean = (first.mean(0) + second.mean(0)) / 2
    first, second = first - mean, second - mean
    moment = (first.T @ first + second.T @ second) / (2 * len(first))
    cross = first.T @ second / len(first)
    variances, axes = np.linalg.eigh(moment)
    order = np.argsort(variances)[::-1][: max(1, len(first) // _PER_DIRECTION)]
    order = order[variances[order] > _VANISHING * variances[-1]]
    if not len(order):
        raise UsageError("The features do not vary, so no direction can be predicted; name another place.")
    root = axes[:, order] / np.sqrt(variances[order])
    agreements, rotation = np.linalg.eigh(root.T @ (cross + cross.T) @ root / 2)
    return mean, root @ rotation[:, ::-1], agreements[::-1]


def predict_directions(
    views: tuple[Array, Array], outcome: tuple[Array, Array], rank: int | None = None, seed: int = 0
) -> Prediction:
    r"""The weight of each direction after a map, as the linear theory predicts it and as measured.

    .. math:: \hat a_i = \sqrt{\rho_i} \ (i \le p, \text{ else } 0), \qquad a_i = |E[z\, u_i]|

    with :math:`u_i` the coordinate of variance 1 along direction i, :math:`\rho_i` its correlation between
    the views and p the `rank`. Both are relative to their largest. The images are split in three by `seed`,
    60 times: directions, predictions and measured weights come from different parts. The weights are means
    of squares over the splits, minus what noise alone adds to :math:`a_i^2`. Shapes: `views` (n, D) twice,
    `outcome` (n, K) twice, of the same views. Raises as `view_correlations`. Derived here.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(4000, 3))
    >>> a, b = (x + [0.1, 1, 3] * rng.normal(size=x.shape) for _ in range(2))
    >>> w = 1 / np.array([1.01, 2, 10])
    >>> weights = predict_directions((a, b), (a * w, b * w))
    >>> weights.predicted.round(1).tolist(), weights.measured.round(1).tolist()
    ([1.0, 0.7, 0.3], [1.0, 0.7, 0.3])
    """
    if not len(views[0]) == len(views[1]) == len(outcome[0]) == len(outcome[1]):
        raise UsageError(
            f"Features of {len(views[0])} and {len(views[1])} images and outcomes of {len(outcome[0])} and "
            f"{len(outcome[1])} do not belong together; read them in one pass."
        )
    rng = np.random.default_rng(seed)
    x = tuple(np.asarray(view, np.float64) for view in views)
    z = tuple(np.asarray(side, np.float64) for side in outcome)
    splits = [np.array_split(rng.permutation(len(x[0])), 3) for _ in range(_SPLITS)]
    weights = [_split_weights(x, z, parts) for parts in splits]
    # Where features are nearly dependent, splits may differ in how many directions they see.
    width = min(len(agreement) for agreement, _ in weights)
    agreements, squares = (np.stack([side[:width] for side in sides]) for sides in zip(*weights, strict=True))
    correlations = [_spearman(_fitting(a, rank), s) for a, s in zip(agreements, squares, strict=True)]
    low, high = np.quantile(correlations, [0.025, 0.975])
    agreement = agreements.mean(0)
    return Prediction(
        agreement=agreement,
        predicted=_relative(np.sqrt(_fitting(agreement, rank))),
        measured=_relative(np.sqrt(np.clip(squares.mean(0), 0.0, None))),
        correlation=float(np.mean(correlations)),
        low=float(low),
        high=float(high),
    )


def _split_weights(x: Weights, z: Weights, parts: list[Indices]) -> tuple[Array, Array]:
    """The agreement of each direction on the second part of the rows, its squared weight on the third."""
    fit, test, behind = parts
    mean, whitening, _ = view_correlations(x[0][fit], x[1][fit])
    a, b = ((side[test] - mean) @ whitening for side in x)
    agreement = (a * b).mean(0) / (((a**2).mean(0) + (b**2).mean(0)) / 2)
    a, b = ((side[behind] - mean) @ whitening for side in x)
    centre = (z[0][behind].mean(0) + z[1][behind].mean(0)) / 2
    first, second = (side[behind] - centre for side in z)
    spread = ((a**2).mean(0) + (b**2).mean(0)) / 2
    moved = (np.square((first.T @ a + second.T @ b) / (2 * len(behind))) / spread).sum(0)
    # The squared weight expected if z and a direction are independent; both views of an image are one draw.
    both = (first + second) / 2
    noise = np.square(both).sum() / len(behind) * np.square((a + b) / 2).mean(0) / spread / len(behind)
    return agreement, moved - noise


def _fitting(agreement: Array, rank: int | None) -> Array:
    """The agreements of at most `rank` directions; 0 for the others, and instead of negative ones."""
    fitting = np.clip(agreement, 0.0, None)
    if rank is not None:
        fitting[np.argsort(-agreement)[rank:]] = 0.0
    return fitting


def fates(weights: Array) -> list[str]:
    """The fate of each direction by its weight relative to the strongest: kept, shrunk or lost."""
    return [FATES[0] if w >= KEPT else FATES[2] if w < LOST else FATES[1] for w in weights]


def _relative(weights: Array) -> Array:
    largest = weights.max()
    return weights / largest if largest > 0 else weights


def _spearman(a: Array, b: Array) -> float:
    """Spearman's correlation, 0 where one side does not vary."""
    a, b = rankdata(a), rankdata(b)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
