"""Weights from a file: read without unpickling, and matched to an encoder."""

import json
import pickle
import re
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fullrank.encoders.contract import Encoder
from fullrank.errors import DataError, UsageError

TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar")
# torchvision's ResNet as nn.Sequential(*children): the name of each index in the net itself.
RESNET_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
# A classifier's tensors are ignored everywhere.
CLASSIFIERS = ("classifier", "fc", "head", "head_dist", "last_linear")
# Of two nets that fit equally well, the trained one is used, not its momentum copy. A teacher is the net that
# its paper evaluates.
SECOND_CHOICE = ("ema", "encoder_k", "momentum", "student", "target")
# Buffers that older releases saved and newer ones compute.
COMPUTED = ("attn_mask", "num_batches_tracked", "relative_position_index")


# What torch's reader raises for a damaged file. A wrong length requests more memory than exists.
_DAMAGE = (
    *(RuntimeError, OSError, EOFError, LookupError, ValueError, AttributeError, TypeError),
    *(ArithmeticError, AssertionError, struct.error, MemoryError),
)
_KINDS = ", ".join((".safetensors", *TORCH_SUFFIXES))


# Name -> its shape in the file, and the needed one.
_Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class Weights:
    """The content of a file: tensors by name (nested dictionaries as `outer.inner`), and metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


@dataclass(frozen=True)
class Loaded:
    """How many tensors went into an encoder, and the names in the file that were not used."""

    tensors: int
    ignored: tuple[str, ...]


def read_weights(path: str | Path) -> Weights:
    """Read `.safetensors`, or a file of `torch.save` (`.pth .pt .ckpt .bin .tar`). Nothing is unpickled.

    Args:
        path: The file.

    Raises:
        DataError: For a file that is missing, damaged or of another kind, or that has Python objects.

    >>> import tempfile
    >>> file = tempfile.mkdtemp() + "/weights.pth"
    >>> torch.save({"epoch": 3, "state_dict": {"fc.bias": torch.zeros(2)}}, file)
    >>> read_weights(file).tensors
    {'state_dict.fc.bias': tensor([0., 0.])}
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is not a file; name a file of weights ({_KINDS}).")
    if path.suffix == ".safetensors":
        weights = _read_safetensors(path)
    elif path.suffix in TORCH_SUFFIXES:
        weights = Weights(dict(_flat(_read_torch(path))), {})
    else:
        raise DataError(f"{path} must end in one of {_KINDS}; convert it to safetensors.")
    if not weights.tensors:
        raise DataError(f"{path} has no named tensors; give a state dict, saved as safetensors.")
    return weights


def plain_state(encoder: Encoder) -> dict[str, Tensor]:
    """The encoder's tensors under the names of its library, for other programs to load.

    For a LibraryEncoder these are timm's names, which are also torchvision's for plain residual nets. The
    mean and spread of the images are not included.

    Args:
        encoder: The encoder.

    >>> from fullrank.encoders import encoder
    >>> list(plain_state(encoder("resnet18", image_size=32)))[:2]
    ['conv1.weight', 'bn1.weight']
    """
    root = getattr(encoder, "library_root", "")
    state = encoder.state_dict()
    return {name.removeprefix(root): state[name] for name in state if name.startswith(root)}


def load_weights(encoder: Encoder, path: str | Path) -> Loaded:
    """Load all weights of a file into an encoder. If they do not fit, the encoder stays unchanged.

    These files are known:

    - our `encoder.safetensors` and our exports, with mean and spread
    - state dicts of timm and of torchvision's residual nets
    - other checkpoints with any prefix, such as `state_dict`, `module.encoder_q` or `backbone`
    - residual nets saved as an nn.Sequential (lightly)

    Of several nets in a file the one that fits best is used. Heads, classifiers and momentum copies are
    ignored. torchvision's transformers and ConvNeXt use other names and do not fit.

    Args:
        encoder: The encoder.
        path: The file.

    Raises:
        DataError: For a file that cannot be read, see `read_weights`.
        UsageError: For a file that does not fit: a tensor is missing, has another shape, or belongs to a part
            that the encoder lacks.
    """
    weights = read_weights(path)
    tensors = weights.tensors | _statistics(weights.metadata)
    state = encoder.state_dict()
    root = getattr(encoder, "library_root", "")
    needed = {name: tensor for name, tensor in plain_state(encoder).items() if name not in ("mean", "std")}
    prefix, sources = _best_reading(tensors, needed)
    chosen = {root + name: source for name, source in sources.items()}
    # Our own files have the mean and standard deviation beside the model.
    owner = prefix.removesuffix(root) if prefix.endswith(root) else prefix
    statistics = [name for name in ("mean", "std") if name in state and owner + name in tensors]
    if len(statistics) == 2 and all(tensors[owner + name].ndim == 4 for name in statistics):
        chosen |= {name: owner + name for name in statistics}
    missing = [name for name in needed if name not in sources and not name.endswith("num_batches_tracked")]
    beyond = _beyond(tensors, needed, prefix, set(sources.values()))
    shapes = {
        name.removeprefix(root): (tuple(tensors[source].shape), tuple(state[name].shape))
        for name, source in chosen.items()
        if tensors[source].shape != state[name].shape
    }
    if faults := _faults(len(needed), missing, beyond, shapes):
        remedy = f"give weights of {encoder.name}, or name the encoder that they belong to"
        if root and not missing and not beyond:
            remedy = _input_remedy(encoder, shapes) or remedy
        raise UsageError(f"{Path(path).name} does not fit {encoder.name}: {', '.join(faults)}; {remedy}.")
    encoder.load_state_dict({name: tensors[source] for name, source in chosen.items()}, strict=False)
    used = set(chosen.values())
    return Loaded(len(chosen), tuple(name for name in tensors if name not in used))


def _statistics(metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """Mean and spread as in our exported files: lists next to the tensors."""
    try:
        lists = {name: json.loads(metadata.get(name, "")) for name in ("mean", "std")}
        tensors = {name: torch.tensor(values, dtype=torch.float32) for name, values in lists.items()}
        return {name: tensor.reshape(1, -1, 1, 1) for name, tensor in tensors.items()}
    except (ValueError, TypeError):
        return {}


def _best_reading(tensors: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> tuple[str, dict[str, str]]:
    """The prefix with most of what is `needed`, and needed name -> name in the file."""
    readings: dict[tuple[str, bool], dict[str, str]] = defaultdict(dict)
    for source in tensors:
        for prefix, listed, name in _readings_of(source):
            if name in needed:
                readings[prefix, listed][name] = source

    def merit(prefix: str, sources: dict[str, str]) -> tuple[int, int, bool]:
        fitting = sum(tensors[source].shape == needed[name].shape for name, source in sources.items())
        return fitting, len(sources), not any(word in prefix for word in SECOND_CHOICE)

    pairs = [(prefix, sources) for (prefix, _), sources in readings.items()]
    return max(pairs, key=lambda pair: merit(*pair), default=("", {}))


def _readings_of(source: str) -> Iterator[tuple[str, bool, str]]:
    """Every way to read a name in a file: the prefix, whether an index is translated, and the rest."""
    parts = source.split(".")
    for cut in range(len(parts)):
        prefix = "".join(f"{part}." for part in parts[:cut])
        yield prefix, False, ".".join(parts[cut:])
        if parts[cut] in RESNET_CHILDREN:
            yield prefix, True, ".".join([RESNET_CHILDREN[parts[cut]], *parts[cut + 1 :]])


def _beyond(
    tensors: Mapping[str, Tensor], needed: Mapping[str, Tensor], prefix: str, used: set[str]
) -> list[str]:
    """Tensors of a larger model in a file, such as `layer1.2` beside `layer1.0` and `layer1.1`."""
    bodies = {name.partition(".")[0] for name in needed} - set(CLASSIFIERS)
    beyond = []
    for source in tensors:
        if source.startswith(prefix) and source not in used:
            first, dot, rest = source.removeprefix(prefix).partition(".")
            name = RESNET_CHILDREN.get(first, first) + dot + rest
            if name.partition(".")[0] in bodies and not name.endswith(COMPUTED):
                beyond.append(name)
    return beyond


def _faults(needed: int, missing: list[str], beyond: list[str], shapes: _Shapes) -> list[str]:
    """The reasons why a file does not fit, each with its first names."""
    texts = [f"{name} is {_by(has)}, needed {_by(needs)}" for name, (has, needs) in shapes.items()]
    lists = {
        f"{len(missing)} of {needed} tensors are missing": missing,
        f"{len(shapes)} {'has' if len(shapes) == 1 else 'have'} another shape": texts,
        f"{len(beyond)} belong to a larger model": beyond,
    }
    some = {fault: ", ".join([*names[:2], *["..."] * (len(names) > 2)]) for fault, names in lists.items()}
    return [f"{fault} ({names})" for fault, names in some.items() if names]


def _input_remedy(encoder: Encoder, shapes: _Shapes) -> str | None:
    """The spec that makes the first convolution fit, if it alone has another shape."""
    weights = [pair for name, pair in shapes.items() if name not in ("mean", "std")]
    if len(weights) != 1 or any(len(shape) != 4 for shape in weights[0]):
        return None
    has, needs = weights[0]
    stems: dict[tuple[int, ...], str] = {(7, 7): "standard", (3, 3): "small"}
    grey, stem = has[1] != needs[1], has[2:] != needs[2:]
    if has[0] != needs[0] or (grey and needs[1] != 1) or (stem and not {has[2:], needs[2:]} <= set(stems)):
        return None
    changed = {"channels": str(has[1])} if grey else {}
    changed |= {"stem": stems[has[2:]]} if stem else {}
    own = {key: value for key, _, value in (each.partition("=") for each in encoder.spec.split(",")[1:])}
    purposes = ["to repeat the grey channel"] * grey + [f"for its {has[2]}x{has[3]} stem"] * stem
    options = [f"{key}={value}" for key, value in (own | changed).items()]
    return f"write {','.join([encoder.name, *options])} {' and '.join(purposes)}"


def _read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return Weights({name: file.get_tensor(name) for name in names}, file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, str(error), "copy or convert it again") from None


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign is None:
            raise _unreadable(path, "not a file of torch.save", "convert it to safetensors") from None
        reason = f"it has Python objects such as {foreign[1]}, which are not unpickled"
        raise _unreadable(path, reason, "convert its tensors to safetensors") from None
    except _DAMAGE as error:
        remedy = "copy it again, or convert it to safetensors"
        raise _unreadable(path, f"damaged: {error!r}", remedy) from None


def _unreadable(path: Path, reason: str, remedy: str) -> DataError:
    return DataError(f"{path} cannot be read as weights ({' '.join(reason.split())[:200]}); {remedy}.")


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of nested dictionaries, by their joined names. Anything else is left out."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if isinstance(key, str) and isinstance(value, Tensor):
                yield prefix + key, value
            elif isinstance(key, str):
                yield from _flat(value, f"{prefix}{key}.")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
