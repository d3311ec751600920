"""Cropping, resizing, mirroring and blurring a batch, each image with parameters of its own.

All of these are linear in the image and separable: a crop that shrinks is one small matrix an image and axis
and two batched products, one that grows two taps an axis, a blur a convolution an axis.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fullrank.errors import UsageError
from fullrank.views.hits import change_hits, change_hits_

Interpolation = Literal["bilinear", "bicubic"]
_ROUNDING = 1e-6  # pixels: boxes laid on a canvas are no whole numbers


def crop_resize(
    images: Tensor,
    boxes: Tensor,
    size: int,
    interpolation: Interpolation = "bilinear",
    flip: Tensor | None = None,
) -> Tensor:
    r"""Cut a box out of each image and resample it, antialiased, to `size` by `size`; mirror it if asked.

    .. math:: y = W_y\, x\, W_x^\top, \quad
              W_{ij} \propto k\!\left(\frac{j + \tfrac12 - t - s\,(i + \tfrac12)}{\max(s, 1)}\right)
              \text{ for pixels } j \text{ of the box}, \quad s = \text{length} / \text{size}

    with t the box's start along the axis, k the triangle or the cubic kernel (a = -1/2), each row of W
    summing to 1. A flip only reorders the rows of :math:`W_x`. The cubic kernel overshoots; the result is
    clamped to 0 to 1.

    Shapes: images (N, C, H, W) in 0 to 1; boxes (N, 4), pixels or parts of them, as top, left, height, width;
    flip (N,) bool or None; result (N, C, size, size). Raises UsageError for a box that leaves its image or
    is narrower than a pixel.

    >>> crop_resize(torch.eye(4)[None, None], torch.tensor([[0, 0, 2, 2]]), 2)
    tensor([[[[1., 0.],
              [0., 1.]]]])

    Source: torchvision's `resized_crop(..., antialias=True)`, which it agrees with image by image.
    """
    count, _, height, width = images.shape
    _check_boxes(boxes, count, height, width)
    grown = (boxes[:, 2:] <= size).all(1)
    if interpolation == "bicubic" or not grown.any():
        return _antialiased(images, boxes, size, interpolation, flip)
    if grown.all():
        return _magnified(images, boxes, size, flip)
    result = images.new_empty(count, images.shape[1], size, size)
    for which, resample in ((grown, _magnified), (~grown, _antialiased_bilinear)):
        rows = which.nonzero().flatten()
        there = rows.to(images.device, non_blocking=True)
        mirror = None if flip is None else flip[rows]
        result.index_copy_(0, there, resample(images.index_select(0, there), boxes[rows], size, mirror))
    return result


def hflip(images: Tensor, mask: Tensor) -> Tensor:
    """Mirror the images where mask (N,) is true, left to right; (N, C, H, W) -> (N, C, H, W).

    >>> hflip(torch.tensor([[[[1.0, 2.0]]], [[[1.0, 2.0]]]]), torch.tensor([True, False])).flatten(1)
    tensor([[2., 1.],
            [1., 2.]])
    """
    return change_hits(images, mask, lambda some, which: some.flip(-1))


def blur(images: Tensor, sigmas: Tensor, kernel_size: int) -> Tensor:
    r"""Gaussian blur with a standard deviation of its own, in pixels, for each image.

    .. math:: w_k \propto e^{-k^2 / 2 \sigma^2}, \quad |k| \le (\text{kernel size} - 1) / 2

    along both axes, the image continued by reflection. A sigma of 0 leaves the image as it is.

    Shapes: images (N, C, H, W); sigmas (N,). Raises UsageError unless `kernel_size` is odd and its half is
    smaller than both sides of the image.

    >>> point = torch.zeros(1, 1, 5, 5)
    >>> point[0, 0, 2, 2] = 1.0
    >>> blur(point, torch.tensor([10.0]), kernel_size=3)[0, 0, 2]
    tensor([0.0000, 0.1113, 0.1119, 0.1113, 0.0000])

    Source: torchvision's `gaussian_blur`, which it agrees with image by image.
    """
    return blur_(images.clone(), sigmas, kernel_size)


def blur_(images: Tensor, sigmas: Tensor, kernel_size: int) -> Tensor:
    """`blur` in place."""
    radius = kernel_size // 2
    height, width = images.shape[-2:]
    if kernel_size % 2 == 0 or not 0 <= radius < min(height, width):
        raise UsageError(
            f"kernel_size={kernel_size} does not fit images of {height}x{width}; it must be odd and at most "
            f"{2 * min(height, width) - 1}."
        )
    return change_hits_(images, sigmas > 0, lambda some, which: _blur_all(some, sigmas[which], radius))


def _blur_all(images: Tensor, sigmas: Tensor, radius: int) -> Tensor:
    """`blur` for images that are all blurred: a convolution along each axis, every image its own group."""
    count, channels, height, width = images.shape
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    sigmas = sigmas.to(images.device, torch.float32, non_blocking=True)[:, None]
    taps = torch.exp(-0.5 * (offsets / sigmas).square())
    taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    padded = F.pad(images, (radius, radius, radius, radius), mode="reflect")
    padded = padded.view(1, count * channels, height + 2 * radius, width + 2 * radius)
    across = F.conv2d(padded, taps[:, :, None], groups=count * channels)
    blurred = F.conv2d(across, taps[..., None], groups=count * channels)
    return blurred.view(images.shape).clamp_(0.0, 1.0)


def _magnified(images: Tensor, boxes: Tensor, size: int, flip: Tensor | None) -> Tensor:
    """`crop_resize`, bilinear, of boxes no larger than the result: nothing to antialias, two taps an axis."""
    height, width = images.shape[-2:]
    top, left, tall, wide = boxes.to(images.device, torch.float32, non_blocking=True)[:, :, None].unbind(1)
    steps = (torch.arange(size, device=images.device) + 0.5) / size
    along = steps.expand(len(images), size)
    if flip is not None:
        along = torch.where(flip.to(images.device, non_blocking=True)[:, None], 1 - along, along)
    x = _between_centres(left + along * wide, left, wide) * (2 / width) - 1
    y = _between_centres(top + steps * tall, top, tall) * (2 / height) - 1
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False).clamp_(0.0, 1.0)


def _between_centres(places: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """Places no further out than the outermost pixels with centres in the box: beyond is nothing to mix."""
    first, last = (start - 0.5).ceil() + 0.5, (start + length - 0.5).floor() + 0.5
    return torch.minimum(torch.maximum(places, first), last)


def _antialiased_bilinear(images: Tensor, boxes: Tensor, size: int, flip: Tensor | None) -> Tensor:
    return _antialiased(images, boxes, size, "bilinear", flip)


def _antialiased(
    images: Tensor, boxes: Tensor, size: int, interpolation: Interpolation, flip: Tensor | None
) -> Tensor:
    """`crop_resize` of any boxes: one matrix an image and axis."""
    height, width = images.shape[-2:]
    top, left, tall, wide = boxes.to(images.device, torch.float32, non_blocking=True).unbind(1)
    if flip is not None:
        flip = flip.to(images.device, non_blocking=True)
    rows = _resampling(top, tall, height, size, interpolation)
    columns = _resampling(left, wide, width, size, interpolation, flip)
    return _separable(images, rows, columns).clamp_(0.0, 1.0)


def _resampling(
    start: Tensor,
    length: Tensor,
    before: int,
    after: int,
    kernel: Interpolation,
    mirror: Tensor | None = None,
) -> Tensor:
    """Antialiased weights (N, after, before) that resample `length` pixels from `start` on."""
    start, length = start[:, None], length[:, None]
    scale = length / after
    reach = scale.clamp_min(1.0)
    pixels = torch.arange(before, device=start.device) + 0.5 - start
    # Infinitely far away, a pixel outside the box gets weight 0 from either kernel.
    pixels = (pixels / reach).masked_fill_((pixels < 0) | (pixels > length), torch.inf)
    centres = (torch.arange(after, device=start.device) + 0.5) * scale
    if mirror is not None:
        centres = torch.where(mirror[:, None], length - centres, centres)
    distance = (pixels[:, None, :] - (centres / reach)[:, :, None]).abs_()
    weights = _triangle(distance) if kernel == "bilinear" else _cubic(distance)
    return weights.div_(weights.sum(-1, keepdim=True))


def _triangle(distance: Tensor) -> Tensor:
    return distance.neg_().add_(1.0).clamp_(min=0.0)


def _cubic(distance: Tensor) -> Tensor:
    """Cubic convolution, a = -1/2, as u^2 (u - 1) / 2 + v^2 (1 - 2v) with u, v = 2 - d, 1 - d, at least 0."""
    u = (2.0 - distance).clamp_(min=0.0)
    v = _triangle(distance)
    return u.square().mul_(u.sub_(1.0)).mul_(0.5).add_(v.square().mul_(v.mul_(-2.0).add_(1.0)))


def _separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ image @ columns' for each image and channel: (N, C, H, W) -> (N, C, H', W')."""
    count, channels, height, width = images.shape
    across = torch.bmm(images.reshape(count, channels * height, width), columns.transpose(1, 2))
    across = across.view(count, channels, height, -1)
    # Channel by channel: a broadcast product would first copy the rows for each.
    return torch.stack([torch.bmm(rows, across[:, channel]) for channel in range(channels)], dim=1)


def _check_boxes(boxes: Tensor, count: int, height: int, width: int) -> None:
    if boxes.shape != (count, 4):
        raise UsageError(
            f"boxes must be of shape ({count}, 4), one for each image, but got {tuple(boxes.shape)}."
        )
    first, extent = boxes[:, :2], boxes[:, 2:]
    rest = torch.tensor([height, width], device=boxes.device) - first - extent
    slack = torch.cat([first, extent - 1, rest], dim=1).amin(1)
    if slack.min() < -_ROUNDING:
        box = tuple(boxes[slack.argmin()].tolist())
        raise UsageError(
            f"The box {box} (top, left, height, width) is narrower than a pixel or leaves the image of "
            f"{height}x{width}; draw the parameters for the size of these images."
        )
