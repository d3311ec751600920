"""The encoder's forward in chunks of images, whose activations are computed again in the backward pass."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# A module, the name of one of its buffers, and a value of it.
_Buffer = tuple[nn.Module, str, Tensor]


def encode_in_chunks(
    encode: Callable[[Tensor], Mapping[str, Tensor]], images: Tensor, size: int, module: nn.Module
) -> dict[str, Tensor]:
    """The features of images (N, C, H, W) from one forward pass for each `size` of them.

    Only the features of a chunk are kept. Its activations are computed again when its gradient is, so the
    backward pass never holds those of two chunks. The last chunk keeps its own, since the backward pass
    begins with it. Value and gradient are bit for bit those of the same chunks without this: draws are
    repeated. A module whose buffers change in training, such as a batch norm, sees those of the first pass
    again, and keeps what it had after it.

    Args:
        encode: Maps images to the features (N, D_p) at each place.
        images: The images. If there are no more than `size`, they are one ordinary pass.
        size: The most images of a chunk; the last one may have fewer.
        module: The module that `encode` calls.

    Returns:
        Place -> features (N, D_p).

    >>> net = nn.Linear(3, 2)
    >>> encode_in_chunks(lambda images: {"h": net(images)}, torch.ones(5, 3), 2, net)["h"].shape
    torch.Size([5, 2])

    Source: Chen et al. 2016 (1604.06174); chunks of a batch whose loss needs all rows as in Gao et al. 2021
    (GradCache, 2101.06983), but through torch's own checkpoints.
    """
    if len(images) <= size:
        return dict(encode(images))
    *parts, last = torch.split(images, size)
    features: list[Mapping[str, Tensor]] = []
    for part in parts:
        of_part: Mapping[str, Tensor] = checkpoint(
            encode, part, use_reentrant=False, context_fn=partial(_first_and_repeated, module)
        )
        features.append(of_part)
    features.append(encode(last))
    return {place: torch.cat([of_part[place] for of_part in features]) for place in features[0]}


def _first_and_repeated(module: nn.Module) -> tuple[AbstractContextManager[None], "_Repeated"]:
    """What the first pass of a chunk runs in, which is about to begin, and what each repeated one does."""
    return nullcontext(), _Repeated(module)


class _Repeated(AbstractContextManager[None]):
    """Meanwhile the modules in training have copies of the buffers that they had when this was made.

    All of them are kept, not only those whose version counter rises: a batch norm changes its own without.
    """

    def __init__(self, module: nn.Module):
        self.before = [(owner, name, value.clone()) for owner, name, value in _changeable(module)]

    def __enter__(self) -> None:
        self.after = [(owner, name, owner._buffers[name]) for owner, name, _ in self.before]
        # Copies in their place, so that nothing that autograd has saved is written to.
        for owner, name, value in self.before:
            owner._buffers[name] = value.clone()

    def __exit__(self, *_: object) -> None:
        for owner, name, value in self.after:
            owner._buffers[name] = value


def _changeable(module: nn.Module) -> Iterator[_Buffer]:
    """The buffers of all parts of a module that are in training mode."""
    for part in module.modules():
        if part.training:
            for name, value in part.named_buffers(recurse=False):
                yield part, name, value
