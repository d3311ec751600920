"""Gradient flow of a few matrices: by SciPy's adaptive solver, and by plain gradient descent."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import DOP853, OdeSolver

from fullrank.errors import UsageError

Array = NDArray[np.float64]
Weights = tuple[Array, ...]
Velocity = Callable[[Weights], Weights]


@dataclass(frozen=True)
class Trajectory:
    """Weights over time: `weights` has one array (T, *shape) a layer, `times` (T,) the times reached.

    `diverged_at` is the time at which the weights grew without bound, or None; `times` ends before it.
    """

    times: Array
    weights: Weights
    diverged_at: float | None = None

    @property
    def last(self) -> Weights:
        """The weights at the last time that was reached."""
        return tuple(layer[-1] for layer in self.weights)


def integrate(
    velocity: Velocity, start: Weights, times: ArrayLike, *, rtol: float = 1e-10, atol: float = 1e-12
) -> Trajectory:
    r"""The flow :math:`\dot W = V(W)` from `start` at `times` (T,), ascending, the first of them being t = 0.

    A flow that grows faster than exponentially has no bound in finite time. That time is reported, to about
    1e-8 of itself: there the step is smaller than float64 can add to t. Raises UsageError for times
    that do not ascend from 0. Source: Hairer, Norsett and Wanner 1993, Section II.5 (DOP853, as in SciPy).

    >>> exponential = integrate(lambda w: (-w[0],), (np.ones((1, 1)),), [0.0, 1.0])
    >>> round(float(exponential.last[0][0, 0]), 9)
    0.367879441
    >>> squared = integrate(lambda w: (w[0] ** 2,), (np.ones((1, 1)),), [0.0, 0.5, 2.0])
    >>> squared.times.tolist(), round(squared.diverged_at, 6)
    ([0.0, 0.5], 1.0)
    """
    times = np.asarray(times, np.float64)
    ascending = times.ndim == 1 and len(times) > 1 and times[0] == 0 and (np.diff(times) > 0).all()
    if not ascending or np.isinf(times[-1]):
        raise UsageError(f"A flow needs 2 or more finite times that ascend from 0, but got {times}.")
    reached = [flat(start)]
    for solver in solver_steps(DOP853, velocity, start, float(times[-1]), rtol=rtol, atol=atol):
        due = times[len(reached) :]
        due = due[due <= solver.t]
        if len(due):
            between = solver.dense_output()
            reached += [between(time) for time in due]
    diverged = float(solver.t) if solver.status == "failed" else None
    return Trajectory(times[: len(reached)], split(np.stack(reached), start), diverged)


def descend(
    velocity: Velocity, start: Weights, *, rate: float, steps: int, keep_every: int = 1
) -> Trajectory:
    r"""Gradient descent :math:`W_{k+1} = W_k + \eta V(W_k)`, the flow's Euler steps; time is :math:`\eta k`.

    The weights of every `keep_every`-th step and of the last are kept. Descent ends when a weight is no
    longer finite, and that time is reported. Raises UsageError for a rate or a number of steps that is not
    above 0.

    >>> twin = descend(lambda w: (-w[0],), (np.ones((1, 1)),), rate=1e-4, steps=10_000, keep_every=5_000)
    >>> twin.times.tolist(), round(float(twin.last[0][0, 0]), 3)
    ([0.0, 0.5, 1.0], 0.368)
    """
    if not rate > 0 or steps < 1 or keep_every < 1:
        raise UsageError(
            f"Descent needs a rate above 0 and 1 step or more, but got rate {rate}, {steps} steps and "
            f"keep_every {keep_every}."
        )
    weights = tuple(np.asarray(layer, np.float64) for layer in start)
    reached, times, diverged = [flat(weights)], [0.0], None
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(1, steps + 1):
            change = velocity(weights)
            weights = tuple(layer + rate * its for layer, its in zip(weights, change, strict=True))
            if not all(np.isfinite(layer).all() for layer in weights):
                diverged = rate * step
                break
            if step % keep_every == 0 or step == steps:
                reached.append(flat(weights))
                times.append(rate * step)
    return Trajectory(np.array(times), split(np.stack(reached), start), diverged)


def solver_steps(
    method: type[OdeSolver], velocity: Velocity, start: Weights, end: float, **tolerances: float
) -> Iterator[OdeSolver]:
    """One of SciPy's solvers after each step from time 0, until `end` or until a step fails."""
    solver = method(lambda _, at: flat(velocity(split(at, start))), 0.0, flat(start), end, **tolerances)
    while solver.status == "running":
        # When the weights diverge, their products exceed the largest float before the solver notices.
        with np.errstate(over="ignore", invalid="ignore"):
            solver.step()
        yield solver


def flat(weights: Weights) -> Array:
    """All layers in one vector."""
    return np.concatenate([np.asarray(layer, np.float64).ravel() for layer in weights])


def split(vectors: Array, like: Weights) -> Weights:
    """The layers of vectors (..., n), each of shape (..., *shape of the layer in `like`)."""
    ends = accumulate((layer.size for layer in like), initial=0)
    shapes = (vectors.shape[:-1] + layer.shape for layer in like)
    return tuple(
        vectors[..., low:high].reshape(shape)
        for (low, high), shape in zip(pairwise(ends), shapes, strict=True)
    )
