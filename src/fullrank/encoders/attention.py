"""The attention of a vision transformer's class token to the patches of an image."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fullrank.batch import as_float
from fullrank.encoders.reading import prefix_tokens
from fullrank.errors import UsageError
from fullrank.places import evaluating

_SOFTMAXES: tuple[Callable[..., Tensor], ...] = (torch.softmax, Tensor.softmax, F.softmax)


@torch.no_grad()
def cls_attention(encoder: nn.Module, images: Tensor, block: int = -1) -> Tensor:
    r"""The softmax attention of the class token to the patches in a block of a vision transformer.

    .. math:: a_h = \operatorname{softmax}(q_h K_h^\top s + b)_{\text{patches}}

    Here q is the query of the class token, K the keys of all tokens, s the net's scale and b its bias, if
    any. The weights are those that the net itself computes in a plain pass in eval mode: the arguments of
    `scaled_dot_product_attention`, or the softmax, are noted as they pass. So it works for `tiny-vit`, for
    timm's vision transformers with class and register tokens, and for those of other libraries. The weights
    of the class and register tokens are left out, so the sum over patches is less than 1. The net's mode,
    weights and gradients do not change. Where h is the mean of the patches, no loss may have trained the
    class token's attention.

    Args:
        encoder: The encoder, or any module that takes images.
        images: Images (N, C, H, W), float in 0 to 1 or uint8.
        block: The number of the block, from 0; negative numbers count from the last.

    Returns:
        The weights (N, heads, h, w), float32 or of the net's wider type, for h x w patches.

    Raises:
        UsageError: The net has no class token, or no attention in which it takes part; or no such block.

    >>> from fullrank.encoders import encoder
    >>> net = encoder("tiny-vit", image_size=16)
    >>> cls_attention(net, torch.rand(2, 3, 16, 16)).shape
    torch.Size([2, 3, 4, 4])

    Source: Caron et al. 2021 (arXiv 2104.14294), for the attention of the last block.
    """
    name = getattr(encoder, "name", type(encoder).__name__)
    net = getattr(encoder, "model", encoder)
    prefix, has_class, _ = prefix_tokens(net)
    weight = next((p for p in net.parameters()), images)
    with evaluating(encoder), _Noting() as noting:
        encoder(as_float(images.to(weight.device)))
    seen = [each for each in noting.rows if len(each) == len(images)]
    if not seen:
        raise _refused(name, "attention that can be seen")
    if not (has_class and prefix):
        raise _refused(name, "class token, so no attention of it to the patches")
    grids = [(_grid(each.shape[2] - prefix, images.shape[-2:]), each) for each in seen]
    blocks = [each[:, :, prefix:].unflatten(2, grid) for grid, each in grids if grid is not None]
    if not blocks:
        raise _refused(name, "block in which its class token attends to a grid of patches")
    if not -len(blocks) <= block < len(blocks):
        raise UsageError(
            f"{name} has {len(blocks)} blocks with attention, but block is {block}; give "
            f"{-len(blocks)} to {len(blocks) - 1}."
        )
    attention: Tensor = blocks[block]
    return attention


def _refused(name: str, lack: str) -> UsageError:
    return UsageError(
        f"{name} has no {lack}; give a vision transformer with a class token, such as tiny-vit or "
        "deit_tiny_patch16_224, or use the foreground share of the gradient, which works for any net."
    )


def _grid(patches: int, size: Sequence[int]) -> tuple[int, int] | None:
    """The rows and columns of so many square patches of an image; None if they do not cover it."""
    per_pixel = math.sqrt(max(patches, 0) / math.prod(size))
    rows, columns = (round(per_pixel * side) for side in size)
    fits = 0 < rows * columns == patches and rows * size[1] == columns * size[0]
    return (rows, columns) if fits else None


class _Noting(TorchFunctionMode):
    """Notes the first token's row (N, heads, T) of every self-attention over T tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What the function returns, unchanged."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            self._note(_first_row(*args, **kwargs))
        elif func is F.multi_head_attention_forward:  # of nn.MultiheadAttention
            weights = func(*args, **(kwargs | {"need_weights": True, "average_attn_weights": False}))[1]
            self._note(weights)
        elif func in _SOFTMAXES and result.ndim == 4 and result.shape[2] == result.shape[3]:
            self._note(result)
        return result

    def _note(self, weights: Tensor | None) -> None:
        if weights is not None:
            row = weights[:, :, 0]
            self.rows.append(row.float() if row.dtype in (torch.float16, torch.bfloat16) else row.clone())


def _first_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor | None:
    """The attention (N, heads, 1, T) of the first of T tokens; None if they do not attend to each other."""
    if query.ndim != 4 or query.shape[2] != key.shape[2] or is_causal:
        return None
    scale = options.get("scale") or query.shape[3] ** -0.5
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)  # heads may share keys
    scores = query[:, :, :1] @ key.transpose(2, 3) * scale
    if attn_mask is not None:
        mask = attn_mask[..., :1, :]
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return torch.softmax(scores, -1)
