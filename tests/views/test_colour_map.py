"""Colours changed in one map: against the chain one by one where nothing clamps, and NumPy where it would."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses
from scipy.spatial.transform import Rotation

from fullrank.batch import Batch
from fullrank.errors import UsageError
from fullrank.views import Grey, Jitter, Pipeline, colour, step_generator, view_pipeline
from fullrank.views.colour_map import ColourMap
from fullrank.views.pipeline import Views

LUMA = np.array([0.2989, 0.587, 0.114])


def batch_of(count, channels, least, most):
    images = torch.randint(least, most, (count, channels, 12, 12), generator=torch.Generator().manual_seed(0))
    return Batch(images.byte(), torch.full((count,), -1), torch.arange(count))


def one_by_one(views):
    """The same pipelines, every operation in a pass of its own."""
    first, second = (replace(pipeline, composed=False) for pipeline in (views.first, views.second))
    return Views(first, second, views.channels)


@settings(max_examples=30, deadline=None)
@given(
    step=st.integers(0, 10_000),
    way=st.sampled_from(["composed", "linear"]),
    channels=st.sampled_from([1, 3]),
)
def test_where_nothing_is_clamped_it_is_the_chain_one_by_one(step, way, channels):
    spec = f"simclr,brightness=0.2,contrast=0.3,saturation=0.3,colour={way}"
    views = view_pipeline(spec, image_size=12, channels=channels)
    batch = batch_of(6, channels, 100, 160)  # 0.39 to 0.63: no factor above reaches 0 or 1
    drawn = views.sample(6, step_generator(0, 0, step))
    for found, expected in zip(views.apply(batch, drawn), one_by_one(views).apply(batch, drawn), strict=True):
        assert expected.min() > 0.05 and expected.max() < 0.95
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def without_clamping(image, order, values, row):
    """The chain for one image (3, H, W) in NumPy's float64, clamped at its end alone."""
    x = image.astype(np.float64)
    for name in order:
        f = float(values[name][row])
        grey = np.tensordot(LUMA, x, 1)
        if name == "brightness":
            x = f * x
        elif name == "contrast":
            x = f * x + (1 - f) * grey.mean()
        elif name == "saturation":
            x = f * x + (1 - f) * grey
        elif name == "hue":
            turn = Rotation.from_rotvec(2 * math.pi * f * np.ones(3) / math.sqrt(3)).as_matrix()
            x = np.tensordot(turn, x, 1)
        elif f:
            x = np.broadcast_to(grey, x.shape)
    return x.clip(0, 1)


@pytest.mark.parametrize("step", range(6))
def test_strong_changes_are_clamped_at_the_end_and_not_between(step):
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(step))
    jitter, grey = Jitter(0.9, 0.9, 0.9, 0.5, turn="linear"), Grey(0.3)
    generator = step_generator(0, 0, step)
    values = jitter.sample(5, generator, (8, 8)) | grey.sample(5, generator, (8, 8))
    due = grey.compose(jitter.compose(ColourMap(images), values), values)
    expected = [without_clamping(image.numpy(), values, values, row) for row, image in enumerate(images)]
    torch.testing.assert_close(due.applied().double().numpy(), np.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("thirds", [-1, 0, 1])
def test_thirds_of_the_circle_permute_the_colours_for_both_hues(thirds):
    images = torch.rand(2, 3, 4, 4)
    turned = colour.turn_hue(images, torch.full((2,), thirds / 3))
    torch.testing.assert_close(turned, images.roll(thirds, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(colour.hue(images, torch.full((2,), thirds / 3)), turned, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shift", [-0.4, 0.07, 0.5])
def test_a_turn_keeps_grey_and_the_mean_and_spread_of_a_pixel(shift):
    images = 0.4 + 0.2 * torch.rand(1, 3, 4, 4)
    turned = colour.turn_hue(images, torch.tensor([shift]))
    torch.testing.assert_close(turned.mean(1), images.mean(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(turned.var(1), images.var(1), atol=1e-6, rtol=0)
    plain = images.mean(1, keepdim=True).expand_as(images)
    torch.testing.assert_close(colour.turn_hue(plain, torch.tensor([shift])), plain, atol=1e-6, rtol=0)
    assert torch.equal(colour.turn_hue(images[:, :1], torch.tensor([shift])), images[:, :1])


def test_nothing_due_gives_the_images_themselves():
    images = torch.rand(1, 3, 2, 2)
    assert ColourMap(images).applied() is images


@pytest.mark.parametrize("name", ["simclr", "directclr"])
def test_the_recipe_says_which_way(name):
    ways = {
        way: view_pipeline(f"{name},colour={way}", image_size=8) for way in ("exact", "composed", "linear")
    }
    assert {way: views.first.composed for way, views in ways.items()} == {
        "exact": False,
        "composed": True,
        "linear": True,
    }
    turns = {way: views.first.then[0].turn for way, views in ways.items()}
    assert turns == {"exact": "hsv", "composed": "hsv", "linear": "linear"}
    assert not Pipeline(ways["exact"].first.crop).composed
    with refuses(UsageError, "colour", "exact", "composed", "linear", "'fast'"):
        view_pipeline(f"{name},colour=fast", image_size=8)
