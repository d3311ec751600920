"""A fixed reweighting head on a linear encoder: its effect on the layer below, and the effect of kappa."""

import math

import numpy as np
from numpy.typing import ArrayLike

from fullrank.errors import UsageError
from fullrank.theory.common import inputs
from fullrank.theory.common.flow import Array, Velocity, Weights

_FLOAT32_TINY, _FLOAT32_ZERO = 2.0**-126, 2.0**-150


def reweighting(width: int, kappa: float) -> Array:
    r"""The head's fixed weights :math:`r_c = e^{-c \ln \kappa}`, c = 0 .. width - 1.

    Raises UsageError for a width or a kappa below 1. Source: P2, fixed reweighting head (authors' code).

    >>> reweighting(3, kappa=2.0)
    array([1.  , 0.5 , 0.25])
    """
    width = inputs.whole_number("width", width, 1)
    return np.asarray(np.exp(-np.arange(width) * _log(kappa)))


def effective_channels(kappa: float, width: int | None = None) -> float:
    r"""The participation ratio of the head's squared weights: the channels that a cosine loss sees.

    .. math:: \frac{(\sum_c r_c^2)^2}{\sum_c r_c^4} = \frac{1 + r}{1 - r} \cdot \frac{1 - r^D}{1 + r^D},
              \quad r = \kappa^{-2}

    Without D the head has infinitely many channels. Raises UsageError for a kappa below 1, or 1 without D.
    Derived here.

    >>> [round(effective_channels(kappa), 1) for kappa in (1.01, 1.05, 1.1, 1.2, 1.5)]
    [100.5, 20.5, 10.5, 5.5, 2.6]
    """
    log = _log(kappa)
    channels = math.inf if width is None else inputs.whole_number("width", width, 1)
    if log:
        # (1 + r) / (1 - r) is the hyperbolic cotangent of log kappa, which keeps its digits near kappa = 1.
        return math.tanh(channels * log) / math.tanh(log)
    if width is None:
        raise UsageError(
            "kappa 1 weights infinitely many channels equally; give the width, or a kappa above 1."
        )
    return float(channels)


def lost_in_float32(kappa: float) -> tuple[int, int]:
    """The first channel whose weight is below float32's normal numbers, and the first where it is 0.

    Raises UsageError unless kappa is above 1. Derived here.

    >>> lost_in_float32(1.1)
    (917, 1091)
    """
    log = _log(kappa)
    if log == 0:
        raise UsageError("kappa 1 loses no channel; give a kappa above 1.")
    return math.floor(-math.log(_FLOAT32_TINY) / log) + 1, math.ceil(-math.log(_FLOAT32_ZERO) / log)


def reweighted_velocity(moment: ArrayLike, cross_moment: ArrayLike, weights: ArrayLike) -> Velocity:
    r"""The gradient flow of an encoder W below a fixed head R = diag(r) under the spectral loss.

    .. math:: \dot W = -R\, \frac{\partial \mathcal L}{\partial V}, \quad V = R W, \quad\text{so}\quad
              \dot V = 4 R^2 \big(V \tilde M - V M V^\top V M\big)

    Channel c learns :math:`r_c^2` times as fast; from a small start feature i grows in it as :math:`e^{4
    r_c^2 \tilde M_{ii} t}`. Shapes: (d, d), `weights` (K,); the layer is (K, d). Raises UsageError for
    moments that are asymmetric or indefinite and negative weights. Derived here.

    >>> reweighted_velocity(np.eye(2), np.eye(2), [1.0, 0.5])((np.eye(2) / 2,))[0].diagonal()
    array([1.5    , 0.46875])
    """
    moment, cross_moment = inputs.view_moments(moment, cross_moment)
    head = inputs.per_feature("weights", weights)[:, None]

    def velocity(layers: Weights) -> Weights:
        v = head * layers[0]
        return (4 * head * (v @ cross_moment - v @ moment @ v.T @ v @ moment),)

    return velocity


def channels_by_speed(moment: ArrayLike, cross_moment: ArrayLike) -> inputs.Indices:
    r"""The channel to which each of d independent features goes from a small start; -1 for one never learned.

    In a head of d channels features take 0, 1, ... by descending :math:`\tilde M_{ii}`, since the fastest
    pair of feature and channel is learned first; `order_margin` says how firmly that decides. In a head of p
    < d channels the speed alone does not say which channel a feature takes. Shapes: diagonal (d, d) -> (d,).
    Raises UsageError for moments that are not diagonal. Derived here.

    >>> channels_by_speed(np.diag([1.0, 4.0]), np.diag([1.0, 4.0]))
    array([1, 0])
    """
    _, q = inputs.diagonal_moments(moment, cross_moment)
    order = np.argsort(-q, kind="stable")[: np.count_nonzero(q)]
    channels = np.full(len(q), -1)
    channels[order] = np.arange(len(order))
    return channels


def order_margin(moment: ArrayLike, cross_moment: ArrayLike, kappa: float) -> float:
    r"""How firmly `channels_by_speed` holds: about e^margin of a feature is misplaced from a start of e.

    Feature j grows in a free channel c at :math:`4 r_c^2 \tilde M_{jj}`, and where feature i is learned in it
    at :math:`4 r_c^2 M_{jj} (\nu_j - \nu_i)` with :math:`\nu = \tilde M_{ii} / M_{ii}`. The margin is the
    least exponent that a feature keeps in any channel but its own by the time it is learned; at 0 or below
    the order does not hold. Raises UsageError for moments not diagonal and a kappa below 1. Derived here.

    >>> order_margin(np.diag([4.0, 1.0]), np.diag([4.0, 1.0]), kappa=2.0)
    0.75
    """
    m, q = inputs.diagonal_moments(moment, cross_moment)
    channels = channels_by_speed(moment, cross_moment)
    order = np.argsort(channels)[np.count_nonzero(channels < 0) :]
    m, q = m[order], q[order]
    speeds = 4 * reweighting(len(order), kappa) ** 2 if len(order) else np.zeros(0)
    learned = 1 / (speeds * q)
    agreement = q / m
    # Rows are features in the order of their own channels, columns the channels.
    free = speeds * q[:, None]
    held = speeds * m[:, None] * (agreement[:, None] - agreement)
    since = np.minimum(learned, learned[:, None])
    exponents = free * since + held * (learned[:, None] - since) - 1
    return float(-exponents[~np.eye(len(order), dtype=bool)].max(initial=-np.inf))


def reweighted_weights(post: ArrayLike, channels: ArrayLike, kappa: float) -> Array:
    r"""The weight of each feature before and after the head, (2, d), where the net is at its minimum.

    .. math:: h_i = \kappa^{c(i)}\, z_i

    Shapes: (d,), channels (d,) from 0, or -1 for a feature that is not learned. Raises UsageError for
    negative weights, a kappa below 1 and lists of different length. Derived here.

    >>> reweighted_weights([1.0, 0.5], [0, 1], kappa=2.0)
    array([[1. , 1. ],
           [1. , 0.5]])
    """
    post, channels = inputs.per_feature("post", post), inputs.per_feature("channels", channels, low=-1)
    inputs.same_count(post=post, channels=channels)
    after = np.where(channels < 0, 0.0, post)
    return np.stack([after * np.exp(np.maximum(channels, 0) * _log(kappa)), after])


def _log(kappa: float) -> float:
    return math.log(inputs.number("kappa", kappa, 1, remedy="1 is no reweighting"))
