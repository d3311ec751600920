"""Which tensor of a module's output is looked at, and which of its tokens are padding."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Of a mapping the first of these that it holds: names of sentence-transformers, then those of transformers.
NAMED_OUTPUTS = (
    "sentence_embedding",
    "token_embeddings",
    "last_hidden_state",
    "pooler_output",
    "image_embeds",
    "text_embeds",
    "logits",
)
MASK = "attention_mask"


def tensor_in(output: object) -> Tensor | None:
    """The tensor of an output that stands for it, or None where none is plain.

    A tensor stands for itself, and the first tensor for a tuple or a list. For a mapping, such as a
    ModelOutput of transformers or the features of sentence-transformers, the first of `NAMED_OUTPUTS` stands,
    or its only tensor.

    >>> import torch
    >>> tensor_in({"token_embeddings": torch.ones(2, 5, 3), "sentence_embedding": torch.ones(2, 3)}).shape
    torch.Size([2, 3])
    >>> tensor_in((torch.ones(4, 2), None)).shape
    torch.Size([4, 2])
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        tensors = {name: value for name, value in output.items() if isinstance(value, Tensor)}
        name = next((name for name in NAMED_OUTPUTS if name in tensors), None)
        if name is None and len(tensors) == 1:
            name = next(iter(tensors))
        return tensors.get(name)
    if isinstance(output, tuple | list):
        return next((each for each in output if isinstance(each, Tensor)), None)
    return None


def described(output: object) -> str:
    """What an output is, for an error: a shape, or a type and what it holds."""
    if isinstance(output, Tensor):
        return f"shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"{type(output).__name__} of {', '.join(map(str, output)) or 'nothing'}"
    if isinstance(output, tuple | list):
        kinds = ", ".join(type(each).__name__ for each in output)
        return f"{type(output).__name__} of {kinds or 'nothing'}"
    return type(output).__name__


def mask_in(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor | None:
    """The mask (N, T) of the tokens that are no padding, among the arguments of a call; None without one.

    It is the argument `attention_mask`, or the entry of that name in a mapping. Masks of another shape, as
    the layers inside a model get them, are not read.
    """
    masks = [each.get(MASK) for each in (named, *arguments) if isinstance(each, Mapping)]
    return next((mask for mask in masks if isinstance(mask, Tensor) and mask.ndim == 2), None)


def mean_token(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """The mean (N, D) of tokens (N, T, D), in float32; with a mask (N, T) that fits, of those that it keeps.

    >>> import torch
    >>> mean_token(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
    tensor([[2.]])
    """
    if mask is None or mask.shape != tokens.shape[:2]:
        return tokens.float().mean(1)
    keep = (mask.to(tokens.device) > 0).unsqueeze(2)
    return tokens.float().masked_fill(~keep, 0).sum(1) / keep.sum(1).clamp(min=1)
