"""Crop, resize, flip and blur a batch, with separate parameters for each image."""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fullrank.errors import UsageError

Interpolation = Literal["bilinear", "bicubic"]
# How many pixels of the result a kernel reaches to either side, if it does not shrink.
_RADIUS: dict[Interpolation, int] = {"bilinear": 1, "bicubic": 2}
_ROUNDING = 1e-6  # pixels: boxes on a canvas are not whole numbers


def crop_resize(
    images: Tensor,
    boxes: Tensor,
    size: int,
    interpolation: Interpolation = "bilinear",
    flip: Tensor | None = None,
) -> Tensor:
    r"""Cut a box out of each image, resample it to `size` by `size` with antialiasing, and flip it if asked.

    .. math:: y = W_y\, x\, W_x^\top, \quad
              W_{ij} \propto k\!\left(\frac{j + \tfrac12 - t - s\,(i + \tfrac12)}{\max(s, 1)}\right)
              \text{ for pixels } j \text{ of the box}, \quad s = \text{length} / \text{size}

    Here t is the start of the box along the axis, and k the triangle or the cubic kernel (a = -1/2). Each row
    of W sums to 1. A flip only reorders the rows of :math:`W_x`. The cubic kernel overshoots, so the result
    is clamped to 0 to 1.

    Args:
        images: Images (N, C, H, W) in 0 to 1.
        boxes: Top, left, height and width of each box (N, 4), in pixels or fractions of them.
        size: Height and width of the result (N, C, size, size).
        interpolation: The kernel.
        flip: Which images are flipped, (N,) bool, or None.

    Raises:
        UsageError: For a box that leaves its image or is narrower than a pixel.

    >>> crop_resize(torch.eye(4)[None, None], torch.tensor([[0, 0, 2, 2]]), 2)
    tensor([[[[1., 0.],
              [0., 1.]]]])

    Source: torchvision's `resized_crop(..., antialias=True)`; each image agrees with it.
    """
    count, _, height, width = images.shape
    _check_boxes(boxes, count, height, width)
    taps, weights = _windows(boxes, (height, width), size, interpolation, flip, images.device)
    rows = _mix_rows(images, taps[:, 0], weights[:, 0])
    return _mix_columns(rows, taps[:, 1], weights[:, 1]).contiguous().clamp_(0.0, 1.0)


def hflip(images: Tensor, mask: Tensor) -> Tensor:
    """Flip the images left to right where `mask` is true.

    Args:
        images: Images (N, C, H, W).
        mask: Which images are flipped, (N,) bool.

    >>> hflip(torch.tensor([[[[1.0, 2.0]]], [[[1.0, 2.0]]]]), torch.tensor([True, False])).flatten(1)
    tensor([[2., 1.],
            [1., 2.]])
    """
    return change_masked(images.clone(), mask, lambda some, which: some.flip(-1))


def blur(images: Tensor, sigmas: Tensor, kernel_size: int, *, inplace: bool = False) -> Tensor:
    r"""Gaussian blur with a separate standard deviation for each image.

    .. math:: w_k \propto e^{-k^2 / 2 \sigma^2}, \quad |k| \le (\text{kernel size} - 1) / 2

    It runs along both axes. The image is continued by reflection.

    Args:
        images: Images (N, C, H, W).
        sigmas: Standard deviations (N,) in pixels. 0 leaves the image unchanged.
        kernel_size: Width of the kernel in pixels, odd.
        inplace: Overwrite the images.

    Raises:
        UsageError: Unless `kernel_size` is odd and its half is smaller than both sides of the image.

    >>> point = torch.zeros(1, 1, 5, 5)
    >>> point[0, 0, 2, 2] = 1.0
    >>> blur(point, torch.tensor([10.0]), kernel_size=3)[0, 0, 2]
    tensor([0.0000, 0.1113, 0.1119, 0.1113, 0.0000])

    Source: torchvision's `gaussian_blur`; each image agrees with it.
    """
    radius = kernel_size // 2
    height, width = images.shape[-2:]
    if kernel_size % 2 == 0 or not 0 <= radius < min(height, width):
        problem = f"kernel_size={kernel_size} does not fit images of {height}x{width}"
        raise UsageError(f"{problem}; it must be odd and at most {2 * min(height, width) - 1}.")
    images = images if inplace else images.clone()
    return change_masked(images, sigmas > 0, lambda some, which: _blur_all(some, sigmas[which], radius))


def change_masked(images: Tensor, mask: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Change images (N, C, H, W), in place, where mask (N,) is true. Nothing is computed for the others.

    `change` gets K images and their indices (K,), which stay on the mask's device.
    """
    indices = mask.nonzero().flatten()
    if len(indices):
        rows = indices.to(images.device, non_blocking=True)  # never waits for a GPU
        images.index_copy_(0, rows, change(images.index_select(0, rows), indices))
    return images


def _blur_all(images: Tensor, sigmas: Tensor, radius: int) -> Tensor:
    """`blur` for images that are all blurred."""
    height, width = images.shape[-2:]
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    sigmas = sigmas.to(images.device, images.dtype, non_blocking=True)[:, None, None]
    weights = torch.exp(-0.5 * (offsets / sigmas).square())
    weights /= weights.sum(-1, keepdim=True)
    down = _mix_rows(images, _reflected(height, offsets), weights.expand(-1, height, -1))
    return _mix_columns(down, _reflected(width, offsets), weights.expand(-1, width, -1)).clamp_(0.0, 1.0)


def _reflected(length: int, offsets: Tensor) -> Tensor:
    """Pixels (1, length, T) at `offsets` (T,) from each pixel. Those beyond a border are reflected."""
    last = length - 1
    places = torch.arange(length, device=offsets.device)[:, None] + offsets
    return (last - (last - places.abs()).abs())[None]


def _mix_rows(images: Tensor, taps: Tensor, weights: Tensor) -> Tensor:
    """Images (N, C, H, W), taps (1 or N, R, T), weights (N, R, T) -> (N, C, R, W): each row sums T rows."""
    # A sum of table rows is an embedding of a bag of words, for which torch has a fast kernel.
    count, channels, height, width = images.shape
    first = torch.arange(count * channels, device=images.device).view(count, channels, 1, 1) * height
    places = taps[:, None] + first
    shares = weights.to(images.dtype)[:, None].expand(places.shape).flatten(0, 2)
    mixed = F.embedding_bag(
        places.flatten(0, 2), images.reshape(-1, width), per_sample_weights=shares, mode="sum"
    )
    return mixed.view(count, channels, -1, width)


def _mix_columns(images: Tensor, taps: Tensor, weights: Tensor) -> Tensor:
    """`_mix_rows` along the other axis."""
    return _mix_rows(images.transpose(2, 3), taps, weights).transpose(2, 3)


def _windows(
    boxes: Tensor,
    before: tuple[int, int],
    after: int,
    kernel: Interpolation,
    flip: Tensor | None,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Pixels and antialiased weights, each (N, 2, after, T), that resample boxes (N, 4) along both axes."""
    radius = _RADIUS[kernel]
    start, length = boxes.to(device, torch.float32, non_blocking=True)[:, :, None].chunk(2, 1)
    scale = length / after
    stretch = scale.clamp_min(1.0)
    along = (torch.arange(after, device=device) + 0.5) * scale
    if flip is not None:
        mirror = torch.stack([torch.zeros_like(flip), flip], 1).to(device, non_blocking=True)
        along = torch.where(mirror[..., None], length - along, along)
    centres = start + along
    # As many taps as the longest kernel needs. Boxes are on the CPU, where they are drawn. Taps are the first
    # dimension, because a loop over these few would be a short inner loop.
    shrinking = max(1.0, float(boxes[:, 2:].max()) / after)
    offsets = torch.arange(math.ceil(2 * radius * shrinking), device=device)[:, None, None, None]
    pixels = (centres - radius * stretch + 0.5).floor_() + offsets
    middles = pixels + 0.5
    distance = (middles - centres).abs_().div_(stretch)
    weights = _triangle(distance) if kernel == "bilinear" else _cubic(distance)
    outside = middles.sub_(start + length / 2).abs_() > length / 2
    weights.masked_fill_(outside, 0.0)
    weights /= weights.sum(0)
    last = (torch.tensor(before) - 1).to(device, non_blocking=True)[:, None]
    taps = torch.minimum(pixels.clamp_(min=0), last)
    return taps.movedim(0, -1).contiguous().long(), weights.movedim(0, -1).contiguous()


def _triangle(distance: Tensor) -> Tensor:
    return distance.neg_().add_(1.0).clamp_(min=0.0)


def _cubic(distance: Tensor) -> Tensor:
    """Cubic convolution, a = -1/2, as u^2 (u - 1) / 2 + v^2 (1 - 2v) with u, v = 2 - d, 1 - d, at least 0."""
    u = (2.0 - distance).clamp_(min=0.0)
    v = _triangle(distance)
    return u.square().mul_(u.sub_(1.0)).mul_(0.5).add_(v.square().mul_(v.mul_(-2.0).add_(1.0)))


def _check_boxes(boxes: Tensor, count: int, height: int, width: int) -> None:
    if boxes.shape != (count, 4):
        raise UsageError(f"boxes must have shape ({count}, 4), one per image, but got {tuple(boxes.shape)}.")
    first, extent = boxes[:, :2], boxes[:, 2:]
    rest = torch.tensor([height, width], device=boxes.device) - first - extent
    slack = torch.cat([first, extent - 1, rest], dim=1).amin(1)
    if slack.min() < -_ROUNDING:
        box = tuple(boxes[slack.argmin()].tolist())
        problem = f"The box {box} (top, left, height, width) leaves the image or is narrower than a pixel"
        raise UsageError(f"{problem}; draw the parameters for images of {height}x{width}.")
