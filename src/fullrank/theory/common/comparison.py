"""What the demos share: settings, rows and columns, lines over time, and phrases that compare two arrays."""

from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from fullrank.theory.common.flow import Array, Trajectory, Velocity
from fullrank.theory.common.inputs import Indices, Mask
from fullrank.theory.common.steady_state import remaining_gradient
from fullrank.theory.common.theorem import Curve, Numbers, Panel
from fullrank.theory.weighting.spectral_model import measured_weights

STRENGTHS, KEEP = (2.0, 1.0, 0.5, 1.0, 0.7), (1.0, 0.9, 1.0, 0.3, 0.6)
_CLOSE = 1e-4
# Solver steps come by the thousand; a line on a page needs no more points than these.
_POINTS = 150

WEAKEST, STRONGEST = 1e-3, 1e3


def _in_range(strengths: tuple[float, ...]) -> tuple[float, ...]:
    # Beyond these a flow takes minutes or its moments overflow; what is not above 0 is refused by the theory.
    wrong = [value for value in strengths if value > 0 and not WEAKEST <= value <= STRONGEST]
    if wrong:
        raise ValueError(f"{wrong[0]:g} is not from {WEAKEST:g} to {STRONGEST:g}")
    return strengths


Strengths = Annotated[
    Numbers, AfterValidator(_in_range), Field(description="strength of each feature in the input")
]
Keep = Annotated[Numbers, Field(description="probability that a view keeps each feature, 0 to 1")]
Depth = Annotated[int, Field(ge=1, le=12, description="number of linear layers")]
Seed = Annotated[int, Field(ge=0, description="seed of what is drawn")]

TIME_PANEL = Panel("Weight over time", "time", "weight after the last layer", log_x=True)


def feature_names(count: int) -> tuple[str, ...]:
    """The columns of an outcome: "feature 1", "feature 2" and so on."""
    return tuple(f"feature {number}" for number in range(1, count + 1))


def layer_names(depth: int) -> tuple[str, ...]:
    """The rows of an outcome, "layer 1 (pre)" and so on; only of two layers is the first before the head."""
    ends = {depth: " (post)"} | ({1: " (pre)"} if depth == 2 else {})
    return tuple(f"layer {number}{ends.get(number, '')}" for number in range(1, depth + 1))


def over_time(path: Trajectory, names: tuple[str, ...], strengths: Any, ends: Array) -> list[Curve]:
    """The weights after the last layer over time, and the predicted weights."""
    shown = spread(len(path.times))[1:]
    layers = zip(*(layer[shown] for layer in path.weights), strict=True)
    weights = np.stack([measured_weights(at_one_time, strengths)[-1] for at_one_time in layers])
    times = path.times[shown]
    curves = [Curve(TIME_PANEL.title, name, times, weights[:, i]) for i, name in enumerate(names)]
    for name, end in zip(names, ends, strict=True):
        curves.append(Curve(TIME_PANEL.title, name, times[[0, -1]], np.full(2, end), dashed=True))
    return curves


def spread(count: int) -> Indices:
    """Indices of at most 150 of `count` steps, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).round().astype(np.intp))


def relative_gap(predicted: Array, simulated: Array) -> Array:
    """The gap over the prediction, or over the largest prediction of its row where that is 0."""
    scale = np.where(predicted > 0, predicted, predicted.max(-1, keepdims=True))
    return np.asarray(np.abs(simulated - predicted) / np.where(scale > 0, scale, 1.0))


def gap(predicted: Array, simulated: Array) -> str:
    """The largest relative gap, as the end of a sentence."""
    return f"prediction and simulation differ by {relative_gap(predicted, simulated).max():.1e} at most"


def shortfall(predicted: Array, simulated: Array, velocity: Velocity, path: Trajectory) -> list[str]:
    """Which features the flow left short of the prediction, with the gradient that remained."""
    far: Mask = np.asarray(relative_gap(predicted, simulated).max(axis=0) > _CLOSE)
    if path.diverged_at is not None:
        return [f"The flow left every bound at time {path.diverged_at:.6g}; what is shown is from before."]
    if not far.any():
        return []
    left = remaining_gradient(velocity, path.last)
    return [
        f"{phrase(feature_names(len(far)), far).capitalize()} had not come to the prediction by time "
        f"{path.times[-1]:.3g}; the remaining gradient has norm {left:.1e}."
    ]


def phrase(names: tuple[str, ...], which: Any) -> str:
    """The names at which `which` is true, as in "feature 1, feature 3 and feature 4"."""
    *first, last = [name for name, taken in zip(names, which, strict=True) if taken] or ["no feature"]
    return f"{', '.join(first)} and {last}" if first else last


def listed(values: Any) -> str:
    """Numbers in a sentence, to 4 digits."""
    return ", ".join(f"{value:.4g}" for value in values) or "nothing"
