"""The foreground's share of a net's gradient, which any net has, and of the area."""

import torch
from torch import Tensor, nn

from fullrank.batch import as_float
from fullrank.errors import UsageError
from fullrank.places import evaluating
from fullrank.segmentation.overlaps import BACKGROUND, IGNORED


def foreground_share(gradients: Tensor, masks: Tensor) -> Tensor:
    r"""The share of the gradient's size that lies on objects.

    .. math:: \sum_{p \in \text{objects}} s_p \Big/ \sum_p s_p, \qquad
              s_p = \sqrt{\textstyle\frac{1}{V} \sum_v \sum_c g_{vcp}^2}

    Pixels of 255 are left out of both sums. Compare it with `foreground_area`, which is the share of a
    gradient of the same size everywhere. It is no Jaccard index, and has no number in common with `jaccard`.
    It cannot tell objects from each other, and grows where images have edges, whatever the net has learnt.

    Args:
        gradients: Gradients with respect to the images, (N, C, Y, X), or several, (V, N, C, Y, X).
        masks: The number of the object at each pixel, integers (N, Y, X); 0 is the background.

    Returns:
        The share of each image, float64 (N,); nan for an image without an object, or without any gradient.

    Raises:
        UsageError: For other shapes.

    >>> gradients = torch.tensor([[[[3.0, 1.0]], [[4.0, 0.0]]]])
    >>> foreground_share(gradients, torch.tensor([[[1, 0]]]))
    tensor([0.8333], dtype=torch.float64)
    """
    several = gradients if gradients.ndim == 5 else gradients[None]
    if several.ndim != 5 or masks.ndim != 3 or several.shape[1:2] + several.shape[3:] != masks.shape:
        raise UsageError(
            f"Gradients must be (N, C, Y, X) or (V, N, C, Y, X) and masks (N, Y, X), but got "
            f"{tuple(gradients.shape)} and {tuple(masks.shape)}; give masks of the size of the images."
        )
    size = several.double().square().sum(2).mean(0).sqrt()
    return _share(size, masks.to(size.device))


def foreground_area(masks: Tensor) -> Tensor:
    """The share of an image's pixels that lie on objects; pixels of 255 are left out.

    Args:
        masks: The number of the object at each pixel, integers (N, Y, X); 0 is the background.

    Returns:
        The share of each image, float64 (N,); nan for an image without an object.

    >>> foreground_area(torch.tensor([[[1, 0], [255, 2]]]))
    tensor([0.6667], dtype=torch.float64)
    """
    return _share(torch.ones_like(masks, dtype=torch.float64), masks)


def _share(size: Tensor, masks: Tensor) -> Tensor:
    """The share of `size` (N, Y, X) on objects."""
    on_objects = (masks != BACKGROUND) & (masks != IGNORED)
    share = (size * on_objects).sum((1, 2)) / (size * (masks != IGNORED)).sum((1, 2))
    return share.where(on_objects.any(2).any(1), torch.nan)


def gradient_draws(encoder: nn.Module, images: Tensor, draws: int = 8, seed: int = 0) -> Tensor:
    r"""The gradients of random combinations of h with respect to the images.

    .. math:: g_v = \partial (v \cdot h) / \partial x, \qquad v \in \{-1, 1\}^D

    The mean over draws of the squared gradients estimates, without bias, the squares of the Jacobian of h
    summed over the dimensions of h. The vectors are the same for all images, so batches do not matter. The
    encoder is in eval mode, and its weights get no gradient.

    Args:
        encoder: Any net from images to h (N, D).
        images: Images (N, C, Y, X), float in 0 to 1 or uint8.
        draws: The number V of sign vectors, 1 or more.
        seed: The seed of the vectors, which are drawn on the CPU.

    Returns:
        The gradients, (V, N, C, Y, X), on the encoder's device.

    Raises:
        UsageError: For fewer than 1 draw, or a net that gives no gradient.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    >>> gradient_draws(net, torch.rand(2, 3, 2, 2), draws=4).shape
    torch.Size([4, 2, 3, 2, 2])
    """
    if draws < 1:
        raise UsageError(f"draws must be 1 or more, but got {draws}; the usual number is 8.")
    weight = next(encoder.parameters(), images)
    with torch.enable_grad(), evaluating(encoder):
        x = as_float(images.to(weight.device)).detach().clone().requires_grad_()
        h = encoder(x)
        if not h.requires_grad:
            raise UsageError(
                "This encoder gives no gradient with respect to its images, so the share of the gradient "
                "cannot be measured; give the net itself and not an exported program."
            )
        signs = torch.randint(2, (draws, h.shape[1]), generator=torch.Generator().manual_seed(seed))
        vectors = (2 * signs - 1).to(h)
        # The sum over images has each image's own gradient, since images do not meet in eval mode.
        grads = [torch.autograd.grad((h @ v).sum(), x, retain_graph=True)[0] for v in vectors]
    return torch.stack(grads)
