"""Changing those images of a batch that a mask selects."""

from collections.abc import Callable

from torch import Tensor

Change = Callable[[Tensor, Tensor], Tensor]
"""Images (K, C, H, W) and their indices (K,), which stay on the mask's device -> changed images."""


def change_masked(images: Tensor, mask: Tensor, change: Change) -> Tensor:
    """A copy of images (N, C, H, W) in which those where mask (N,) is true are changed."""
    return change_masked_(images.clone(), mask, change)


def change_masked_(images: Tensor, mask: Tensor, change: Change) -> Tensor:
    """`change_masked` in place: an expensive change is computed for those images alone."""
    indices = mask.nonzero().flatten()
    if len(indices):
        rows = indices.to(images.device, non_blocking=True)  # a GPU is never waited for
        images.index_copy_(0, rows, change(images.index_select(0, rows), indices))
    return images


def take_masked_(images: Tensor, changed: Tensor, mask: Tensor) -> Tensor:
    """Images (N, C, H, W), in place, as they are in `changed` where mask (N,) is true."""
    # To change all and take some is faster than to pick some and put them back, unless the change is
    # expensive. At weights of 0 and 1 a lerp is exact.
    weights = mask.to(images.device, images.dtype, non_blocking=True)[:, None, None, None]
    return images.lerp_(changed, weights)
