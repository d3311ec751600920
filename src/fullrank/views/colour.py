"""What changes the colours of a batch, each image with a parameter of its own; all work on values 0 to 1.

Each agrees image by image with the function of the same purpose in torchvision. On images of one channel
saturation, hue and grey change nothing.
"""

import torch
from torch import Tensor

from fullrank.views.hits import change_hits

_LUMA = (0.2989, 0.587, 0.114)


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Scale each image, clamp(f x, 0, 1): images (N, C, H, W), factors (N,) of 0 or more; 1 changes nothing.

    >>> brightness(torch.full((1, 1, 1, 1), 0.25), torch.tensor([2.0])).item()
    0.5

    Source: torchvision's `adjust_brightness`.
    """
    return images.mul(_per_image(factors, images)).clamp_(0.0, 1.0)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Move each image from its mean grey m: clamp(f x + (1 - f) m, 0, 1); a factor of 1 changes nothing.

    Shapes: images (N, 1 or 3, H, W), factors (N,).

    >>> contrast(torch.tensor([[[[0.25, 0.75]]]]), torch.tensor([0.5]))
    tensor([[[[0.3750, 0.6250]]]])

    Source: torchvision's `adjust_contrast`.
    """
    factors = _per_image(factors, images)
    means = _luma(images.mean((2, 3), keepdim=True))
    return images.mul(factors).add_(means * (1.0 - factors)).clamp_(0.0, 1.0)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Move each image from its own grey version g: clamp(f x + (1 - f) g, 0, 1); 1 changes nothing.

    Shapes: images (N, 1 or 3, H, W), factors (N,).

    >>> saturation(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1), torch.tensor([0.0])).flatten()
    tensor([0.2989, 0.2989, 0.2989])

    Source: torchvision's `adjust_saturation`.
    """
    if images.shape[1] == 1:
        return images
    factors = _per_image(factors, images)
    return images.mul(factors).add_(_luma(images).mul_(1.0 - factors)).clamp_(0.0, 1.0)


def hue(images: Tensor, shifts: Tensor) -> Tensor:
    r"""Turn the hue of each image by a part of the circle; value and saturation in HSV stay.

    With M and m the largest and smallest of the three colours of a pixel, its hue h in turns of the circle
    and the new colours are, without a case distinction,

    .. math:: h = \tfrac16 \Bigl(1 + \frac{G + B - R - m}{M - m}\Bigr)\,\mathrm{sign}(G - B), \quad
              y_c = M - (M - m)\,\mathrm{clamp}(6\,|h + \text{shift} - h_c| - 1, 0, 1), \quad
              h_c = 0, \tfrac13, \tfrac23

    for red, green, blue, where the difference of two hues is taken the short way round. Shapes: images
    (N, 1 or 3, H, W), shifts (N,) in -0.5 to 0.5; 0 changes nothing.

    >>> hue(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1), torch.tensor([1 / 3])).flatten()
    tensor([0., 1., 0.])

    Source: torchvision's `adjust_hue`.
    """
    if images.shape[1] == 1:
        return images
    return change_hits(images, shifts != 0, lambda some, which: _turn_hue(some, shifts[which]))


def grey(images: Tensor, mask: Tensor) -> Tensor:
    """Replace the colours by their grey 0.2989 R + 0.587 G + 0.114 B where mask (N,) is true.

    >>> grey(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1), torch.tensor([True])).flatten()
    tensor([0.2989, 0.2989, 0.2989])

    Source: torchvision's `rgb_to_grayscale` with three output channels.
    """
    if images.shape[1] == 1:
        return images
    return change_hits(images, mask, lambda some, which: _luma(some).expand_as(some))


def solarize(images: Tensor, mask: Tensor, threshold: float = 128 / 255) -> Tensor:
    """Invert the values of `threshold` and above, x -> 1 - x, in the images where mask (N,) is true.

    >>> solarize(torch.tensor([[[[0.25, 0.75]]]]), torch.tensor([True]))
    tensor([[[[0.2500, 0.2500]]]])

    Source: torchvision's `solarize`; the threshold is Pillow's default, 128 of 255.
    """
    return change_hits(images, mask, lambda some, which: torch.where(some >= threshold, 1.0 - some, some))


def _turn_hue(images: Tensor, shifts: Tensor) -> Tensor:
    """`hue` for images that all have three channels and are all turned."""
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    largest, smallest = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = largest - smallest
    # Grey has no hue: any finite number serves, for it is multiplied by a chroma of 0.
    away = (green + blue).sub_(red).sub_(smallest).div_(chroma.clamp_min(torch.finfo(images.dtype).tiny))
    angle = away.add_(1.0).copysign_(green - blue).div_(6.0).add_(_per_image(shifts, images))
    turns = angle - torch.tensor([0.0, 1 / 3, 2 / 3], device=images.device).view(3, 1, 1)
    turns.sub_(turns.round()).abs_().clamp_(1 / 6, 1 / 3)
    return torch.addcmul(largest + chroma, turns, chroma, value=-6.0).clamp_(0.0, 1.0)


def _luma(images: Tensor) -> Tensor:
    """The grey version (N, 1, H, W) of images with one or three channels; new memory."""
    if images.shape[1] == 1:
        return images.clone()
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    return red.mul(_LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """Values (N,) -> (N, 1, 1, 1) on the images' device and in their dtype."""
    return values.to(images.device, images.dtype, non_blocking=True)[:, None, None, None]
