"""Files of weights: read without unpickling, with what they say about themselves."""

import json
import pickle
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fullrank.errors import DataError

TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar", ".torch")

# What torch's reader raises for a damaged file. A wrong length requests more memory than exists.
_DAMAGE = (
    *(RuntimeError, OSError, EOFError, LookupError, ValueError, AttributeError, TypeError),
    *(ArithmeticError, AssertionError, struct.error, MemoryError),
)
_KINDS = ", ".join((".safetensors", *TORCH_SUFFIXES))

Fact = str | int | float | bool


@dataclass(frozen=True)
class Weights:
    """The content of a file. Names in nested dictionaries are joined, as in `outer.inner`.

    Attributes:
        tensors: The tensors by name.
        metadata: The metadata of a safetensors file.
        facts: Plain values beside the tensors by name, such as `arch` or `args.num_heads`.
        objects: The classes of Python objects in the file, which were left out.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    facts: dict[str, Fact] = field(default_factory=dict)
    objects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Statistics:
    """What a file says about the images of its net; None where it does not say it.

    Attributes:
        mean: The mean of each channel, for images in 0 to 1.
        std: The standard deviation of each channel.
        image_size: Height and width in pixels.
        in_chans: Number of channels.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    in_chans: int | None = None


def read_weights(path: str | Path) -> Weights:
    """Read `.safetensors`, or a file of `torch.save` (`.pth .pt .ckpt .bin .tar .torch`).

    Nothing is unpickled. A Python object beside the tensors, such as an `argparse.Namespace`, is left out:
    nothing of its class is imported or run. Its plain attributes are among the facts.

    Args:
        path: The file.

    Raises:
        DataError: For a file that is missing, damaged or of another kind, or whose tensors are in Python
            objects.

    >>> import tempfile
    >>> file = tempfile.mkdtemp() + "/weights.pth"
    >>> torch.save({"epoch": 3, "state_dict": {"fc.bias": torch.zeros(2)}}, file)
    >>> weights = read_weights(file)
    >>> weights.tensors, weights.facts
    ({'state_dict.fc.bias': tensor([0., 0.])}, {'epoch': 3})
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is not a file; name a file of weights ({_KINDS}).")
    if path.suffix == ".safetensors":
        weights = _read_safetensors(path)
    elif path.suffix in TORCH_SUFFIXES:
        weights = _read_torch(path)
    else:
        raise DataError(f"{path} must end in one of {_KINDS}; convert it to safetensors.")
    if not weights.tensors and weights.objects:
        raise _of_objects(path, weights.objects[0])
    if not weights.tensors:
        raise DataError(f"{path} has no named tensors; give a state dict, saved as safetensors.")
    return weights


def statistics_in(weights: Weights) -> Statistics:
    """The mean, spread, size and channels of the images that a file of ours states.

    Our exports have them as metadata. `encoder.safetensors` and checkpoints have mean and spread as tensors.

    Args:
        weights: The content of the file.

    >>> statistics_in(Weights({}, {"mean": "[0.5]", "std": "[0.25]", "image_size": "32"}))
    Statistics(mean=(0.5,), std=(0.25,), image_size=32, in_chans=None)
    """
    columns = {name: _numbers(weights.metadata.get(name)) for name in ("mean", "std")}
    if None in columns.values():
        owners = [name.removesuffix("mean") for name in weights.tensors if re.search(r"(^|\.)mean$", name)]
        pairs = [[weights.tensors.get(owner + name) for name in columns] for owner in owners]
        ours = [pair for pair in pairs if all(each is not None and each.ndim == 4 for each in pair)]
        first = ours[0] if ours else (None, None)
        columns = {
            name: None if each is None else tuple(each.flatten().tolist())
            for name, each in zip(columns, first, strict=True)
        }
    sizes = {
        name: int(text) if (text := weights.metadata.get(name, "")).isdecimal() else None
        for name in ("image_size", "in_chans")
    }
    return Statistics(columns["mean"], columns["std"], sizes["image_size"], sizes["in_chans"])


def _numbers(text: str | None) -> tuple[float, ...] | None:
    """A list of numbers in JSON, or None for anything else."""
    try:
        return tuple(torch.tensor(json.loads(text or ""), dtype=torch.float32).flatten().tolist())
    except (ValueError, TypeError):
        return None


def _read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return Weights({name: file.get_tensor(name) for name in names}, file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, str(error), "copy or convert it again") from None


class _LeftOut:
    """In place of a Python object: it keeps the attributes, and runs nothing."""

    attributes: Mapping[Any, Any] = MappingProxyType({})

    def __init__(self, *_: object):
        pass

    def __setstate__(self, state: object) -> None:
        """Keep plain attributes."""
        if isinstance(state, Mapping):
            self.attributes = state


def _read_torch(path: Path) -> Weights:
    objects: tuple[str, ...] = ()
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            objects = _objects_in(path)
            if not objects:
                raise error from None
            with torch.serialization.safe_globals([(_LeftOut, name) for name in objects]):
                content = torch.load(path, map_location="cpu", weights_only=True)
        return Weights(dict(_flat(content, Tensor)), {}, dict(_flat(content, Fact)), objects)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign is None and not objects:
            raise _unreadable(path, "not a file of torch.save", "convert it to safetensors") from None
        raise _of_objects(path, foreign[1] if foreign else objects[0]) from None
    except _DAMAGE as error:
        remedy = "copy it again, or convert it to safetensors"
        raise _unreadable(path, f"damaged: {error!r}", remedy) from None


def _objects_in(path: Path) -> tuple[str, ...]:
    """The names of what a file would import, sorted; none where that cannot be read."""
    try:
        return tuple(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)))
    except (*_DAMAGE, pickle.UnpicklingError):
        return ()


def _of_objects(path: Path, name: str) -> DataError:
    reason = f"its tensors are in Python objects such as {name}, which are not unpickled"
    return _unreadable(path, reason, "convert its tensors to safetensors")


def _unreadable(path: Path, reason: str, remedy: str) -> DataError:
    return DataError(f"{path} cannot be read as weights ({' '.join(reason.split())[:200]}); {remedy}.")


def _flat(content: Any, kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What is of one kind in nested dictionaries, by joined names. Anything else is left out."""
    if isinstance(content, _LeftOut) and kind is not Tensor:
        content = content.attributes
    if isinstance(content, Mapping):
        for key, value in content.items():
            if isinstance(key, str) and isinstance(value, kind):
                yield prefix + key, value
            elif isinstance(key, str):
                yield from _flat(value, kind, f"{prefix}{key}.")
