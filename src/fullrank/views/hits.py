"""Changing some images of a batch."""

from collections.abc import Callable

from torch import Tensor


def change_hits(images: Tensor, hit: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A copy of images (N, C, H, W) in which those where hit (N,) is true are replaced.

    `change` gets the images that are hit (K, C, H, W) and their indices (K,), which stay on the device of
    `hit`: with the mask on the CPU a GPU is never waited for.

    >>> import torch
    >>> change_hits(torch.zeros(3, 1, 1, 1), torch.tensor([True, False, True]), lambda x, i: x + 1).flatten()
    tensor([1., 0., 1.])
    """
    return change_hits_(images.clone(), hit, change)


def change_hits_(images: Tensor, hit: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`change_hits` in place: what is dear is computed for those alone."""
    which = hit.nonzero().flatten()
    if len(which):
        there = which.to(images.device, non_blocking=True)
        images.index_copy_(0, there, change(images.index_select(0, there), which))
    return images


def take_hits_(images: Tensor, changed: Tensor, hit: Tensor) -> Tensor:
    """Images (N, C, H, W), in place, as they are in `changed` where hit (N,) is true: for what is cheap.

    To change all and take some is faster than to pick some and put them back, unless the change is dear.

    >>> import torch
    >>> take_hits_(torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1), torch.tensor([True, False])).flatten()
    tensor([1., 0.])
    """
    # At weights of 0 and 1 a lerp is exact.
    weights = hit.to(images.device, images.dtype, non_blocking=True)[:, None, None, None]
    return images.lerp_(changed, weights)
