"""Following a gradient flow to its end, however late its slowest feature moves."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import LSODA

from fullrank.theory.common.flow import Array, Trajectory, Velocity, Weights, flat, solver_steps, split
from fullrank.theory.common.inputs import diagonal_moments, number, whole_number


def settle(
    velocity: Velocity, start: Weights, *, horizon: float = 1e6, rtol: float = 1e-9, atol: float = 1e-12
) -> Trajectory:
    """The flow from `start` to the time `horizon`, at the times of the solver's own steps.

    If a strong feature settles long before a weak one moves, this solver becomes implicit and takes long
    steps between the two. Entries smaller than `atol` are not followed. A flow that grows without bound ends
    at that time. Raises UsageError for a horizon that is not above 0. Source: Petzold 1983 (LSODA, as in
    SciPy).

    >>> path = settle(lambda w: (1 - w[0],), (np.zeros(1),))
    >>> round(float(path.times[-1])), round(float(path.last[0][0]), 6)
    (1000000, 1.0)
    """
    horizon = number("horizon", horizon, above=True)
    times, reached, diverged = [0.0], [flat(start)], None
    for solver in solver_steps(LSODA, velocity, start, horizon, rtol=rtol, atol=atol):
        # A step that fails does not advance the time.
        if solver.t <= np.nextafter(times[-1], np.inf) or not np.isfinite(solver.y).all():
            diverged = float(solver.t)
            break
        times.append(float(solver.t))
        reached.append(solver.y.copy())
    return Trajectory(np.array(times), split(np.stack(reached), start), diverged)


def remaining_gradient(velocity: Velocity, weights: Weights) -> float:
    """The norm of the gradient over all layers: 0 at the end of a flow."""
    return float(np.sqrt(sum(float(np.sum(move**2)) for move in velocity(weights))))


def learning_time(moment: ArrayLike, cross_moment: ArrayLike, depth: int, scale: float) -> Array:
    r"""The approximate time at which a balanced net learns each of d independent features; infinite if never.

    .. math:: \dot w = 4 L\, w^{3 - 2/L} (q - m^2 w^2), \quad
              t_i \approx \frac{w_0^{-a} - w_*^{-a}}{4 L a\, q_i},\ a = 2 - \tfrac2L,\ w_0 = \text{scale}^L

    and :math:`\ln(w_* / w_0) / 4 q_i` at one layer: the growth alone, without the slowing near the end.
    Shapes: diagonal (d, d) -> (d,). Raises UsageError for other moments, depth < 1, scale <= 0. Derived here.

    >>> learning_time(np.eye(1) / 4, np.eye(1) / 4, depth=2, scale=0.05).round()
    array([200.])
    """
    m, q = diagonal_moments(moment, cross_moment)
    depth = whole_number("depth", depth, 1)
    scale = number("scale", scale, above=True, remedy="take 0.5 to 0.8")
    power = 2 - 2 / depth
    times = np.full(len(q), np.inf)
    learned = q > 0
    ends = np.sqrt(q[learned]) / m[learned]
    growth = (
        np.log(ends / scale) if depth == 1 else (scale ** (-power * depth) - ends**-power) / (power * depth)
    )
    times[learned] = np.maximum(growth, 0) / (4 * q[learned])
    return times
