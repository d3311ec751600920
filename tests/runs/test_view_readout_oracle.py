"""What features say about the views, where they are pooled pixels of a ramp: each answer follows by hand."""

from dataclasses import replace

import numpy as np
import pytest
import related_oracle as oracle
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from fullrank import view_pipeline
from fullrank.data import ImageSet
from fullrank.runs.view_readout import ReadModel, ViewReadout, read_views, view_readout

SIDE, COUNT = 12, 128
BY_HAND = pytest.approx(1.0, abs=0.02)


class Pooled(nn.Module):
    """h is the mean of each quarter and channel, in which boxes are linear; `rows` is the second channel."""

    places = ("rows",)
    feature_dim = 8

    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(1))

    def features(self, x: Tensor, places) -> dict[str, Tensor]:
        h = adaptive_avg_pool2d(x, 2).flatten(1)
        return {place: h if place == "h" else h[:, 4:] for place in places}

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x, ("h",))["h"]


class OneColumn(nn.Module):
    """z is one number, which does not move."""

    in_dim, out_dim = 8, 1

    def forward(self, h: Tensor) -> Tensor:
        return 0 * h[:, :1]


def ramps(split: str) -> ImageSet:
    """Images whose two channels say of each pixel in which column and in which row it stands."""
    column = np.broadcast_to(np.arange(SIDE, dtype=np.uint8) * 8 + 60, (SIDE, SIDE))
    images = np.broadcast_to(np.stack([column, column.T], 2), (COUNT, SIDE, SIDE, 2)).copy()
    return ImageSet(images, {"label": np.arange(COUNT) % 2}, {"label": ("a", "b")}, split=split)


def model_of(spec: str, channels: int = 2) -> ReadModel:
    views = view_pipeline(spec, image_size=SIDE, channels=channels)
    return ReadModel(Pooled(), OneColumn(), ("rows", "h", "z"), views, spec)


@pytest.fixture(scope="module")
def crops() -> ViewReadout:
    return view_readout(model_of("weak,scale=0.3"), ramps("train"), ramps("test"))


def value(found: ViewReadout, place: str, subject: str) -> float:
    (score,) = [each for each in found.scores if (each.place, each.subject) == (place, subject)]
    return score.value


def test_boxes_are_read_where_they_are_linear_because_flips_are_off(crops):
    """With flips the sign of the column's offset, and the slope across, would depend on the flip."""
    for number in ("row", "column", "height", "width"):
        assert value(crops, "h", f"crop {number}") == BY_HAND
    assert value(crops, "h", "crop") == BY_HAND
    assert value(crops, "rows", "crop row") == BY_HAND
    assert abs(value(crops, "rows", "crop column")) < 0.1  # that channel does not know the column
    assert value(crops, "z", "crop") <= 0


def test_the_flip_of_one_view_is_read_from_that_view(crops):
    assert value(crops, "h", "flip") == BY_HAND
    assert value(crops, "rows", "flip") == pytest.approx(0.5, abs=0.1)
    assert value(crops, "z", "flip") == 0.5


def test_features_belong_to_the_numbers_of_their_own_row():
    model = model_of("weak,scale=0.3,flip=0")
    rows = read_views(model, ramps("train"), rounds=2, stream=2)
    first, second = rows.features["h"].double().chunk(2)
    for features, numbers in ((first, rows.numbers.first), (second, rows.numbers.second)):
        centre = (features[:, :4].mean(1) * 255 - 60) / 8 + 0.5
        np.testing.assert_allclose(centre / SIDE, numbers["crop"][:, 1].double(), atol=1e-3)
    assert torch.equal(rows.images, torch.arange(COUNT).repeat(2))
    assert not torch.equal(*rows.features["h"][: COUNT * 2].chunk(2))  # each round draws anew


def test_scores_are_those_of_normal_equations_at_some_penalty():
    """On a place with noise no penalty is free, so the score is near that of the best one."""
    model = model_of("weak,scale=0.3,flip=0")
    model = replace(model, places=("rows",))
    train, test = (read_views(model, ramps(name), 4, at) for name, at in (("train", 2), ("test", 3)))
    x, test_x = (torch.cat(each.features["rows"].chunk(2), 1).double().numpy() for each in (train, test))
    y, test_y = (each.numbers.differences()["crop"].double().numpy() for each in (train, test))
    best = max(oracle.ridge_r2(x, y, test_x, test_y, 10.0**power)[0] for power in (-6, -4, -2, 0))
    found = view_readout(model, ramps("train"), ramps("test"))
    assert value(found, "rows", "crop") == pytest.approx(best, abs=0.03)
