"""Whether the representation or the embedding needs fewer labels, by the strengths of measured directions."""

import numpy as np

from fullrank.theory.common.flow import Array
from fullrank.theory.weighting.prediction import view_correlations


def strengths_before_and_after(
    views: tuple[Array, Array], outcome: tuple[Array, Array], seed: int = 0
) -> tuple[Array, Array, Array]:
    r"""The squared strength of each direction of h, in h and in z, and the agreement of the views in it.

    .. math:: a_j^2 = \|E[h\, u_j]\|^2, \qquad b_j^2 = \|E[z\, u_j]\|^2, \qquad \rho_j = E[u_j\, u_j']

    :math:`u_j` is the coordinate of variance 1 along direction j, :math:`u_j'` that of the other view. The
    directions come from one half of the images, strengths and agreements from the other.

    Args:
        views: h of two views, (n, D) each.
        outcome: z of the same views, (n, K) each.
        seed: The seed of the halves.

    Raises:
        UsageError: As `view_correlations`.

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

    By P2, a label along direction j needs about :math:`\sum_i a_i^2 / a_j^2` examples at h, and
    :math:`\sum_i b_i^2 / b_j^2` at z. So h is better for the directions that the head makes relatively
    weaker. Without labels it is unknown which direction matters, so each counts by its signal. Directions
    for which both are equal count half.

    What it cannot see: which directions the label uses, and what a head does that is not linear.

    Args:
        before: The squared strengths in h, (r,).
        after: The squared strengths in z, (r,).
        signal: What each direction counts, (r,).

    >>> share_better_before(np.array([4.0, 1.0]), np.array([1.0, 1.0]), np.array([3.0, 1.0]))
    0.75

    Source: P2 (Xue et al. 2024), the sample complexity of a direction; see `samples_needed`.
    """
    left = np.asarray(after, float) * np.sum(before)
    right = np.asarray(before, float) * np.sum(after)
    equal = np.isclose(left, right, rtol=1e-9)
    better = np.where(equal, 0.5, left < right)
    total = float(np.sum(signal))
    return float(better @ signal / total) if total > 0 else 0.5
