"""Whether the representation or the embedding needs fewer labels, by the strengths of measured directions."""

import numpy as np

from fullrank.theory.common.flow import Array
from fullrank.theory.weighting.prediction import view_correlations

# Features are float32: an isometry changes the strengths that are measured in them by about 1e-7.
_SAME = 1e-4


def strengths_before_and_after(
    views: tuple[Array, Array], outcome: tuple[Array, Array], seed: int = 0
) -> tuple[Array, Array, Array]:
    r"""The squared strength of each direction of h, in h and in z, and the agreement of the views in it.

    .. math:: a_j^2 = \|E[h\, u_j]\|^2, \qquad b_j^2 = \|E[z\, u_j]\|^2, \qquad \rho_j = E[u_j\, u_j']

    :math:`u_j` is the coordinate of variance 1 along direction j, :math:`u_j'` that of the other view. The
    directions come from one half of the images, strengths and agreements from the other. Nothing is
    subtracted for noise, which adds about the variance of h or z over n to a strength.

    What it cannot see: what z has beyond a linear map of h, and directions that h itself has lost. The
    strengths are those of views. Noise that views add is part of them, though clean images have none.

    Args:
        views: h of two views, (n, D) each.
        outcome: z of the same views, (n, K) each.
        seed: The seed of the halves.

    Raises:
        UsageError: As `view_correlations`.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(4000, 2))
    >>> a, b = (x + [0, 1] * rng.normal(size=x.shape) for _ in range(2))
    >>> before, after, agreement = strengths_before_and_after((a, b), (a * [1, 0.5], b * [1, 0.5]))
    >>> before.round(), (after / before).round(2).tolist(), agreement.round(1).tolist()
    (array([1., 2.]), [1.0, 0.25], [1.0, 0.5])

    Source: P2's linear model, with directions measured as in `predict_directions`.
    """
    order = np.random.default_rng(seed).permutation(len(views[0]))
    fit, rest = np.array_split(order, 2)
    h, z = ([np.asarray(side, np.float64) for side in pair] for pair in (views, outcome))
    mean, whitening, _ = view_correlations(h[0][fit], h[1][fit])
    u, v = ((side[rest] - mean) @ whitening for side in h)
    spread = ((u**2).mean(0) + (v**2).mean(0)) / 2
    agreement = (u * v).mean(0) / spread

    def loadings(sides: list[Array]) -> Array:
        centre = (sides[0][rest].mean(0) + sides[1][rest].mean(0)) / 2
        moved = ((sides[0][rest] - centre).T @ u + (sides[1][rest] - centre).T @ v) / (2 * len(rest))
        squares: Array = np.square(moved).sum(0) / spread
        return squares

    return loadings(h), loadings(z), np.clip(agreement, 0.0, 1.0)


def share_better_before(before: Array, after: Array, signal: Array) -> float:
    r"""The share of the signal for which h is predicted to need fewer labels than z, 0 to 1.

    .. math:: \frac{\sum_j s_j\, \big[\, b_j^2 / a_j^2 < \sum_i b_i^2 / \sum_i a_i^2 \,\big]}{\sum_j s_j}

    By our linear model of P2, a label along direction j needs about :math:`\sum_i a_i^2 / a_j^2` examples
    at h, and :math:`\sum_i b_i^2 / b_j^2` at z. So h is better for the directions that the head makes
    relatively weaker. Without labels it is unknown which direction matters, so each counts by its
    signal. Directions
    for which both are equal count half.

    The bound :math:`\sum_i b_i^2 / \sum_i a_i^2` is the mean of :math:`b_j^2 / a_j^2`, with weights
    :math:`a_j^2`. Where views agree equally in all directions, the share is above a half only if the
    median of these ratios, with the same weights, is below their mean.

    What it cannot see: which directions the label uses, what a head does that is not linear, and how much
    better h is: a direction that the head loses counts like one that it makes slightly weaker.

    Args:
        before: The squared strengths in h, (r,).
        after: The squared strengths in z, (r,).
        signal: What each direction counts, (r,).

    >>> share_better_before(np.array([4.0, 1.0]), np.array([1.0, 1.0]), np.array([3.0, 1.0]))
    0.75

    Source: derived here as `pre_beats_post`, for a claim of P2 (Xue et al. 2024).
    """
    left = np.asarray(after, float) * np.sum(before)
    right = np.asarray(before, float) * np.sum(after)
    equal = np.isclose(left, right, rtol=_SAME)
    better = np.where(equal, 0.5, left < right)
    total = float(np.sum(signal))
    return float(better @ signal / total) if total > 0 else 0.5
