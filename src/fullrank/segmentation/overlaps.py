"""The Jaccard index of attention maps and objects, and its control by permutation."""

import math

import torch
from torch import Tensor

from fullrank.errors import UsageError

#: The values of a mask that are no object: the background, and pixels that count nowhere.
BACKGROUND, IGNORED = 0, 255
# Pixels and attention weights that are worked on together, which bounds the memory.
_TOGETHER = 2**23


def attention_mask(attention: Tensor, mass: float) -> Tensor:
    r"""The smallest set of patches that holds a share of the attention.

    .. math:: \text{the first } m \text{ patches in descending order of } a, \qquad
              m = \min\{m : \textstyle\sum_{i \le m} a_{(i)} \ge \text{mass} \cdot \sum_i a_i\}

    Of equal values, the patch with the lower index comes first. Sums are float64 and compared with a relative
    tolerance of 1e-12.

    Args:
        attention: Weights of 0 or more, (..., P). They need not sum to 1.
        mass: The share of the attention, above 0 and at most 1.

    Returns:
        Which patches are in the set, bool (..., P).

    Raises:
        UsageError: For another mass, or weights that are negative, not finite, or all zero in a row.

    >>> attention_mask(torch.tensor([0.1, 0.5, 0.15, 0.25]), 0.6)
    tensor([False,  True, False,  True])

    Source: Caron et al. 2021 (arXiv 2104.14294), with mass 0.6, and Burns et al. 2023 (arXiv 2312.12444),
    whose code has 0.9.
    """
    if not 0 < mass <= 1:
        raise UsageError(
            f"mass must be above 0 and at most 1, but got {mass}; the usual values are 0.6 and 0.9."
        )
    weights = attention.double()
    total = weights.sum(-1, keepdim=True)
    if not (bool((weights >= 0).all()) and bool((total > 0).all()) and bool(total.isfinite().all())):
        raise UsageError(
            "Attention must be finite and 0 or more, with a sum above 0 in each row; give softmax weights."
        )
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    before = (ordered.cumsum(-1) - ordered) / total
    # A patch is in the set if those before it do not hold enough.
    return torch.empty_like(weights, dtype=torch.bool).scatter_(-1, order, before < mass * (1 - 1e-12))


def overlap(mask: Tensor, truth: Tensor) -> Tensor:
    r"""The Jaccard index of two sets, also called intersection over union.

    .. math:: |A \cap B| \,/\, |A \cup B|

    Args:
        mask: The set A, bool (..., P).
        truth: The set B, bool (..., P), of a shape that broadcasts with A.

    Returns:
        The index in 0 to 1, float64 (...); nan where both sets are empty.

    >>> overlap(torch.tensor([True, True, False]), torch.tensor([False, True, True]))
    tensor(0.3333, dtype=torch.float64)
    """
    return (mask & truth).sum(-1).double() / (mask | truth).sum(-1)


def jaccard(attention: Tensor, masks: Tensor, mass: float = 0.6, heads: int | None = None) -> Tensor:
    r"""How well the best attention head covers each object of an image.

    .. math:: J_n = \frac{1}{|O_n|} \sum_{o \in O_n} \max_h \frac{|A_{nh} \cap B_{no}|}{|A_{nh} \cup B_{no}|}

    A is the `attention_mask` of a head, brought to the pixels of the mask by nearest neighbour: pixel (y, x)
    belongs to the patch (floor(y h / Y), floor(x w / X)). B is the set of the pixels of an object. The
    objects are the values of the image's mask other than 0 and 255. Pixels of 255 are left out of both sets.

    With `heads` = K, the maximum is replaced by its expectation over K of the H heads, drawn without
    replacement. With the indices of the heads in ascending order, it is

    .. math:: \sum_{i=1}^{H} \mathrm{IoU}_{(i)} \binom{i-1}{K-1} \Big/ \binom{H}{K}

    J grows with the number of heads, since the best of more heads is better by chance; `heads` makes nets
    comparable. A large object has a high J under any map, so compare J with `permuted_jaccard`. J is not
    defined for a net without attention; `foreground_share` is another quantity. J does not say whether the
    net uses the object.

    Args:
        attention: The attention of the CLS token to the patches, (N, H, h, w), as `cls_attention` gives it.
        masks: The number of the object at each pixel, integers (N, Y, X); 0 is the background.
        mass: The share of the attention that a head's set of patches holds.
        heads: The number K of heads, at most H; None is all H.

    Returns:
        J of each image, float64 (N,); nan for an image without an object.

    Raises:
        UsageError: For other shapes, a number of heads outside 1 to H, or what `attention_mask` refuses.

    >>> attention = torch.tensor([[[[0.7, 0.1], [0.1, 0.1]], [[0.1, 0.1], [0.1, 0.7]]]])
    >>> masks = torch.tensor([[[5, 5, 0, 0], [5, 5, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]])
    >>> jaccard(attention, masks), jaccard(attention, masks, heads=1)
    (tensor([1.], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))

    Source: Burns et al. 2023 (arXiv 2312.12444), after Caron et al. 2021 (arXiv 2104.14294).
    """
    _check(attention, masks)
    of = attention.shape[1]
    count = of if heads is None else heads
    if not 1 <= count <= of:
        raise UsageError(f"heads must be 1 to {of}, the number of attention heads, but got {heads}.")
    shares = torch.tensor(
        [math.comb(i, count - 1) / math.comb(of, count) for i in range(of)], dtype=torch.float64
    )
    together = max(1, _TOGETHER // max(masks[0].numel(), attention[0].numel())) if len(masks) else 1
    parts = [
        _of_images(some, truth, mass, shares.to(attention.device))
        for some, truth in zip(torch.split(attention, together), torch.split(masks, together), strict=True)
    ]
    return torch.cat(parts)


def permuted_jaccard(
    attention: Tensor,
    masks: Tensor,
    mass: float = 0.6,
    heads: int | None = None,
    *,
    draws: int = 20,
    seed: int = 0,
) -> Tensor:
    """The control of `jaccard`: its mean when each head's own map is permuted over the patches.

    A permutation is drawn for each image and head. It keeps the number of heads and the weights of each map,
    and loses where they are. What J has above this control is due to the places of the weights. A uniform map
    equals its permutations, so it has nothing above the control.

    The control keeps no smoothness: real maps have neighbouring patches in common, permuted ones do not. A
    smooth map that ignores the object may lie above it. An untrained net of the same design shows how far.

    Args:
        attention: The attention of the CLS token to the patches, (N, H, h, w).
        masks: The number of the object at each pixel, integers (N, Y, X); 0 is the background.
        mass: The share of the attention that a head's set of patches holds.
        heads: The number K of heads, at most H; None is all H.
        draws: The number of draws, 1 or more.
        seed: The seed of the permutations, which are drawn on the CPU.

    Returns:
        The mean of J over draws for each image, float64 (N,); nan for an image without an object.

    Raises:
        UsageError: For fewer than 1 draw, or what `jaccard` refuses.

    >>> uniform, masks = torch.full((1, 2, 2, 2), 0.25), torch.tensor([[[1, 0], [0, 0]]])
    >>> permuted_jaccard(uniform, masks), jaccard(uniform, masks)
    (tensor([0.3333], dtype=torch.float64), tensor([0.3333], dtype=torch.float64))
    """
    if draws < 1:
        raise UsageError(f"draws must be 1 or more, but got {draws}; the usual number is 20.")
    _check(attention, masks)
    generator = torch.Generator().manual_seed(seed)
    maps = attention.flatten(2)
    total = torch.zeros(len(masks), dtype=torch.float64, device=attention.device)
    for _ in range(draws):
        order = torch.rand(maps.shape, generator=generator).argsort(-1).to(maps.device)
        total += jaccard(maps.gather(-1, order).reshape(attention.shape), masks, mass, heads)
    return total / draws


def _check(attention: Tensor, masks: Tensor) -> None:
    if attention.ndim != 4 or masks.ndim != 3 or len(attention) != len(masks) or 0 in attention.shape[1:]:
        raise UsageError(
            f"Attention must be (N, H, h, w) and masks (N, Y, X), but got {tuple(attention.shape)} and "
            f"{tuple(masks.shape)}; give one mask for each image."
        )
    if masks.is_floating_point():
        raise UsageError(
            f"Masks must be integers, but got {masks.dtype}; give the number of each pixel's object."
        )


def _of_images(attention: Tensor, masks: Tensor, mass: float, shares: Tensor) -> Tensor:
    """J of some images (N,), where `shares` (H,) weigh the heads' overlaps in ascending order."""
    chosen = attention_mask(attention.flatten(2), mass).double()  # (N, H, P)
    images, objects, areas = _pixels(masks.to(attention.device).long(), *attention.shape[-2:])
    both = torch.einsum("khp,kp->kh", chosen[images], objects)
    either = torch.einsum("khp,kp->kh", chosen[images], areas[images]) + objects.sum(1, keepdim=True) - both
    best = (both / either).sort(1).values @ shares  # (K,)
    sums = torch.zeros(len(masks), dtype=torch.float64, device=best.device).index_add_(0, images, best)
    return sums / torch.bincount(images, minlength=len(masks))


def _pixels(masks: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each object's image (K,), its pixels in each patch (K, P), and the pixels of each patch (N, P)."""
    count, rows, columns = masks.shape
    down = torch.arange(rows, device=masks.device) * height // rows
    across = torch.arange(columns, device=masks.device) * width // columns
    patch = (down[:, None] * width + across).expand_as(masks)
    image = torch.arange(count, device=masks.device)[:, None, None].expand_as(masks)
    values, value = torch.unique(masks, return_inverse=True)
    number, kinds, patches = image * len(values) + value, count * len(values), height * width
    # Every pair of an image and a value; those that are objects are then picked.
    pixels = torch.bincount((number * patches + patch).flatten(), minlength=kinds * patches).double()
    pixels = pixels.reshape(count, len(values), patches)
    is_object = (values != BACKGROUND) & (values != IGNORED)
    present = (pixels.sum(2) > 0) & is_object
    return present.nonzero()[:, 0], pixels[present], pixels[:, values != IGNORED].sum(1)
