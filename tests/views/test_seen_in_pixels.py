"""What AugSelf must predict of a crop, read off the pixels of two views of a ramp, without what was drawn."""

import numpy as np
import related_oracle as oracle
import torch

from fullrank import view_pipeline
from fullrank.batch import Batch
from fullrank.views import step_generator

SIDE, COUNT = 16, 64


def ramps() -> Batch:
    """Images whose two channels say of each pixel in which column and in which row it stands."""
    column = torch.arange(SIDE, dtype=torch.uint8).mul(8).add(60).expand(SIDE, SIDE)
    images = torch.stack([column, column.T]).expand(COUNT, 2, SIDE, SIDE).contiguous()
    nothing = torch.full((COUNT,), -1)
    return Batch(images, labels=nothing, index=torch.arange(COUNT))


def in_units(view: torch.Tensor) -> np.ndarray:
    """The column and the row that each pixel of a view came from, in units of the image."""
    return ((view.double().numpy() * 255 - 60) / 8 + 0.5) / SIDE


def seen_targets(view_a: np.ndarray, view_b: np.ndarray) -> list[float]:
    """Where the centre of the second view lies in the frame of the first, from pixels (2, S, S) alone."""
    middle = SIDE // 2
    centres, slopes = [], []
    for view in (view_a, view_b):
        centres.append((view[0].mean(), view[1].mean()))
        across = (view[0][:, middle] - view[0][:, middle - 1]).mean()
        down = (view[1][middle] - view[1][middle - 1]).mean()
        slopes.append((across, down))
    # One step to the right in the first view is a step of slopes[0][0] in the image, to the left if mirrored.
    steps_right = (centres[1][0] - centres[0][0]) / slopes[0][0]
    steps_down = (centres[1][1] - centres[0][1]) / slopes[0][1]
    sizes = [(SIDE * down, SIDE * abs(across)) for across, down in slopes]
    return [
        -steps_down * slopes[0][1],
        -steps_right * abs(slopes[0][0]),
        sizes[0][0] - sizes[1][0],
        sizes[0][1] - sizes[1][1],
    ]


def test_targets_of_a_crop_say_where_the_other_view_lies_in_the_first():
    views = view_pipeline("weak,scale=0.2", image_size=SIDE, channels=2)
    drawn = views.sample(COUNT, step_generator(seed=0, epoch=0, step=0))
    view_a, view_b = (in_units(view) for view in views.apply(ramps(), drawn))
    first, second = ({k: v.numpy() for k, v in view.items()} for view in (drawn.first, drawn.second))
    assert {(bool(a), bool(b)) for a, b in zip(first["flip"], second["flip"], strict=True)} == {
        (a, b) for a in (False, True) for b in (False, True)
    }
    targets = oracle.augself_targets(first, second, COUNT, (SIDE, SIDE), {}, {})["crop"]
    numbers = drawn.numbers()
    computed = torch.cat([each.differences()["crop"] for each in (numbers, numbers.swapped())])
    np.testing.assert_allclose(computed.numpy(), targets, atol=1e-6)
    for row in range(COUNT):
        np.testing.assert_allclose(targets[row], seen_targets(view_a[row], view_b[row]), atol=1e-4)
        np.testing.assert_allclose(targets[COUNT + row], seen_targets(view_b[row], view_a[row]), atol=1e-4)
