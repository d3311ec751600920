"""A step of random features and random view parameters, on which any term can be tried."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from fullrank.step import Step
from fullrank.view_numbers import NEUTRAL, SWITCHES, ViewNumbers

# The places of a tiny-resnet, and every operation of the views.
PLACES = ("stem", "stage1.1", "stage2.1", "stage3.1", "stage3.2", "last-conv-input")
VIEW_DIMS = {name: len(neutral) for name, neutral in NEUTRAL.items()}


def random_numbers(count: int, views: int = 2) -> ViewNumbers:
    """Parameters of views of `count` images, from torch's generator; a switch is on for half of them."""
    first, second, *more = (
        {
            name: torch.rand(count, width).round() if name in SWITCHES else torch.rand(count, width)
            for name, width in VIEW_DIMS.items()
        }
        for _ in range(views)
    )
    return ViewNumbers(first, second, tuple(more))


def taken(numbers: ViewNumbers, rows: Tensor) -> ViewNumbers:
    """The parameters of the images `rows`."""
    first, second, *more = ({name: values[rows] for name, values in view.items()} for view in numbers.views)
    return ViewNumbers(first, second, tuple(more))


def alternating_cues(names: Iterable[str], count: int) -> dict[str, Tensor]:
    """Labels (count,) of these names: two of value 0, two of value 1, and so on."""
    return {name: torch.arange(count) // 2 % 2 for name in names}


def step_of(
    h: Tensor,
    z: Tensor,
    views: ViewNumbers,
    labels: Tensor,
    generator: torch.Generator | None = None,
    cues: Mapping[str, Tensor] | None = None,
) -> Step:
    """A step with h (2N, D) at every place of `PLACES`, late enough in a training for every term to count."""
    features = dict.fromkeys(PLACES, h)
    return Step(h, z, features, views, labels, generator, progress=0.7, cues=cues or {})
