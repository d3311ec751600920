"""Weights from a file: reading them without unpickling, and finding an encoder's own among them."""

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
# torchvision's ResNet as nn.Sequential(*children): what each index is called in the net itself.
RESNET_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
# A classifier's tensors are ignored wherever they lie.
CLASSIFIERS = ("classifier", "fc", "head", "head_dist", "last_linear")
# Of two nets that fit equally well the one that was trained is taken, not its slow copy; a teacher is the one
# that its paper evaluates.
SECOND_CHOICE = ("ema", "encoder_k", "momentum", "student", "target")
# Buffers that older releases saved and newer ones compute.
COMPUTED = ("attn_mask", "num_batches_tracked", "relative_position_index")


# What torch's reader lets pass of a file that is damaged.
_DAMAGE = (
    *(RuntimeError, OSError, EOFError, LookupError, ValueError, AttributeError, TypeError),
    *(ArithmeticError, AssertionError, struct.error),
)


@dataclass(frozen=True)
class Weights:
    """What a file holds: tensors by name, those of nested dictionaries under `outer.inner`, and metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


@dataclass(frozen=True)
class Loaded:
    """What went into an encoder: how many tensors, and the names in the file that were not used."""

    tensors: int
    ignored: tuple[str, ...]


def read_weights(path: str | Path) -> Weights:
    """Read `.safetensors`, or what `torch.save` wrote (`.pth .pt .ckpt .bin .tar`); nothing is unpickled.

    Raises DataError for a file that is missing, damaged or of another kind, or that holds Python objects
    beside tensors.

    >>> import tempfile
    >>> file = tempfile.mkdtemp() + "/weights.pth"
    >>> torch.save({"epoch": 3, "state_dict": {"fc.bias": torch.zeros(2)}}, file)
    >>> read_weights(file).tensors
    {'state_dict.fc.bias': tensor([0., 0.])}
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is no file; name a file of weights ({_kinds()}).")
    if path.suffix == ".safetensors":
        found = _read_safetensors(path)
    elif path.suffix in TORCH_SUFFIXES:
        found = Weights(dict(_flat(_read_torch(path))), {})
    else:
        raise DataError(f"{path} ends in none of {_kinds()}; convert it to safetensors.")
    if not found.tensors:
        raise DataError(f"{path} holds no named tensors; give a state dict, saved as safetensors.")
    return found


def plain_state(encoder: Encoder) -> dict[str, Tensor]:
    """The encoder's tensors under the names of the library that it comes from, for others to load.

    Those of a LibraryEncoder are timm's, and for plain residual nets torchvision's too; the mean and spread
    of the images are not among them.

    >>> from fullrank.encoders import encoder
    >>> list(plain_state(encoder("resnet18", image_size=32)))[:2]
    ['conv1.weight', 'bn1.weight']
    """
    root = getattr(encoder, "library_root", "")
    state = encoder.state_dict()
    return {name.removeprefix(root): state[name] for name in state if name.startswith(root)}


def load_weights(encoder: Encoder, path: str | Path) -> Loaded:
    """Put the weights of a file into an encoder: all of them, or UsageError and the encoder as it was.

    Known are our `encoder.safetensors` and what we export (mean and spread come with them), state dicts of
    timm and of torchvision's residual nets, and what lies in other checkpoints behind any prefix, as in
    `state_dict`, `module.encoder_q` or `backbone`; also residual nets saved as an nn.Sequential (lightly).
    Of several nets in a file the one that fits best is taken. Heads, classifiers and slow copies are
    ignored. torchvision's transformers and ConvNeXt name their tensors in another way and do not fit.

    Raises DataError for a file that cannot be read (see `read_weights`), UsageError for one that does not
    fit: a tensor missing, of another shape, or of a part that the encoder does not have.
    """
    path = Path(path)
    weights = read_weights(path)
    tensors = weights.tensors | _statistics(weights.metadata)
    state = encoder.state_dict()
    root = getattr(encoder, "library_root", "")
    wanted = {
        name.removeprefix(root): tensor for name, tensor in state.items() if name not in ("mean", "std")
    }
    prefix, found = _best_reading(tensors, wanted)
    chosen = {root + name: source for name, source in found.items()}
    # Our own files hold the mean and spread beside the model.
    owner = prefix.removesuffix(root) if prefix.endswith(root) else prefix
    given = [name for name in ("mean", "std") if name in state and owner + name in tensors]
    if len(given) == 2 and all(tensors[owner + name].ndim == 4 for name in given):
        chosen |= {name: owner + name for name in ("mean", "std")}
    misfit = _misfit(tensors, wanted, prefix, found)
    shapes = {
        name: (tuple(tensors[source].shape), tuple(state[name].shape))
        for name, source in chosen.items()
        if tensors[source].shape != state[name].shape
    }
    if misfit.missing or misfit.beyond or shapes:
        named = {name.removeprefix(root): pair for name, pair in shapes.items()}
        raise UsageError(_sentence(path, encoder, len(wanted), misfit, named))
    encoder.load_state_dict({name: tensors[source] for name, source in chosen.items()}, strict=False)
    used = set(chosen.values())
    return Loaded(len(chosen), tuple(name for name in tensors if name not in used))


def _statistics(metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """Mean and spread as our exported files carry them: lists beside the tensors."""
    found = {}
    for name in ("mean", "std"):
        try:
            values = torch.tensor(json.loads(metadata.get(name, "")), dtype=torch.float32)
        except (ValueError, TypeError):
            return {}
        found[name] = values.reshape(1, -1, 1, 1)
    return found


@dataclass(frozen=True)
class _Misfit:
    missing: tuple[str, ...]
    beyond: tuple[str, ...]


def _best_reading(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[str, dict[str, str]]:
    """The prefix under which most of the `wanted` lie, and their names in the file: wanted -> file."""
    readings: dict[tuple[str, bool], dict[str, str]] = defaultdict(dict)
    for source in tensors:
        for prefix, listed, name in _readings_of(source):
            if name in wanted:
                readings[prefix, listed][name] = source
    if not readings:
        return "", {}

    def merit(prefix: str, found: dict[str, str]) -> tuple[int, int, bool]:
        fitting = sum(tensors[source].shape == wanted[name].shape for name, source in found.items())
        return fitting, len(found), not any(word in prefix for word in SECOND_CHOICE)

    (prefix, _), found = max(readings.items(), key=lambda reading: merit(reading[0][0], reading[1]))
    return prefix, found


def _readings_of(source: str) -> Iterator[tuple[str, bool, str]]:
    """Every way to read a name in a file: what is prefix, whether an index is translated, and the rest."""
    parts = source.split(".")
    for cut in range(len(parts)):
        prefix = "".join(f"{part}." for part in parts[:cut])
        yield prefix, False, ".".join(parts[cut:])
        if parts[cut] in RESNET_CHILDREN:
            yield prefix, True, ".".join([RESNET_CHILDREN[parts[cut]], *parts[cut + 1 :]])


def _misfit(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], prefix: str, found: Mapping[str, str]
) -> _Misfit:
    """What the file lacks, and what it has of a larger model: `layer1.2` beside `layer1.0` and `layer1.1`."""
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    bodies = {name.partition(".")[0] for name in wanted} - set(CLASSIFIERS)
    used = set(found.values())
    names = {source: _own_name(source, prefix) for source in tensors if source.startswith(prefix)}
    beyond = [
        name
        for source, name in names.items()
        if source not in used and name.partition(".")[0] in bodies and not name.endswith(COMPUTED)
    ]
    return _Misfit(tuple(missing), tuple(beyond))


def _own_name(source: str, prefix: str) -> str:
    first, dot, rest = source.removeprefix(prefix).partition(".")
    return RESNET_CHILDREN.get(first, first) + dot + rest


def _sentence(
    path: Path,
    encoder: Encoder,
    needed: int,
    misfit: _Misfit,
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> str:
    faults = []
    if misfit.missing:
        faults.append(f"{len(misfit.missing)} of {needed} tensors are missing ({_some(misfit.missing)})")
    if shapes:
        listed = [f"{name} is {_by(has)}, needed {_by(needs)}" for name, (has, needs) in shapes.items()]
        faults.append(
            f"{len(shapes)} {'has' if len(shapes) == 1 else 'have'} another shape ({_some(listed)})"
        )
    if misfit.beyond:
        faults.append(f"{len(misfit.beyond)} belong to a larger model ({_some(misfit.beyond)})")
    remedy = f"give weights of {encoder.name}, or name the encoder that they are of"
    alone = encoder.library_root and not misfit.missing and not misfit.beyond
    if alone and (options := _input_options(shapes)):
        given = {part.partition("=")[0]: part for part in encoder.spec.split(",")[1:]}
        changed = {part.partition("=")[0]: part for part in options.values()}
        spec = ",".join([encoder.name, *(given | changed).values()])
        remedy = f"write {spec} {' and '.join(options)}"
    return f"{path.name} does not fit {encoder.name}: {', '.join(faults)}; {remedy}."


def _input_options(shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> dict[str, str]:
    """What would make the first convolution fit, where it alone has another shape: purpose -> option."""
    options: dict[str, str] = {}
    weights = [pair for name, pair in shapes.items() if name not in ("mean", "std")]
    if len(weights) != 1:
        return options
    has, needs = weights[0]
    if len(has) != 4 or len(needs) != 4 or has[0] != needs[0]:
        return options
    if has[1] != needs[1]:
        if needs[1] != 1:
            return {}
        options["to repeat the grey channel"] = f"channels={has[1]}"
    stems = {(7, 7): "standard", (3, 3): "small"}
    if has[2:] != needs[2:]:
        if has[2:] not in stems or needs[2:] not in stems:
            return {}
        options[f"for its {has[2]}x{has[3]} stem"] = f"stem={stems[has[2:]]}"
    return options


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
        reason = f"it holds Python objects such as {foreign[1]}, and nothing is unpickled"
        raise _unreadable(path, reason, "convert its tensors to safetensors") from None
    except (*_DAMAGE, MemoryError) as error:  # a wrong length asks for more memory than there is
        raise _unreadable(
            path, f"damaged: {error!r}", "copy it again, or convert it to safetensors"
        ) from None


def _unreadable(path: Path, reason: str, remedy: str) -> DataError:
    return DataError(f"{path} cannot be read as weights ({' '.join(reason.split())[:200]}); {remedy}.")


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of dictionaries in dictionaries, by their joined names; anything else is left out."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if isinstance(key, str) and isinstance(value, Tensor):
                yield prefix + key, value
            elif isinstance(key, str):
                yield from _flat(value, f"{prefix}{key}.")


def _kinds() -> str:
    return ", ".join((".safetensors", *TORCH_SUFFIXES))


def _some(texts: "list[str] | tuple[str, ...]") -> str:
    return ", ".join([*texts[:2], *(["..."] if len(texts) > 2 else [])])


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
