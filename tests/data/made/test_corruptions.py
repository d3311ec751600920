"""Corruptions: torchvision, SciPy and closed forms as oracles, what holds for every kind, what is refused."""

import numpy as np
import pytest
import torch
from refusals import refuses
from scipy import fft, ndimage
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from fullrank.data import SOURCES, corrupt, source
from fullrank.data.made.corruptions import CORRUPTIONS, SEVERITIES
from fullrank.errors import UsageError

RGB = source("composite:two-cues,n=200").load("test").images[:40]
GREY = source("digits").load("test").images[:40]
COLOURED = [kind for kind, corruption in CORRUPTIONS.items() if corruption.needs_colour]


def spoilt(images: np.ndarray, kind: str, severity: int, seed: int = 0) -> np.ndarray:
    """Each image with draws of its own, the same at every severity."""
    return np.stack(
        [
            corrupt(image, kind, severity, np.random.default_rng([seed, row]))
            for row, image in enumerate(images)
        ]
    )


def strength(kind: str, severity: int) -> float:
    return CORRUPTIONS[kind].strengths[severity - 1]


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("images", [GREY, RGB], ids=["grey", "rgb"])
def test_every_severity_goes_further_from_the_clean_images(kind, images, fails):
    if kind in COLOURED and images.shape[3] == 1:
        with fails(UsageError, f"'{kind}'", "grey"):
            corrupt(images[0], kind, 1, np.random.default_rng(0))
        return
    before, distances = images.copy(), [0.0]
    for severity in SEVERITIES:
        made = spoilt(images, kind, severity)
        assert made.dtype == np.uint8 and made.shape == images.shape and made.flags.c_contiguous
        assert np.array_equal(made, spoilt(images, kind, severity))
        distances.append(np.square(made.astype(float) - images).mean())
    assert (np.diff(distances) > 0).all(), distances
    assert np.array_equal(images, before)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 3, 3), (9, 14, 3), (33, 20, 3)])
def test_any_shape_is_kept(kind, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for severity in (1, 5):
        made = corrupt(image, kind, severity, np.random.default_rng(0))
        assert made.shape == shape and made.dtype == np.uint8


TORCHVISION = {
    "brightness": lambda image, factor: functional.adjust_brightness(image, factor),
    "contrast": lambda image, factor: functional.adjust_contrast(image, factor),
    "saturation": lambda image, factor: functional.adjust_saturation(image, factor),
    "posterize": lambda image, bits: functional.posterize(image, int(bits)),
    "solarize": lambda image, threshold: functional.solarize(image, threshold),
}


@pytest.mark.parametrize("kind", TORCHVISION)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_operations_of_torchvision_are_its_own(kind, severity):
    batch = torch.from_numpy(RGB).permute(0, 3, 1, 2)
    expected = torch.stack([TORCHVISION[kind](image, strength(kind, severity)) for image in batch])
    assert np.array_equal(spoilt(RGB, kind, severity), expected.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("severity", SEVERITIES)
def test_images_are_turned_to_either_side_as_torchvision_turns_them(severity):
    batch, angle = torch.from_numpy(GREY).permute(0, 3, 1, 2), strength("rotate", severity)
    left, right = (
        functional.rotate(batch, turn, InterpolationMode.BILINEAR).permute(0, 2, 3, 1).numpy()
        for turn in (angle, -angle)
    )
    turned = spoilt(GREY, "rotate", severity)
    to_left = (turned == left).all((1, 2, 3))
    assert (to_left | (turned == right).all((1, 2, 3))).all() and 10 < to_left.sum() < 30


@pytest.mark.parametrize("severity", SEVERITIES)
def test_scipy_blurs_the_same(severity):
    side = 32
    image = np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)
    sigma = strength("gaussian-blur", severity) * side**0.5
    expected = ndimage.gaussian_filter(image.astype(float), sigma, mode="mirror", axes=(0, 1), truncate=6)
    made = corrupt(image, "gaussian-blur", severity, np.random.default_rng(0))
    assert np.abs(made - expected).max() < 1.5  # our kernel ends at three sigmas


LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
"""ITU-T T.81, Table K.1; below a quality q of 50 libjpeg takes [5000 / q] hundredths of it."""


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_rounds_the_cosine_transform(severity):
    """A digit is one block, so its compressed version has a closed form."""
    steps = ((LUMINANCE * (5000 // int(strength("jpeg", severity))) + 50) // 100).clip(1, 255)
    waves = fft.dctn(GREY[..., 0] - 128.0, axes=(1, 2), norm="ortho")
    expected = fft.idctn(np.rint(waves / steps) * steps, axes=(1, 2), norm="ortho") + 128
    errors = np.abs(spoilt(GREY, "jpeg", severity)[..., 0] - expected.clip(0, 255))
    # A wave close to half a step may be rounded either way.
    assert (errors.max((1, 2)) < 0.7).mean() > 0.8


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_boxes_that_fit_are_means_of_their_pixels(share):
    severity = CORRUPTIONS["pixelate"].strengths.index(share) + 1
    made, side = spoilt(GREY, "pixelate", severity)[..., 0], round(1 / share)
    boxes = 8 // side
    means = GREY.reshape(-1, boxes, side, boxes, side).mean((2, 4))
    assert np.array_equal(made, np.rint(np.kron(means, np.ones((side, side)))))


def test_boxes_that_do_not_fit_keep_the_mean_and_flat_images():
    for severity in SEVERITIES:
        made = spoilt(RGB, "pixelate", severity).astype(float)
        assert np.abs((made - RGB).mean((1, 2))).max() < 0.5  # half a level of rounding
        flat = np.full((7, 10, 3), 90, np.uint8)
        assert np.array_equal(corrupt(flat, "pixelate", severity, np.random.default_rng(0)), flat)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_spread_that_it_says(severity):
    grey = np.full((100, 100, 3), 102, np.uint8)  # two fifths of white
    random = np.random.default_rng(3)
    sigma = strength("gaussian-noise", severity)
    made = corrupt(grey, "gaussian-noise", severity, random)
    kept = (made > 0) & (made < 255)
    quantiles = np.quantile(made, [0.3, 0.5, 0.7])  # away from what is clipped
    assert np.abs(quantiles - (102 + 255 * sigma * np.array([-0.5244, 0, 0.5244]))).max() < 2.5
    assert kept.mean() > 0.8

    photons = strength("shot-noise", severity)
    made = corrupt(grey, "shot-noise", severity, random)
    share_black = np.exp(-0.4 * photons)  # no photon arrives
    assert abs((made == 0).mean() - share_black) < 0.01
    if photons >= 12:  # above white hardly anything is clipped
        assert abs(made.mean() - 102) < 1 and abs(made.std() - 255 * (0.4 / photons) ** 0.5) < 2

    share = strength("impulse-noise", severity)
    made = corrupt(grey, "impulse-noise", severity, random)
    assert abs((made == 0).mean() - share / 2) < 0.01 and abs((made == 255).mean() - share / 2) < 0.01
    assert set(np.unique(made)) == {0, 102, 255}


@pytest.mark.parametrize("severity", SEVERITIES)
def test_a_point_in_motion_is_a_line_of_the_length_that_it_says(severity):
    image = np.zeros((81, 81, 1), np.uint8)
    image[39:42, 39:42] = 255
    length = 9 * strength("motion-blur", severity)
    y, x = np.mgrid[:81, :81] - 40
    directions = []
    for seed in range(6):
        mass = corrupt(image, "motion-blur", severity, np.random.default_rng(seed))[..., 0].astype(float)
        mass /= mass.sum()
        assert abs((mass * x).sum()) < 0.2 and abs((mass * y).sum()) < 0.2
        moments = np.array([[(mass * a * b).sum() for a in (x, y)] for b in (x, y)])
        narrow, wide = np.linalg.eigvalsh(moments)
        spread = wide - narrow  # a uniform line of length l has a variance of l^2 / 12
        assert abs(spread / (length**2 / 12) - 1) < 0.2
        assert narrow < 1.3  # two thirds from the point, the rest from the interpolation
        directions.append(moments[0, 1])
    assert min(directions) < 0 < max(directions)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_an_elastic_field_moves_pixels_as_far_as_it_says(severity):
    """On two ramps the new values are the places where they come from."""
    side = 64
    y, x = np.mgrid[:side, :side]
    image = np.stack([4 * x, 4 * y, 0 * x], axis=-1).clip(0, 255).astype(np.uint8)
    moves = []
    for seed in range(40):
        made = corrupt(image, "elastic", severity, np.random.default_rng(seed)).astype(float)
        moves.append((made - image)[12:-12, 12:-12, :2] / 4)
    found = np.sqrt(np.square(moves).mean((0, 1, 2)))  # across, down
    # The mean square is over the whole image, where knots at the edge move more than what lies between.
    ratios = found / (strength("elastic", severity) * side)
    assert ratios.min() > 0.75 and ratios.max() < 1.1
    slopes = np.diff(np.array(moves), axis=1)
    assert np.sqrt(np.square(slopes).mean()) < 0.15 * found.min(), "the field must be smooth"


def test_the_catalogue_names_every_kind():
    assert SOURCES["corrupted"].value.choices == tuple(CORRUPTIONS)
    assert all(len(corruption.strengths) == len(SEVERITIES) for corruption in CORRUPTIONS.values())


def test_what_cannot_be_done_is_refused(fails):
    random = np.random.default_rng(0)
    for severity in (0, -1, 6):
        with fails(UsageError, f"severity of {severity}", "1 to 5"):
            corrupt(RGB[0], "jpeg", severity, random)
    with refuses(UsageError, "'gausian-noise'", "'gaussian-noise'"):
        corrupt(RGB[0], "gausian-noise", 1, random)
