"""A model that ends at one place, and the tensors that its features depend on."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fullrank.places import read_places

# Before the tensors of a head in a file; a net of timm may have a `head` of its own.
HEAD_PREFIX = "fullrank_head."
Module = TypeVar("Module", bound=nn.Module)


class FeatureReader(nn.Module):
    """Images (N, C, S, S) in 0 to 1 -> the features (N, D_p) at one place, as a module.

    Args:
        encoder: The encoder.
        head: The head.
        place: The place, such as h, h[:24], z or layer3.0.
        image_shape: Channels, height and width of an image.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, place: str, image_shape: tuple[int, int, int]):
        super().__init__()
        self.encoder, self.head, self.place, self.image_shape = encoder, head, place, image_shape

    def forward(self, images: Tensor) -> Tensor:
        """The features of `images`."""
        return read_places(self.encoder, self.head, images, [self.place])[self.place]

    def names_in_file(self) -> dict[str, str]:
        """Name in the state dict -> name in a file. The encoder's tensors have the names of its library.

        The mean and std of an encoder from another library are left out.
        """
        root = f"encoder.{getattr(self.encoder, 'library_root', '')}"
        prefixes = {root: "", "head.": HEAD_PREFIX}
        return {
            name: new + name.removeprefix(old)
            for name in self.state_dict()
            for old, new in prefixes.items()
            if name.startswith(old)
        }


@torch.no_grad()
def needed_tensors(model: nn.Module, images: Tensor) -> set[str]:
    """The names in the state dict of the tensors that the output for `images` is computed from.

    One pass records which memory each operation reads and writes. The record is then followed backwards from
    the output. So a tensor that is used only later, or never, is not needed.

    Args:
        model: A module from images to one tensor, with a memory of its own for each tensor.
        images: A batch of images.

    >>> net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    >>> sorted(needed_tensors(net, torch.zeros(1, 3)))[:3]
    ['0.bias', '0.weight', '1.bias']
    """
    with _Recorder() as record:
        output = model(images)
    needed = {_memory_of(output), *record.decided}
    for reads, writes in reversed(record.steps):
        if not needed.isdisjoint(writes):
            needed |= reads
    return {name for name, tensor in model.state_dict().items() if _memory_of(tensor) in needed}


def private_copy(model: Module) -> Module:
    """A copy on the CPU in eval mode, with nothing cached."""
    return copy.deepcopy(model).cpu().train().eval()


def separate(model: Module) -> Module:
    """The module itself, after each of its tensors was moved to a memory of its own."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the memory that each operation reads and writes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[tuple[set[int], set[int]]] = []
        self.decided: set[int] = set()  # what became a Python number, on which the code may have branched
        self._alive: list[Tensor] = []  # or the memory would be used again

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        # An operation in place returns the tensor that it wrote to.
        reads, writes = self._memories([args, kwargs]), self._memories([output])
        self.steps.append((reads, writes))
        if not writes:
            self.decided |= reads
        return output

    def _memories(self, values: Any) -> set[int]:
        tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
        self._alive += tensors
        return {_memory_of(tensor) for tensor in tensors}


def _memory_of(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # a sparse tensor
        return id(tensor)
