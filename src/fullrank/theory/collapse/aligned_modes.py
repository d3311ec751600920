r"""Singular values of layers that start aligned: each mode k moves alone, with the gain g_k = v_k' X v_k."""

import numpy as np

from fullrank.errors import UsageError
from fullrank.theory.common.flow import Array, Velocity, Weights
from fullrank.theory.common.inputs import whole_number


def fixed_mode_velocity(gains: Array) -> Velocity:
    r"""The law of aligned singular values while X stays fixed, for any depth.

    .. math:: \dot\sigma_{l,k} = g_k \, \sigma_{l,k} \prod_{m \ne l} \sigma_{m,k}^2,
              \qquad g_k = v_k^\top X v_k

    Shapes: (K,), values (K,) a layer. Source: P1 Section 5.3, Theorem 3; other depths than 2 derived here.

    >>> velocity = fixed_mode_velocity(np.array([1.0]))
    >>> [v.tolist() for v in velocity((np.array([2.0]), np.array([3.0])))]
    [[18.0], [12.0]]
    """
    return lambda values: _mode_rates(values, gains)


def limit_mode_velocity(moment: Array, cross_moment: Array, temperature: float) -> Velocity:
    r"""The same law under the X of `inner_products.limit_driving_matrix`, under which growth ends.

    .. math:: g_k = \frac2T \Big( \tilde m_k - \frac{m_k^2}{T} \prod_l \sigma_{l,k}^2 \Big)

    for moments M = diag(m) and M~ = diag(m~). Derived here. Shapes: (K,), (K,), values (K,) a layer.

    >>> velocity = limit_mode_velocity(np.ones(2), np.ones(2), 0.25)
    >>> velocity((np.array([0.5, 0.1]),))[0].round(6).tolist()
    [0.0, 0.768]
    """

    def velocity(values: Weights) -> Weights:
        whole = np.prod(np.stack(values), 0)
        return _mode_rates(values, 2 / temperature * (cross_moment - moment**2 * whole**2 / temperature))

    return velocity


def divergence_time(start: Array, gains: Array, depth: int) -> float:
    r"""The time at which balanced aligned layers grow without bound under a fixed X; infinite if never.

    .. math:: t^* = \min_{k : g_k > 0} \frac{1}{(2 L - 2) \, g_k \, \sigma_k(0)^{2 L - 2}}

    Derived here. Shapes: (K,), (K,). Raises UsageError for a depth below 1 or a negative singular value.

    >>> divergence_time(np.array([0.5, 0.1]), np.array([2.0, 2.0]), depth=2)
    1.0
    """
    _require_values(start, depth)
    if depth == 1:
        return float("inf")
    power = 2 * depth - 2
    rate = float((power * gains * start**power).max(initial=0.0))
    return 1 / rate if rate > 0 else float("inf")


def balanced_values(start: Array, gains: Array, depth: int, times: Array) -> Array:
    r"""The singular values of each of L balanced aligned layers under a fixed X, in closed form.

    .. math:: \sigma_k(t) = \sigma_k(0) \, \big( 1 - n \, g_k \, \sigma_k(0)^n \, t \big)^{-1/n},
              \qquad n = 2 L - 2,

    and :math:`\sigma_k(0) \, e^{g_k t}` for one layer. Derived here. Shapes: (K,), (K,), (T,) -> (T, K).
    Raises as `divergence_time` does, and UsageError for times at or after the divergence.

    >>> balanced_values(np.array([0.5]), np.array([2.0]), 2, np.array([0.0, 0.75])).tolist()
    [[0.5], [1.0]]
    """
    times = np.asarray(times, np.float64)
    end = divergence_time(start, gains, depth)
    _require_before(times, end)
    if depth == 1:
        return np.asarray(start * np.exp(np.multiply.outer(times, gains)))
    power = 2 * depth - 2
    left = 1 - np.multiply.outer(times, power * gains * start**power)
    return np.asarray(start * left ** (-1 / power))


def two_layer_values(lower: Array, upper: Array, gains: Array, times: Array) -> tuple[Array, Array]:
    r"""The singular values of two aligned layers that need not be balanced, under a fixed X, in closed form.

    .. math:: \sigma_1^2(t) = \frac{\sigma_1^2(0)}{1 - \sigma_2^2(0) \, \varphi(t)}, \qquad
              \sigma_2^2(t) = \frac{\sigma_2^2(0) \, e^{2 C g t}}{1 - \sigma_2^2(0) \, \varphi(t)}, \qquad
              \varphi(t) = \frac{e^{2 C g t} - 1}{C}, \qquad C = \sigma_1^2 - \sigma_2^2

    and :math:`\varphi = 2 g t` where C = 0. Shapes: (K,), (K,), (K,), (T,) -> (T, K), (T, K). Raises
    UsageError for negative values, and for times at or after the divergence. Source: P1 Theorem 3, integrated
    here.

    >>> half, gains = np.array([0.5]), np.array([2.0])
    >>> [values.tolist() for values in two_layer_values(half, half, gains, np.array([0.75]))]
    [[[1.0]], [[1.0]]]
    """
    times = np.asarray(times, np.float64)
    for start in (lower, upper):
        _require_values(start, 2)
    _require_before(times, _two_layer_divergence(lower, upper, gains))
    constant = lower**2 - upper**2
    twice = 2 * np.multiply.outer(times, gains)
    near = np.abs(constant) < 1e-12
    phi = np.where(near, twice, np.expm1(constant * twice) / np.where(near, 1.0, constant))
    left = 1 - upper**2 * phi
    return lower / np.sqrt(left), upper * np.exp(constant * twice / 2) / np.sqrt(left)


def _two_layer_divergence(lower: Array, upper: Array, gains: Array) -> float:
    low, high = np.minimum(lower, upper) ** 2, np.maximum(lower, upper) ** 2
    ends = [np.inf]
    for small, large, gain in zip(low, high, gains, strict=True):
        if gain > 0 and small > 0:
            difference = large - small
            # log(large / small) / difference tends to 1 / small.
            spread = np.log1p(difference / small) / difference if difference else 1 / small
            # With a gain near 0 the time of divergence exceeds the largest float: it never diverges.
            with np.errstate(over="ignore"):
                ends.append(spread / (2 * gain))
    return float(min(ends))


def _mode_rates(values: Weights, gains: Array) -> Weights:
    return tuple(
        gains * own * np.prod(np.square(values[:layer] + values[layer + 1 :]), 0)
        for layer, own in enumerate(values)
    )


def _require_values(values: Array, depth: int) -> None:
    whole_number("depth", depth, 1)
    if (values < 0).any():
        raise UsageError(
            f"Singular values must be 0 or more, but the smallest is {values.min():.3g}; "
            "give absolute values."
        )


def _require_before(times: Array, end: float) -> None:
    last = float(times.max(initial=0.0))
    if last >= end:
        raise UsageError(
            f"The weights grow without bound at t = {end:.6g}, but the last time is t = {last:.6g}; "
            "take earlier times."
        )
