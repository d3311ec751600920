"""Weight decay in a balanced linear net: which features survive it, in which minimum, and how strongly."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fullrank.theory.common.flow import Array, Velocity, Weights
from fullrank.theory.common.inputs import diagonal_moments, number, whole_number
from fullrank.theory.weighting.spectral_model import spectral_velocity


@dataclass(frozen=True)
class Thresholds:
    """The decay (d,) below which a feature has a minimum other than 0, and below which that one is lower."""

    exists: Array
    wins: Array


@dataclass(frozen=True)
class DecayMinima:
    """The end-to-end gain (d,) of each feature in the two minima of its loss, and the border between them.

    `largest_local` is the minimum of largest gain, `best` the global one. `border` is the gain below which
    the flow falls to 0: 0 at one layer, infinite where 0 is the only minimum.
    """

    largest_local: Array
    best: Array
    border: Array


def decay_loss(
    feature_gains: ArrayLike, moment: ArrayLike, cross_moment: ArrayLike, decay: float, depth: int = 2
) -> Array:
    r"""The loss of each feature with weight decay, as a function of the end-to-end gain of balanced layers.

    .. math:: \ell_i(w) = -2 q_i w^2 + m_i^2 w^4 + \lambda L\, w^{2/L}, \quad q = \tilde M_{ii},\ m = M_{ii}

    Shapes: (..., d), diagonal (d, d) -> (..., d). Raises UsageError for moments that are not diagonal, a
    negative decay and a depth below 1. Derived here.

    >>> decay_loss([0.0, 1.0], np.eye(2), np.eye(2), decay=0.5)
    array([0., 0.])
    """
    m, q = diagonal_moments(moment, cross_moment)
    decay, depth = number("decay", decay), whole_number("depth", depth, 1)
    w = np.abs(np.asarray(feature_gains, np.float64))
    return np.asarray(-2 * q * w**2 + m**2 * w**4 + decay * depth * w ** (2 / depth))


def decay_thresholds(moment: ArrayLike, cross_moment: ArrayLike, depth: int = 2) -> Thresholds:
    r"""The decays at which a feature's minimum disappears, and at which 0 becomes the lower one.

    .. math:: \lambda_e = \frac{4}{3 \sqrt 3} \frac{q^{3/2}}{m}, \quad
              \lambda_w = \frac{2 \sqrt 2}{3 \sqrt 3} \frac{q^{3/2}}{m} \quad (L = 2)

    At any depth, with :math:`a = 2 - 2/L` and :math:`g(w) = q w^a - m^2 w^{a+2}`, they are :math:`2 g(w)` at
    :math:`w^2 = \frac{a}{a+2} \frac{q}{m^2}` and at :math:`w^2 = \frac{2L-2}{2L-1} \frac{q}{m^2}`; at one
    layer both are 2 q. Shapes: diagonal (d, d) -> (d,). Raises UsageError for other moments and a depth below
    1. Derived here.

    >>> thresholds = decay_thresholds(np.eye(1), np.eye(1))
    >>> thresholds.exists.round(4), thresholds.wins.round(4)
    (array([0.7698]), array([0.5443]))
    """
    m, q = diagonal_moments(moment, cross_moment)
    depth = whole_number("depth", depth, 1)
    power = 2 - 2 / depth
    free = _free_gains(m, q)
    at_peak = free * np.sqrt(power / (power + 2))
    at_tie = free * np.sqrt((2 * depth - 2) / (2 * depth - 1))
    return Thresholds(2 * _pull(at_peak, m, q, power), 2 * _pull(at_tie, m, q, power))


def decayed_gains(moment: ArrayLike, cross_moment: ArrayLike, decay: float, depth: int = 2) -> DecayMinima:
    r"""The gains (d,) in the largest local and in the global minimum of `decay_loss`.

    .. math:: m^2 w^3 - q w + \tfrac{\lambda}{2} w^{2/L - 1} = 0, \quad\text{the larger root}

    The smaller root is the border. If weight decay is above its threshold, a feature vanishes in every layer
    at once. `layer_weights` gives the layers. Raises as `decay_loss`. Derived here.

    >>> minima = decayed_gains(np.diag([1.0, 0.49]), np.diag([1.0, 0.1764]), decay=0.1)
    >>> minima.largest_local.round(4), minima.best.round(4)
    (array([0.974 , 0.6396]), array([0.974, 0.   ]))
    """
    from scipy.optimize import brentq

    m, q = diagonal_moments(moment, cross_moment)
    decay, depth = number("decay", decay), whole_number("depth", depth, 1)
    power = 2 - 2 / depth
    thresholds, free = decay_thresholds(moment, cross_moment, depth), _free_gains(m, q)
    largest, border = np.zeros_like(q), np.full_like(q, np.inf)
    for i in np.flatnonzero(decay < thresholds.exists):
        peak = free[i] * np.sqrt(power / (power + 2))

        def excess(w: float, i: Any = i) -> float:
            return float(_pull(w, m[i], q[i], power)) - decay / 2

        # The solver accepts no tolerance below four times the rounding of float64.
        near = {"xtol": 1e-300, "rtol": 4 * np.finfo(np.float64).eps}
        # Just above the free gain the pull is negative, with any rounding.
        largest[i] = brentq(excess, peak, free[i] * (1 + 1e-9), **near) if decay else free[i]
        border[i] = brentq(excess, 0.0, peak, **near) if decay and depth > 1 else 0.0
    wins = decay < thresholds.wins
    return DecayMinima(largest, np.where(wins, largest, 0.0), border)


def decayed_velocity(moment: ArrayLike, cross_moment: ArrayLike, decay: float) -> Velocity:
    r"""The gradient flow of the spectral loss with weight decay, as a function of the layers.

    .. math:: \dot W_l = -\frac{\partial \mathcal L}{\partial W_l} - 2 \lambda W_l

    Raises UsageError for moments that are asymmetric or indefinite and a negative decay. Derived here.

    >>> decayed_velocity(np.eye(1), np.eye(1), decay=0.5)((np.eye(1),))[0]
    array([[-1.]])
    """
    decay = number("decay", decay)
    free = spectral_velocity(moment, cross_moment)

    def velocity(weights: Weights) -> Weights:
        moves = free(weights)
        return tuple(move - 2 * decay * layer for move, layer in zip(moves, weights, strict=True))

    return velocity


def _free_gains(m: Array, q: Array) -> Array:
    """The gains without decay; 0 for a feature that never varies."""
    return np.divide(np.sqrt(q), m, out=np.zeros_like(m), where=m > 0)


def _pull(w: Array | float, m: Array, q: Array, power: float) -> Array:
    """Half the decay that holds the gain w still: g(w) = q w^a - m^2 w^(a + 2)."""
    return np.asarray(q * w**power - m**2 * w ** (power + 2))
