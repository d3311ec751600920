"""Colour changes against torchvision, image by image."""

import pytest
import torch
import torchvision.transforms.v2.functional as reference
from hypothesis import given, settings, strategies as st

from fullrank.views import colour

FACTORS = [0.0, 0.3, 1.0, 1.4, 2.5]
SHIFTS = [-0.5, -0.07, 0.0, 0.1, 0.5]


@pytest.fixture(params=[(1, 28, 28), (3, 17, 10)], ids=["grey", "rgb"])
def images(request):
    return torch.rand(5, *request.param, generator=torch.Generator().manual_seed(0))


def one_by_one(function, images, values):
    return torch.stack([function(image, value) for image, value in zip(images, values, strict=True)])


@pytest.mark.parametrize(
    ("name", "values"),
    [("brightness", FACTORS), ("contrast", FACTORS), ("saturation", FACTORS), ("hue", SHIFTS)],
)
def test_factors_agree_with_torchvision(name, values, images):
    before = images.clone()
    found = getattr(colour, name)(images, torch.tensor(values))
    expected = one_by_one(getattr(reference, f"adjust_{name}"), images, values)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert torch.equal(found[2], images[2]), "the neutral value must change nothing"
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("grey", lambda image: reference.rgb_to_grayscale(image, num_output_channels=len(image))),
        ("solarize", lambda image: reference.solarize(image, 128 / 255)),
    ],
)
def test_masks_agree_with_torchvision(name, changed, images):
    before = images.clone()
    mask = torch.tensor([True, False, True, False, False])
    found = getattr(colour, name)(images, mask)
    expected = torch.stack([changed(x) if hit else x for x, hit in zip(images, mask, strict=True)])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert torch.equal(images, before)


def test_solarize_inverts_what_8_bit_images_would_have_inverted():
    levels = torch.arange(256, dtype=torch.uint8)
    expected = torch.where(levels >= 128, 255 - levels.int(), levels.int())
    found = colour.solarize(levels.float().div(255).view(1, 1, 1, 256), torch.tensor([True]))
    assert torch.equal(found.mul(255).round().int().flatten(), expected)


@settings(max_examples=100, deadline=None)
@given(
    pixel=st.lists(st.integers(0, 255), min_size=3, max_size=3),
    shift=st.floats(-0.5, 0.5, width=32).filter(lambda shift: abs(shift) > 1e-6),
)
def test_hue_of_any_pixel(pixel, shift):
    """Ties between colours, greys, black and white, where HSV has its corners."""
    image = torch.tensor(pixel).div(255).view(1, 3, 1, 1)
    expected = reference.adjust_hue(image[0], shift)
    torch.testing.assert_close(colour.hue(image, torch.tensor([shift]))[0], expected, atol=2e-5, rtol=0)
