"""Colour changes of a batch, with a separate parameter for each image. All values are in 0 to 1.

All but `turn_hue` agree with torchvision's function of the same purpose on each image. With `inplace` they
overwrite the images, so that a chain of them stays in a CPU's cache. On images with one channel, saturation,
hue and grey change nothing.
"""

import math

import torch
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)


def brightness(images: Tensor, factors: Tensor, *, inplace: bool = False) -> Tensor:
    """Scale each image: clamp(f x, 0, 1).

    Args:
        images: Images (N, C, H, W) in 0 to 1.
        factors: f (N,), 0 or more. 1 changes nothing.
        inplace: Overwrite the images.

    >>> brightness(torch.full((1, 1, 1, 1), 0.25), torch.tensor([2.0])).item()
    0.5

    Source: torchvision's `adjust_brightness`.
    """
    images = images if inplace else images.clone()
    return images.mul_(_per_image(factors, images)).clamp_(0.0, 1.0)


def contrast(images: Tensor, factors: Tensor, *, inplace: bool = False) -> Tensor:
    """Scale the difference of each image from its mean grey m: clamp(f x + (1 - f) m, 0, 1).

    Args:
        images: Images (N, 1 or 3, H, W) in 0 to 1.
        factors: f (N,). 1 changes nothing.
        inplace: Overwrite the images.

    >>> contrast(torch.tensor([[[[0.25, 0.75]]]]), torch.tensor([0.5]))
    tensor([[[[0.3750, 0.6250]]]])

    Source: torchvision's `adjust_contrast`.
    """
    images = images if inplace else images.clone()
    factors = _per_image(factors, images)
    means = _luma(images.mean((2, 3), keepdim=True))
    return images.mul_(factors).add_(means * (1.0 - factors)).clamp_(0.0, 1.0)


def saturation(images: Tensor, factors: Tensor, *, inplace: bool = False) -> Tensor:
    """Scale the difference of each image from its grey version g: clamp(f x + (1 - f) g, 0, 1).

    Args:
        images: Images (N, 1 or 3, H, W) in 0 to 1.
        factors: f (N,). 1 changes nothing.
        inplace: Overwrite the images.

    >>> saturation(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1), torch.tensor([0.0])).flatten()
    tensor([0.2989, 0.2989, 0.2989])

    Source: torchvision's `adjust_saturation`.
    """
    images = images if inplace else images.clone()
    if images.shape[1] == 1:
        return images
    factors = _per_image(factors, images)
    rest = _luma(images).mul_(1.0 - factors)
    return images.mul_(factors).add_(rest).clamp_(0.0, 1.0)


def hue(images: Tensor, shifts: Tensor, *, inplace: bool = False) -> Tensor:
    r"""Shift the hue of each image. Value and saturation in HSV stay.

    M and m are the largest and smallest of the three colours of a pixel. Its hue h, as a share of the circle,
    and the new colours are

    .. math:: h = \tfrac16 \Bigl(1 + \frac{G + B - R - m}{M - m}\Bigr)\,\mathrm{sign}(G - B), \quad
              y_c = M - (M - m)\,\mathrm{clamp}(6\,|h + \text{shift} - h_c| - 1, 0, 1), \quad
              h_c = 0, \tfrac13, \tfrac23

    for red, green and blue. The difference of two hues is taken the short way round.

    Args:
        images: Images (N, 1 or 3, H, W) in 0 to 1.
        shifts: Shares of the circle (N,), -0.5 to 0.5. 0 changes nothing.
        inplace: Overwrite the images.

    >>> hue(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1), torch.tensor([1 / 3])).flatten().round()
    tensor([0., 1., 0.])

    Source: torchvision's `adjust_hue`.
    """
    images = images if inplace else images.clone()
    if images.shape[1] == 1:
        return images
    return _take_masked(images, _turn_in_hsv(images, shifts), shifts != 0)


def turn_hue(images: Tensor, shifts: Tensor) -> Tensor:
    r"""Turn the colours of each image about the grey axis: clamp(R x, 0, 1).

    .. math:: R = \cos\theta\, I + \frac{1 - \cos\theta}{3}\, 1 1^\top + \frac{\sin\theta}{\sqrt3}
              \begin{pmatrix} 0 & -1 & 1 \\ 1 & 0 & -1 \\ -1 & 1 & 0 \end{pmatrix},
              \quad \theta = 2 \pi \cdot \text{shift}

    This is linear in the image, unlike `hue`. It keeps the mean and spread of a pixel's three colours, while
    `hue` keeps value and saturation. In both, a third of the circle permutes the colours.

    Args:
        images: Images (N, 1 or 3, H, W) in 0 to 1.
        shifts: Shares of the circle (N,), -0.5 to 0.5. 0 changes nothing.

    >>> turn_hue(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1), torch.tensor([1 / 3])).flatten().round()
    tensor([0., 1., 0.])

    Source: Rodrigues' formula; the turn of hue common in video.
    """
    if images.shape[1] == 1:
        return images
    matrix = turn_matrix(shifts.to(images.dtype)).to(images.device, non_blocking=True)
    return (matrix @ images.flatten(2)).view_as(images).clamp_(0.0, 1.0)


def scale_matrix(factors: Tensor, channels: int) -> Tensor:
    """f I, (N, C, C): the effect of `brightness` on colours, and of `contrast` except for the mean."""
    return factors[:, None, None] * torch.eye(channels, device=factors.device)


def grey_matrix(factors: Tensor, channels: int) -> Tensor:
    """f 1 w^T, (N, C, C), with w the luma: a share f of the grey version."""
    luma = torch.tensor(_LUMA if channels == 3 else (1.0,), device=factors.device)
    return factors[:, None, None] * luma.expand(channels, channels)


def turn_matrix(shifts: Tensor) -> Tensor:
    """The matrix R (N, 3, 3) of `turn_hue`."""
    angle = (2 * math.pi * shifts)[:, None, None]
    ones = torch.ones(3, 3, device=shifts.device, dtype=shifts.dtype)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=shifts.device, dtype=shifts.dtype)
    cosine, third = angle.cos(), 1 / 3
    return cosine * ones.diag().diag() + (1 - cosine) * third * ones + angle.sin() * math.sqrt(third) * cross


def grey(images: Tensor, mask: Tensor, *, inplace: bool = False) -> Tensor:
    """Replace the colours by their grey 0.2989 R + 0.587 G + 0.114 B where `mask` is true.

    Args:
        images: Images (N, 1 or 3, H, W) in 0 to 1.
        mask: Which images become grey, (N,) bool.
        inplace: Overwrite the images.

    >>> grey(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1), torch.tensor([True])).flatten()
    tensor([0.2989, 0.2989, 0.2989])

    Source: torchvision's `rgb_to_grayscale` with three output channels.
    """
    images = images if inplace else images.clone()
    if images.shape[1] == 1:
        return images
    return _take_masked(images, _luma(images).expand_as(images), mask)


def solarize(images: Tensor, mask: Tensor, threshold: float = 128 / 255, *, inplace: bool = False) -> Tensor:
    """Invert the values of `threshold` and above, x -> 1 - x, where `mask` is true.

    Args:
        images: Images (N, C, H, W) in 0 to 1.
        mask: Which images are changed, (N,) bool.
        threshold: The smallest value that is inverted.
        inplace: Overwrite the images.

    >>> solarize(torch.tensor([[[[0.25, 0.75]]]]), torch.tensor([True]))
    tensor([[[[0.2500, 0.2500]]]])

    Source: torchvision's `solarize`. The threshold is Pillow's default, 128 of 255.
    """
    images = images if inplace else images.clone()
    return _take_masked(images, torch.where(images >= threshold, 1.0 - images, images), mask)


def _turn_in_hsv(images: Tensor, shifts: Tensor) -> Tensor:
    """`hue` for images with three channels. Images with a shift of 0 change by rounding."""
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    largest, smallest = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = largest - smallest
    # Grey has no hue: any finite number works, because it is multiplied by a chroma of 0.
    away = (green + blue).sub_(red).sub_(smallest).div_(chroma.clamp_min(torch.finfo(images.dtype).tiny))
    angle = away.add_(1.0).copysign_(green - blue).div_(6.0).add_(_per_image(shifts, images))
    angle.sub_(angle.round())
    thirds = torch.tensor([0.0, 1 / 3, -1 / 3]).view(3, 1, 1).to(images.device, non_blocking=True)
    # Of a difference u of at most 5/6, the short way round is 1/2 - | |u| - 1/2 |.
    turns = (angle - thirds).abs_().sub_(0.5).abs_().clamp_(1 / 6, 1 / 3)
    start = largest.sub_(chroma, alpha=2.0)
    return turns.mul_(chroma.mul_(6.0)).add_(start).clamp_(0.0, 1.0)


def _take_masked(images: Tensor, changed: Tensor, mask: Tensor) -> Tensor:
    """Images (N, C, H, W), in place, replaced by `changed` where mask (N,) is true."""
    # Changing all images and keeping some is faster than picking some and putting them back, unless the
    # change is expensive. With weights of 0 and 1 a lerp is exact.
    return images.lerp_(changed, _per_image(mask, images))


def _luma(images: Tensor) -> Tensor:
    """The grey version (N, 1, H, W) of images with one or three channels, in new memory."""
    if images.shape[1] == 1:
        return images.clone()
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    return red.mul(_LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """Values (N,) -> (N, 1, 1, 1) on the images' device and in their dtype."""
    return values.to(images.device, images.dtype, non_blocking=True)[:, None, None, None]
