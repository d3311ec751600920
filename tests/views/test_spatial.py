"""Crops, flips and blurs against torchvision, image by image."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from hypothesis import given, settings, strategies as st
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.views.spatial import blur, crop_resize, hflip


def images_of(count, channels, height, width, seed=0):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


def torchvision_crop(image, box, size, interpolation, flip):
    mode = reference.InterpolationMode(interpolation)
    cropped = reference.resized_crop(image, *box.tolist(), [size, size], interpolation=mode, antialias=True)
    return (reference.horizontal_flip(cropped) if flip else cropped).clamp(0, 1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("channels", "height", "width", "size"), [(1, 28, 28, 28), (3, 33, 40, 16), (3, 9, 8, 21), (1, 64, 47, 8)]
)
def test_crop_resize_is_resized_crop(channels, height, width, size, interpolation):
    images = images_of(6, channels, height, width)
    boxes = torch.tensor(
        [
            [0, 0, height, width],
            [1, 2, height - 1, width - 3],
            [height - 5, width - 3, 5, 3],
            [0, 1, 1, 1],
            [2, 0, 4, width],
            [height // 2, width // 3, height // 2, width // 2],
        ]
    )
    flip = torch.tensor([False, True, True, False, True, False])
    expected = [
        torchvision_crop(*each, size, interpolation, flipped)
        for *each, flipped in zip(images, boxes, flip.tolist(), strict=True)
    ]
    found = crop_resize(images, boxes, size, interpolation, flip)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), bicubic=st.booleans(), flipped=st.booleans())
def test_any_box_at_any_size(data, bicubic, flipped):
    height, width, size = (data.draw(st.integers(1, 40)) for _ in range(3))
    tall, wide = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    box = [data.draw(st.integers(0, height - tall)), data.draw(st.integers(0, width - wide)), tall, wide]
    images, boxes = images_of(1, 1, height, width, seed=size), torch.tensor([box])
    interpolation = "bicubic" if bicubic else "bilinear"
    found = crop_resize(images, boxes, size, interpolation, torch.tensor([flipped]))
    expected = torchvision_crop(images[0], boxes[0], size, interpolation, flipped)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_whole_image_at_its_own_size_is_the_image(interpolation):
    images = images_of(3, 3, 15, 15)
    boxes = torch.tensor([[0, 0, 15, 15]]).expand(3, 4)
    # Where a pixel is read is a float32 number too.
    torch.testing.assert_close(crop_resize(images, boxes, 15, interpolation), images, atol=5e-6, rtol=0)


def test_large_photographs_agree_too():
    """Within float32's own error, which torchvision has too: the reference here is computed in float64."""
    images = images_of(1, 3, 300, 400)
    box = torch.tensor([[11, 90, 250, 303]])
    expected = torchvision_crop(images[0].double(), box[0], 224, "bicubic", True)
    found = crop_resize(images, box, 224, "bicubic", torch.tensor([True]))
    torch.testing.assert_close(found[0].double(), expected, atol=4e-5, rtol=0)


@pytest.mark.parametrize(
    "box", [[-1, 0, 3, 3], [0, 0, 0, 3], [0, 0, 3, 0], [0, 3, 3, 6], [5, 0, 4, 2]], ids=str
)
def test_a_box_outside_its_image_is_refused(box):
    boxes = torch.tensor([[0, 0, 8, 8], box])
    with refuses(UsageError, "8x8"):
        crop_resize(images_of(2, 1, 8, 8), boxes, 4)


def test_one_box_is_needed_for_each_image():
    with pytest.raises(UsageError, match=r"shape \(2, 4\).*\(1, 4\)"):
        crop_resize(images_of(2, 1, 8, 8), torch.tensor([[0, 0, 8, 8]]), 4)


def test_hflip_mirrors_only_the_masked():
    images = images_of(3, 3, 5, 6)
    before = images.clone()
    found = hflip(images, torch.tensor([True, False, True]))
    expected = [reference.horizontal_flip(images[0]), images[1], reference.horizontal_flip(images[2])]
    assert torch.equal(found, torch.stack(expected))
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("channels", "height", "width", "kernel_size"),
    [(1, 28, 28, 13), (3, 17, 30, 13), (3, 7, 8, 13), (1, 5, 5, 1)],
)
def test_blur_is_gaussian_blur(channels, height, width, kernel_size):
    images = images_of(5, channels, height, width)
    sigmas = torch.tensor([0.1, 0.7, 0.0, 2.0, 1.3])
    expected = [
        reference.gaussian_blur(image, [kernel_size] * 2, [sigma] * 2) if sigma else image
        for image, sigma in zip(images, sigmas.tolist(), strict=True)
    ]
    found = blur(images, sigmas, kernel_size)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)
    assert torch.equal(found[2], images[2])


@pytest.mark.parametrize("kernel_size", [4, 0, -3, 17])
def test_a_kernel_that_does_not_fit_is_refused(kernel_size):
    with pytest.raises(UsageError, match=rf"kernel_size={kernel_size} .* 8x9; .* at most 15"):
        blur(images_of(1, 1, 8, 9), torch.ones(1), kernel_size)


def weights_by_formula(start, length, before, after):
    """The docstring's W for one axis: a triangle around each place, over pixels with centres in the box."""
    s = length / after
    centres = np.arange(before) + 0.5
    inside = (centres >= start) & (centres <= start + length)
    places = start + s * (np.arange(after) + 0.5)
    weights = np.maximum(0, 1 - np.abs(centres - places[:, None]) / max(s, 1)) * inside
    return weights / weights.sum(1, keepdims=True)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(3, 20), flipped=st.booleans())
def test_boxes_of_parts_of_pixels_follow_the_formula_grown_or_shrunk(seed, size, flipped):
    random = np.random.default_rng(seed)
    image = random.random((2, 12, 9))
    tall, wide = 1 + random.random(2) * [11, 8]
    top, left = random.random(2) * [12 - tall, 9 - wide]
    rows, columns = weights_by_formula(top, tall, 12, size), weights_by_formula(left, wide, 9, size)
    expected = rows @ image @ (columns[::-1] if flipped else columns).T
    box = torch.tensor([[top, left, tall, wide]])
    found = crop_resize(
        torch.tensor(image, dtype=torch.float32)[None], box, size, flip=torch.tensor([flipped])
    )
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-5)
