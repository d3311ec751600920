"""Common corruptions of one image, each at five severities."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fullrank.data.decoding import to_array
from fullrank.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

SEVERITIES = (1, 2, 3, 4, 5)
Apply = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
_KNOTS = 4  # along each side; an elastic field is smooth between them


@dataclass(frozen=True)
class Corruption:
    """A way to corrupt an image (H, W, C) uint8, and its strength at each of `SEVERITIES`."""

    strengths: tuple[float, ...]
    apply: Apply
    needs_colour: bool = False


def corrupt(image: np.ndarray, kind: str, severity: int, random: np.random.Generator) -> np.ndarray:
    """A corrupted copy of an image (H, W, C) uint8.

    From the same state of `random`, each severity corrupts an image in the same way, only more strongly. Shot
    noise is the exception: it is drawn again.

    Args:
        image: The image.
        kind: The name of the corruption in `CORRUPTIONS`.
        severity: 1 to 5.
        random: The generator of the random numbers.

    Raises:
        UsageError: If the kind is unknown, the severity is outside 1 to 5, or the kind needs more channels.

    >>> image = np.full((8, 8, 1), 100, np.uint8)
    >>> int(corrupt(image, "brightness", 1, np.random.default_rng(0)).max())
    120

    Source: in the spirit of Hendrycks and Dietterich 2019, arXiv:1903.12261; accuracies are not comparable
    with those on ImageNet-C or CIFAR-10-C.
    """
    check_corruption(kind, severity, image.shape[2])
    corruption = CORRUPTIONS[kind]
    return corruption.apply(image, corruption.strengths[severity - 1], random)


def check_corruption(kind: str, severity: int, channels: int) -> None:
    """Raise UsageError if the kind is unknown, the severity not 1 to 5, or the kind needs more channels."""
    if kind not in CORRUPTIONS:
        raise unknown_name("corruption", kind, CORRUPTIONS, f"use {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise UsageError(f"A severity of {severity} is outside 1 to 5; choose one, or uncorrupted data.")
    if channels not in (1, 3):
        problem = f"The corruption {kind!r} needs grey or colour images, but these have {channels} channels"
        raise UsageError(f"{problem}; choose other data.")
    if CORRUPTIONS[kind].needs_colour and channels == 1:
        raise UsageError(f"The corruption {kind!r} needs colours, but the images are grey; choose another.")


def _gaussian_noise(image: np.ndarray, sigma: float, random: np.random.Generator) -> np.ndarray:
    return _eight_bit(image + 255 * sigma * random.standard_normal(image.shape))


def _shot_noise(image: np.ndarray, photons: float, random: np.random.Generator) -> np.ndarray:
    """Poisson(photons x) / photons for x in 0 to 1."""
    return _eight_bit(random.poisson(photons / 255 * image) * (255 / photons))


def _impulse_noise(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Make `share` of the values black or white, half of them each."""
    chance = random.random(image.shape)
    return np.where(chance < share / 2, 0, np.where(chance >= 1 - share / 2, 255, image)).astype(np.uint8)


def _gaussian_blur(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    sigma = strength * _root(image)
    # The image is padded by reflection, so half of the kernel must be smaller than the image's sides.
    width = 1 + 2 * min(math.ceil(3 * sigma), min(image.shape[:2]) - 1)
    return _by_torchvision(image, "gaussian_blur", kernel_size=[width, width], sigma=[sigma, sigma])


def _motion_blur(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """The mean over copies along a line in a random direction, at most one pixel apart."""
    import torch
    import torch.nn.functional as F

    height, width, _ = image.shape
    length, direction = strength * _root(image), random.uniform(0, math.pi)
    copies = 1 + 2 * math.ceil(length / 2)
    along = ((torch.arange(copies) + 0.5) / copies - 0.5) * length
    moved = torch.eye(2, 3).repeat(copies, 1, 1)
    moved[:, 0, 2] = along * math.cos(direction) * 2 / width
    moved[:, 1, 2] = along * math.sin(direction) * 2 / height
    pixels = _tensor(image).float().expand(copies, -1, -1, -1)
    grid = F.affine_grid(moved, list(pixels.shape), align_corners=False)
    return _array(F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False).mean(0))


def _pixelate(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Means over boxes; along each side their number is `share` of it. Boxes may share a pixel."""
    pixels = image.astype(np.float64)
    for axis in (0, 1):
        side = image.shape[axis]
        edges = np.linspace(0, side, 1 + max(1, round(share * side)))
        below = np.arange(side)
        overlaps = (np.minimum(edges[1:, None], below + 1) - np.maximum(edges[:-1, None], below)).clip(0)
        means = overlaps / overlaps.sum(1, keepdims=True)
        pixels = np.moveaxis(np.tensordot(overlaps.T @ means, pixels, (1, axis)), 0, axis)
    return _eight_bit(pixels)


def _jpeg(image: np.ndarray, quality: float, random: np.random.Generator) -> np.ndarray:
    # Pillow's JPEG, since torchvision deprecates its own.
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, "JPEG", quality=int(quality))
    with Image.open(file) as compressed:
        return to_array(compressed).copy()


def _rotate(image: np.ndarray, degrees: float, random: np.random.Generator) -> np.ndarray:
    from torchvision.transforms import InterpolationMode

    angle = float(random.choice((-1, 1))) * degrees
    return _by_torchvision(image, "rotate", angle=angle, interpolation=InterpolationMode.BILINEAR)


def _elastic(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Move every pixel by a smooth random field whose root mean square is `strength` of the side."""
    import torch
    import torch.nn.functional as F

    size = image.shape[:2]
    knots = torch.from_numpy(random.standard_normal((1, 2, _KNOTS, _KNOTS))).float()
    field = F.interpolate(knots, size, mode="bicubic", align_corners=True)[0]
    field *= strength * min(size) / field.square().mean().sqrt()
    # torchvision's unit is half the width and half the height.
    moved = torch.stack([field[0] * 2 / size[1], field[1] * 2 / size[0]], dim=-1)[None]
    return _by_torchvision(image, "elastic", displacement=moved)


def _by_setting(operation: str, setting: str) -> Apply:
    """An operation of torchvision whose only setting is the strength."""
    return lambda image, strength, random: _by_torchvision(image, operation, **{setting: strength})


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian-noise": Corruption((0.04, 0.08, 0.12, 0.18, 0.26), _gaussian_noise),  # standard deviation
    "shot-noise": Corruption((60, 25, 12, 5, 3), _shot_noise),  # number of photons for white
    "impulse-noise": Corruption((0.03, 0.06, 0.09, 0.17, 0.27), _impulse_noise),  # share of the values
    "gaussian-blur": Corruption((0.13, 0.17, 0.22, 0.28, 0.36), _gaussian_blur),  # sigma / root of the side
    "motion-blur": Corruption((0.5, 0.8, 1.1, 1.5, 2.0), _motion_blur),  # length / root of the side
    # The next three are factors of the values, of the distance from the mean, and of the distance from grey.
    "brightness": Corruption(
        (1.2, 1.4, 1.7, 2.0, 2.5), _by_setting("adjust_brightness", "brightness_factor")
    ),
    "contrast": Corruption((0.75, 0.5, 0.4, 0.3, 0.2), _by_setting("adjust_contrast", "contrast_factor")),
    "saturation": Corruption(
        (0.6, 0.4, 0.2, 0.1, 0.0), _by_setting("adjust_saturation", "saturation_factor"), needs_colour=True
    ),
    "pixelate": Corruption((0.75, 0.6, 0.5, 0.375, 0.25), _pixelate),  # boxes along a side / side
    "jpeg": Corruption((25, 18, 15, 10, 7), _jpeg),  # quality of 100
    "posterize": Corruption((5, 4, 3, 2, 1), _by_setting("posterize", "bits")),  # bits kept of 8
    # Values from this one up are inverted.
    "solarize": Corruption((224, 192, 160, 128, 96), _by_setting("solarize", "threshold")),
    "rotate": Corruption((6, 12, 18, 24, 30), _rotate),  # degrees, to either side
    "elastic": Corruption((0.02, 0.03, 0.04, 0.05, 0.06), _elastic),  # root mean square of the way / side
}
"""Shot noise, impulse noise and JPEG have ImageNet-C's strengths; all others are ours.

Blurs grow with the root of the side: in proportion to the side, ImageNet-C's would not change 8 pixels.
"""


def _root(image: np.ndarray) -> float:
    return math.sqrt(min(image.shape[:2]))


def _by_torchvision(image: np.ndarray, operation: str, **settings: Any) -> np.ndarray:
    """An operation of torchvision.transforms.v2.functional on an image (H, W, C) uint8."""
    from torchvision.transforms.v2 import functional

    return _array(getattr(functional, operation)(_tensor(image), **settings))


def _tensor(image: np.ndarray) -> "Tensor":
    import torch

    return torch.from_numpy(image.transpose(2, 0, 1).copy())


def _array(image: "Tensor") -> np.ndarray:
    """Any (C, H, W) in 0 to 255 as (H, W, C) uint8."""
    return _eight_bit(image.numpy().transpose(1, 2, 0))


def _eight_bit(image: np.ndarray) -> np.ndarray:
    levels = image if image.dtype == np.uint8 else np.rint(image).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(levels)
