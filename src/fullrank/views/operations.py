"""Operations on a batch of images: draw parameters for each image, and apply them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fullrank.batch import as_float
from fullrank.errors import UsageError, unknown_name
from fullrank.views import colour
from fullrank.views.colour_map import ColourMap
from fullrank.views.spatial import Interpolation, blur, change_masked, crop_resize, hflip

Values = Mapping[str, Tensor]
Layers = Mapping[str, Tensor]
Source = tuple[int, int] | Tensor  # height and width of all images, or (N, 2) of each
_COLOURS = ("brightness", "contrast", "saturation", "hue")


class Operation(ABC):
    """One step of a pipeline. It draws values under one or more names. A missing name is switched off."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names that can be switched off."""

    @property
    def colour_names(self) -> tuple[str, ...]:
        """Those names that mix channels, and so need images of 1 or 3."""
        return ()

    @property
    def spans(self) -> dict[str, float]:
        """Name -> the width of the range that its factors are drawn from, where they have one."""
        return {}

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator, source: Source) -> dict[str, Tensor]:
        """Values of length `count`, in order of application.

        Args:
            count: The number of images.
            generator: The source of randomness.
            source: Height and width of all images, or (N, 2) of each.
        """

    @abstractmethod
    def apply(self, images: Tensor, values: Values) -> Tensor:
        """images (N, C, H, W) in 0 to 1 -> changed images. `images` may be overwritten.

        Names of other operations are ignored.
        """

    def compose(self, due: ColourMap, values: Values) -> ColourMap:
        """`apply`, added to `due` if it is an affine map of the colours, otherwise applied at once."""
        return ColourMap(self.apply(due.applied(), values))


@dataclass(frozen=True)
class _Chance:
    """An operation that hits each image with the same probability. Values: its `name` (N,) bool."""

    name: ClassVar[str]
    probability: float

    def __post_init__(self) -> None:
        check_probability(self.name, self.probability)

    @property
    def names(self) -> tuple[str, ...]:
        """Its name, unless its probability is 0."""
        return (self.name,) * (self.probability > 0)

    def sample(self, count: int, generator: torch.Generator, source: Source) -> dict[str, Tensor]:
        """Draw which images are hit."""
        return {self.name: _chance(count, generator, self.probability)}


@dataclass(frozen=True)
class Drop(_Chance):
    """A composite without one of its layers, so that what lies below becomes visible.

    It comes before the crop. It takes the image composed without the layer from `Batch.layers`, so nothing is
    inverted and later operations act on one image. Values: `drop` (N,) bool, true if the layer is missing.

    Args:
        probability: How often the layer is missing.
        layer: The layer.

    Raises:
        UsageError: For a probability outside 0 to 1.

    >>> drop = Drop(0.5)
    >>> images, below = torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1, dtype=torch.uint8)
    >>> drop.apply(images, {"drop": torch.tensor([True, False])}, {"foreground": below}).flatten()
    tensor([0., 1.])

    Source: P2, controlled data (authors' code), where a digit is dropped.
    """

    name = "drop"
    layer: str = "foreground"

    def sample(self, count: int, generator: torch.Generator, source: Source) -> dict[str, Tensor]:
        """Draw which images lose the layer. Nothing is drawn for a probability of 0."""
        return super().sample(count, generator, source) if self.names else {}

    def apply(self, images: Tensor, values: Values, layers: Layers) -> Tensor:
        """images (N, C, H, W) in 0 to 1 -> images, where those hit are taken from uint8 `layers`."""
        if "drop" not in values:
            return images
        self.check(layers)
        below = layers[self.layer]

        def restore(_: Tensor, which: Tensor) -> Tensor:
            return as_float(below.index_select(0, which.to(below.device, non_blocking=True)))

        return change_masked(images.clone(), values["drop"], restore)

    def check(self, layers: Collection[str]) -> None:
        """Raise UsageError unless images with these `layers` have the one to drop."""
        if self.probability > 0 and not layers:
            problem = f"drop={self.probability:g} removes the layer {self.layer!r} of composites"
            remedy = "leave drop out, or use composite:PRESET as the data"
            raise UsageError(f"{problem}, but these images have no layers; {remedy}.")
        if self.probability > 0 and self.layer not in layers:
            raise unknown_name("layer", self.layer, layers, f"these images have {', '.join(layers)}")


@dataclass(frozen=True)
class Crop(Operation):
    r"""A random box of the image, resampled to `size` by `size` and flipped with probability `flip`.

    The area of the box is uniform from `scale` to `largest` of the image's area. The logarithm of its aspect
    ratio w/h is uniform from log(3/4) to log(4/3). Height and width are rounded to whole pixels. Ten boxes
    are drawn for each image, and the first that fits is placed at random. If none fits, the largest centred
    box with an allowed aspect ratio is used. Values: `crop` (N, 4), int64, top, left, height, width; `flip`
    (N,), bool.

    Args:
        size: Height and width of the view, in pixels.
        scale: The smallest share of the area. 1 only resizes the whole image.
        flip: The probability of a horizontal flip.
        interpolation: `bilinear` or `bicubic`.
        largest: The largest share of the area, from `scale` to 1.

    Raises:
        UsageError: For a size below 1, a scale outside (0, 1], a `largest` below it or above 1, or a
            probability outside 0 to 1.

    >>> crop = Crop(size=4, scale=0.5, flip=0.0)
    >>> crop.sample(2, torch.Generator().manual_seed(0), source=(8, 8))["crop"].shape
    torch.Size([2, 4])

    Source: Szegedy et al. 2015; torchvision's `RandomResizedCrop`, with the same distribution.
    """

    size: int
    scale: float = 0.08
    flip: float = 0.5
    interpolation: Interpolation = "bilinear"
    largest: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"The size of a view must be 1 pixel or more, but got {self.size}; try 32.")
        if not 0 < self.scale <= 1:
            raise UsageError(f"scale={self.scale} must be above 0 and at most 1; 1 is no crop.")
        if not self.scale <= self.largest <= 1:
            limits = f"from scale={self.scale} to 1"
            raise UsageError(f"The largest share of a crop must lie {limits}, but got {self.largest}.")
        check_probability("flip", self.flip)

    @property
    def names(self) -> tuple[str, ...]:
        """`crop` and `flip`, unless they have no effect."""
        return ("crop",) * (self.scale < 1) + ("flip",) * (self.flip > 0)

    def sample(self, count: int, generator: torch.Generator, source: Source) -> dict[str, Tensor]:
        """Draw the boxes, and which images are flipped."""
        values = {}
        if self.scale < 1:
            values["crop"] = random_boxes(count, generator, source, self.scale, self.largest)
        if self.flip > 0:
            values["flip"] = _chance(count, generator, self.flip)
        return values

    def apply(self, images: Tensor, values: Values) -> Tensor:
        """Crop, resize and flip in one pass, into new memory.

        An image of the right size that is not cropped is not resampled.
        """
        boxes, mirror = values.get("crop"), values.get("flip")
        if boxes is None and images.shape[-2:] == (self.size, self.size):
            return images.clone() if mirror is None else hflip(images, mirror)
        if boxes is None:
            boxes = torch.tensor([[0, 0, *images.shape[-2:]]]).expand(len(images), 4)
        return crop_resize(images, boxes, self.size, self.interpolation, mirror)


@dataclass(frozen=True)
class Jitter(Operation):
    """Brightness, contrast, saturation and hue, all four together with probability `probability`.

    Factors are uniform from max(0, 1 - strength) to 1 + strength. The shift of the hue is uniform from -hue
    to hue. One order of the four is drawn for each view and batch; torchvision draws it for every image. A
    strength of 0 leaves its name out. Values: (N,) float32 under the four names; 1 (hue: 0) for an image that
    is not hit.

    Args:
        brightness: Strength, 0 or more.
        contrast: Strength, 0 or more.
        saturation: Strength, 0 or more.
        hue: The largest shift, as a share of the circle, 0 to 0.5.
        probability: How often an image is changed.
        turn: `hsv` is torchvision's hue. `linear` turns the colours about the grey axis.

    Raises:
        UsageError: For a negative strength, a hue above 0.5 or a probability outside 0 to 1.

    >>> Jitter(brightness=0.4, contrast=0.4, saturation=0.0, hue=0.0).names
    ('brightness', 'contrast')

    Source: torchvision's `ColorJitter` inside `RandomApply`, as in SimCLR's and P1's pipelines.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    probability: float = 0.8
    turn: Literal["hsv", "linear"] = "hsv"

    def __post_init__(self) -> None:
        for name in _COLOURS:
            strength = getattr(self, name)
            if not 0 <= strength < math.inf or (name == "hue" and strength > 0.5):
                limits = "from 0 to 0.5" if name == "hue" else "of 0 or more"
                raise UsageError(f"{name}={strength} must be a number {limits}; 0 leaves {name} out.")
        check_probability("jitter", self.probability)

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the four with a strength above 0."""
        return tuple(name for name in _COLOURS if self.probability > 0 and getattr(self, name) > 0)

    @property
    def colour_names(self) -> tuple[str, ...]:
        """All of them but brightness, which scales each channel alone."""
        return tuple(name for name in self.names if name != "brightness")

    def _range(self, name: str) -> tuple[float, float]:
        """The least and the largest factor of a name."""
        strength = getattr(self, name)
        return (-strength, strength) if name == "hue" else (max(0.0, 1.0 - strength), 1.0 + strength)

    @property
    def spans(self) -> dict[str, float]:
        """Name -> the width of the range that its factors are drawn from."""
        return {name: most - least for name in self.names for least, most in [self._range(name)]}

    def sample(self, count: int, generator: torch.Generator, source: Source) -> dict[str, Tensor]:
        """Draw which images change, the order, and the factor of each image."""
        hit = _chance(count, generator, self.probability)
        names = self.names
        values = {}
        for name in (names[i] for i in torch.randperm(len(names), generator=generator)):
            factors = _uniform(count, generator, *self._range(name))
            values[name] = torch.where(hit, factors, 0.0 if name == "hue" else 1.0).float()
        return values

    def apply(self, images: Tensor, values: Values) -> Tensor:
        """Apply the four in the order of `values`. `images` may be overwritten."""
        for name, factors in values.items():
            if name == "hue" and self.turn == "linear":
                images = colour.turn_hue(images, factors)
            elif name in self.names:
                images = getattr(colour, name)(images, factors, inplace=True)
        return images

    def compose(self, due: ColourMap, values: Values) -> ColourMap:
        """Add the four to `due`, in their order. A hue in HSV is not a matrix and is applied at once."""
        for name, factors in values.items():
            if name not in self.names:
                continue
            scaled = colour.scale_matrix(factors, due.channels)
            rest = colour.grey_matrix(1 - factors, due.channels)
            if name == "brightness":
                due.add(scaled)
            elif name == "contrast":
                due.add(scaled, of_mean=rest)
            elif name == "saturation":
                due.add(scaled + rest)
            elif self.turn == "hsv":
                due = ColourMap(colour.hue(due.applied(), factors, inplace=True))
            elif due.channels == 3:
                due.add(colour.turn_matrix(factors))
        return due


@dataclass(frozen=True)
class Grey(_Chance, Operation):
    """The image without its colours, with probability `probability`. Values: `grey` (N,) bool.

    Args:
        probability: How often an image becomes grey.

    >>> Grey(0.2).names
    ('grey',)

    Source: torchvision's `RandomGrayscale`.
    """

    name = "grey"

    @property
    def colour_names(self) -> tuple[str, ...]:
        """Its name."""
        return self.names

    def apply(self, images: Tensor, values: Values) -> Tensor:
        """Replace the colours of the images that are hit by grey. `images` may be overwritten."""
        return colour.grey(images, values["grey"], inplace=True) if "grey" in values else images

    def compose(self, due: ColourMap, values: Values) -> ColourMap:
        """Add it to `due`."""
        if "grey" in values:
            hit = values["grey"].float()
            due.add(colour.grey_matrix(hit, due.channels) + colour.scale_matrix(1 - hit, due.channels))
        return due


@dataclass(frozen=True)
class Blur(_Chance, Operation):
    """Gaussian blur with probability `probability` and a standard deviation uniform from 0.1 to 2 pixels.

    The kernel is always 13 pixels wide, three of the largest standard deviations to each side. In smaller
    views it is as wide as reflection at the border allows. P1 and SimCLR's ports use Pillow's
    `GaussianBlur(radius)`, box blurs that approximate this Gaussian. Values: `blur` (N,) float32, the
    standard deviation, 0 if not hit.

    Args:
        probability: How often an image is blurred.

    >>> Blur(1.0).sample(100, torch.Generator(), source=(32, 32))["blur"].max() <= 2.0
    tensor(True)

    Source: SimCLR, Appendix A; P1's released code.
    """

    name = "blur"

    def sample(self, count: int, generator: torch.Generator, source: Source) -> dict[str, Tensor]:
        """Draw which images are blurred, and how much."""
        hit = _chance(count, generator, self.probability)
        return {"blur": torch.where(hit, _uniform(count, generator, 0.1, 2.0), 0.0).float()}

    def apply(self, images: Tensor, values: Values) -> Tensor:
        """Blur the images that are hit. `images` may be overwritten."""
        if "blur" not in values:
            return images
        kernel_size = min(13, 2 * min(images.shape[-2:]) - 1)
        return blur(images, values["blur"], kernel_size, inplace=True)


@dataclass(frozen=True)
class Solarize(_Chance, Operation):
    """Values of 128/255 and above inverted, with probability `probability`. Values: `solarize` (N,) bool.

    Args:
        probability: How often an image is solarized.

    >>> Solarize(0.2).names
    ('solarize',)

    Source: P1's released code (Pillow's `solarize` at its default threshold).
    """

    name = "solarize"

    def apply(self, images: Tensor, values: Values) -> Tensor:
        """Solarize the images that are hit. `images` may be overwritten."""
        hit = values.get("solarize")
        return images if hit is None else colour.solarize(images, hit, inplace=True)


def random_boxes(
    count: int, generator: torch.Generator, source: Source, scale: float, largest: float = 1.0
) -> Tensor:
    """Boxes (count, 4), int64, as top, left, height, width, for `Crop`."""
    # The random numbers do not depend on the images' sizes, so a process can draw for the images of others.
    limit = torch.as_tensor(source, dtype=torch.float64, device="cpu").expand(count, 2)
    area = _uniform((count, 10), generator, scale, largest) * limit.prod(1, keepdim=True)
    ratio = _uniform((count, 10), generator, math.log(3 / 4), math.log(4 / 3)).exp_()
    place = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    tries = torch.stack([(area / ratio).sqrt_(), (area * ratio).sqrt_()], dim=-1).round_()
    fits = ((tries >= 1) & (tries <= limit[:, None])).all(-1)
    first, some_fits = fits.float().argmax(1), fits.any(1, keepdim=True)
    whole = torch.minimum(limit, (limit.flip(1) * 4 / 3).round_())
    extent = torch.where(some_fits, tries[torch.arange(count), first], whole)
    corner = torch.where(some_fits, place * (limit - extent + 1), (limit - whole) / 2).floor_()
    return torch.cat([corner, extent], dim=1).long()


def check_probability(name: str, value: float) -> None:
    """Raise UsageError unless `value` is between 0 and 1."""
    if not 0 <= value <= 1:
        raise UsageError(
            f"{name}={value} is not a valid probability; choose a number from 0 (never) to 1 (always)."
        )


def _uniform(shape: int | tuple[int, ...], generator: torch.Generator, least: float, most: float) -> Tensor:
    shape = (shape,) if isinstance(shape, int) else shape
    return torch.rand(shape, generator=generator, dtype=torch.float64).mul_(most - least).add_(least)


def _chance(count: int, generator: torch.Generator, probability: float) -> Tensor:
    return torch.rand(count, generator=generator, dtype=torch.float64) < probability
