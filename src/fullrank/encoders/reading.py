"""Where the features of a library's model can be read, derived from the model itself."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fullrank.places import evaluating

Layout = Literal["vector", "map", "map-last", "tokens"]
Pooling = Literal["mean", "cls", "max"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
Entry = tuple[str | int, ...]
SEQUENCES = nn.Sequential | nn.ModuleList
# What models raise for images that they cannot take. timm has no error class for this.
REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
# The entries of a mapping, or the fields of a dataclass: first those with one vector per image, then tokens.
POOLED = (
    "pooler_output",
    "image_embeds",
    "pooled_output",
    "pooled",
    "features",
    "embedding",
    "embeddings",
    "x_norm_clstoken",
    "h",
)
TOKENS = ("last_hidden_state", "x_norm_patchtokens", "tokens")
# Parameters that models add to the tokens of the image. A class token is one that stands for the whole image.
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
EXTRA_TOKENS = (*CLASS_TOKENS, "reg_token", "register_tokens", "dist_token", "distillation_token")
_POSITIONS = {"map": (2, 3), "map-last": (1, 2), "tokens": (1,)}


@dataclass(frozen=True)
class Reading:
    """One place: the output or the input of a module, and how it is pooled.

    `entry` leads to the tensor in a mapping or a tuple. The first `prefix` tokens do not belong to the image,
    and the first token is a class token if `has_class`.
    """

    module: str
    layout: Layout = "vector"
    prefix: int = 0
    of_input: bool = False
    pooling: Pooling = "mean"
    entry: Entry = ()
    has_class: bool = False

    def pooled(self, features: Tensor) -> Tensor:
        """Features as (N, D), in new memory, because the model may overwrite its own."""
        if self.layout == "vector":  # (N, D)
            return features.clone()
        if self.pooling == "cls":  # (N, T, D)
            return features[:, 0].clone()
        if self.layout == "tokens":
            features = features[:, self.prefix :]
        # (N, D, H, W), (N, H, W, D) or (N, T, D)
        positions = _POSITIONS[self.layout]
        return features.amax(positions) if self.pooling == "max" else features.mean(positions)

    @property
    def pools_patches(self) -> bool:
        """Whether features are the mean or the maximum over the tokens of the image's patches."""
        return self.layout in ("tokens", "map-last") and self.pooling != "cls"

    def patches(self, features: Tensor) -> Tensor:
        """The tokens of the image's patches, (N, T, D)."""
        return features.flatten(1, 2) if self.layout == "map-last" else features[:, self.prefix :]


def _pooled(_place: str, reading: Reading, tensor: Tensor) -> Tensor:
    return reading.pooled(tensor)


def read(
    model: nn.Module,
    x: Tensor,
    readings: Mapping[str, Reading],
    of: Callable[[str, Reading, Tensor], Tensor] = _pooled,
) -> tuple[Any, dict[str, Tensor]]:
    """The model's output for `x`, and `of` the tensor at each place, from one plain forward pass.

    By default these are the features (N, D_p).
    """
    features: dict[str, Tensor] = {}

    def keep(place: str, reading: Reading, module: nn.Module, *values: Any) -> None:
        # The last value is the module's output, or its input for a hook before the call.
        tensor = tensor_at(values[-1], reading.entry, x.shape[0])
        if tensor is not None:
            features[place] = of(place, reading, tensor)

    with ExitStack() as hooks:
        for place, reading in readings.items():
            module = model.get_submodule(reading.module)
            hook = partial(keep, place, reading)
            register = module.register_forward_pre_hook if reading.of_input else module.register_forward_hook
            hooks.callback(register(hook).remove)
        return model(x), features


@dataclass(frozen=True)
class Call:
    """One call of a module: the shapes of its tensors with one row per image, in and out, and where they are.

    `output_type` is the shape of a tensor, or the type of another output.
    """

    module: str
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    input_entry: Entry = ()
    output_entry: Entry = ()
    output_type: str = ""


@dataclass(frozen=True)
class Trace:
    """A pass of `images` (a shape): every call, in the order in which the calls ended."""

    images: tuple[int, ...]
    calls: tuple[Call, ...]

    @cached_property
    def once(self) -> dict[str, Call]:
        """The calls of the modules that ran once."""
        runs = Counter(call.module for call in self.calls)
        return {call.module: call for call in self.calls if runs[call.module] == 1}


@torch.no_grad()
def trace(model: nn.Module, images: Tensor) -> Trace:
    """Run `images` through `model` in eval mode and record every module's call."""
    calls: list[Call] = []

    def note(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        entries = [find_entry(inputs, len(images)), find_entry(output, len(images), vector_first=not name)]
        tensors = [
            None if entry is None else tensor_at(value, entry, len(images))
            for value, entry in zip((inputs, output), entries, strict=True)
        ]
        shapes = [None if tensor is None else tuple(tensor.shape) for tensor in tensors]
        kind = f"{tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        calls.append(Call(name, shapes[0], shapes[1], entries[0] or (), entries[1] or (), kind))

    with evaluating(model), ExitStack() as hooks:
        for name, module in model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
                hooks.callback(module.register_forward_hook(partial(note, name)).remove)
        note("", model, (images,), model(images))
    return Trace(tuple(images.shape), tuple(calls))


def find_readings(model: nn.Module, traced: Trace) -> dict[str, Reading]:
    """The places of a model, in the order in which they run: name -> how it is read."""
    blocks = find_blocks(model, traced)
    readings = {name: Reading(name) for name in blocks}
    stem = traced.once[blocks[0]].input_shape if blocks else None
    if stem and not _is_image(stem, traced):
        readings = {"stem": Reading(blocks[0], of_input=True)} | readings
    if (last := last_convolution(model, traced)) is not None:
        readings["last-conv-input"] = Reading(last, of_input=True)
    return with_layouts(model, traced, readings)


def with_layouts(model: nn.Module, traced: Trace, readings: Mapping[str, Reading]) -> dict[str, Reading]:
    """Each reading of a module that ran once, with its entry, its layout and its tokens."""
    shapes = {place: _shape(traced, reading) for place, reading in readings.items()}
    axes = {place: _channel_axis(shape) for place, shape in shapes.items() if len(shape) == 4}
    if None in axes.values():
        axes = _settle(model, traced, readings, axes)
    entered = {place: replace(reading, entry=_entry(traced, reading)) for place, reading in readings.items()}
    return {
        place: _with_layout(model, reading, shapes[place], axes.get(place))
        for place, reading in entered.items()
    }


def find_blocks(model: nn.Module, traced: Trace) -> list[str]:
    """The paths of the blocks that run once with one row per image, in the order in which they run."""
    order = [name for name, call in traced.once.items() if call.output_shape is not None]

    def resolve(path: str) -> list[str]:
        """The `blocks` of a stage, or the block itself."""
        blocks = getattr(model.get_submodule(path), "blocks", None)
        inner = list(_elements(blocks, f"{path}.blocks")) if isinstance(blocks, SEQUENCES) else []
        return inner if inner and all(name in order for name in inner) else [path]

    def search(module: nn.Module, path: str) -> Iterator[str]:
        """The paths of blocks in a module, also in a net that another module wraps."""
        # timm's models number their parameter groups by block; others have sequences.
        patterns = _patterns(module)
        numbered = False
        for name, _ in module.named_modules():
            pattern = next((p for p in patterns if p.fullmatch(name)), None)
            if pattern is not None:
                # One number is a stage or a block; two are a block of a stage.
                numbered = True
                yield from resolve(path + name) if pattern.groups == 1 else [path + name]
        if numbered:
            return
        children = dict(module.named_children())
        sequences = {name: child for name, child in children.items() if isinstance(child, SEQUENCES)}
        tops = [element for name, child in sequences.items() for element in _elements(child, path + name)]
        for top in tops:
            yield from resolve(top)
        for name, child in {} if tops else children.items():
            if (layers := _layers(child)) > 1:
                # A child with most of the layers is the net itself.
                inner = search(child, f"{path}{name}.") if 2 * layers > _layers(module) else ()
                yield from list(inner) or [path + name]

    names = set(search(model, ""))
    return [name for name in order if name in names]


def last_convolution(model: nn.Module, traced: Trace) -> str | None:
    """The path of the last convolution, if it runs once with one row per image. Not that of the image."""
    convolutions = [
        call
        for call in traced.calls
        if isinstance(model.get_submodule(call.module), nn.Conv2d) and not _is_image(call.input_shape, traced)
    ]
    # The gate of squeeze-and-excitation and the layer of a classifier have a single position.
    maps = [call for call in convolutions if call.input_shape is None or math.prod(call.input_shape[2:]) > 1]
    last = next(reversed(maps or convolutions), None)
    return None if last is None or last.input_shape is None or last.module not in traced.once else last.module


def _patterns(model: nn.Module) -> list[re.Pattern[str]]:
    """The patterns of `group_matcher` that number their groups, without the stem's."""
    matcher = getattr(model, "group_matcher", None)
    groups = matcher() if matcher is not None else None
    patterns: list[re.Pattern[str]] = []
    for group, pattern in groups.items() if isinstance(groups, Mapping) else ():
        if group != "stem" and pattern is not None:
            # A pattern with a suffix adds its modules to another group.
            pairs = [(pattern, None)] if isinstance(pattern, str) else pattern
            patterns += [re.compile(text) for text, suffix in pairs if suffix is None]
    return [pattern for pattern in patterns if pattern.groups]


def _elements(sequence: nn.Module, path: str) -> Iterator[str]:
    """The paths of the elements with several layers of a sequence, and of the sequences in it."""
    for key, element in sequence.named_children():
        if _layers(element) > 1:
            deeper = list(_elements(element, f"{path}.{key}")) if isinstance(element, SEQUENCES) else []
            yield from deeper or [f"{path}.{key}"]


def _layers(module: nn.Module) -> int:
    return sum(isinstance(m, nn.Conv2d | nn.Linear) for m in module.modules())


def find_entry(value: Any, rows: int, *, vector_first: bool = False) -> Entry | None:
    """The way to the features in what a module takes or returns; None without a tensor of one row per image.

    In a mapping or a dataclass, the entries of `POOLED` come first, then those of `TOKENS`. In a tuple it is
    the first tensor, or with `vector_first` the first (N, D).
    """
    if isinstance(value, Tensor):
        fits = value.ndim in (2, 3, 4) and value.shape[0] == rows and value.is_floating_point()
        return () if fits else None
    parts = _parts(value)
    named = [name for name in (*POOLED, *TOKENS) if name in parts]
    keys: list[str | int] = [*named, *(key for key in parts if key not in named)]
    ways = ((key, find_entry(parts[key], rows)) for key in keys)
    entries: list[Entry] = [(key, *way) for key, way in ways if way is not None]
    if vector_first and not named:
        entries.sort(key=lambda entry: getattr(tensor_at(value, entry, rows), "ndim", 0) != 2)
    return next(iter(entries), None)


def tensor_at(value: Any, entry: Entry, rows: int) -> Tensor | None:
    """The tensor at `entry`, or that of `find_entry` if a module returns another form this time."""
    inner = value
    for key in entry:
        inner = _parts(inner).get(key)
    if isinstance(inner, Tensor):
        return inner
    again = find_entry(value, rows)
    return None if again is None else tensor_at(value, again, rows)


def _parts(value: Any) -> Mapping[str | int, Any]:
    """What a mapping, a dataclass or a tuple holds, by name or number; nothing for anything else."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, tuple | list):
        return value._asdict() if hasattr(value, "_asdict") else dict(enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return {}


def _shape(traced: Trace, reading: Reading) -> tuple[int, ...]:
    call = traced.once[reading.module]
    return (call.input_shape if reading.of_input else call.output_shape) or ()


def _entry(traced: Trace, reading: Reading) -> Entry:
    call = traced.once[reading.module]
    return call.input_entry if reading.of_input else call.output_entry


def _is_image(shape: tuple[int, ...] | None, traced: Trace) -> bool:
    return shape is not None and len(shape) == 4 and shape[1] == traced.images[1]


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """The channel axis of a map of a square image (N, a, b, c): 1 or 3, None if a = b = c."""
    _, a, b, c = shape
    if a == b == c:
        return None
    return 1 if b == c else 3  # also 3 if no two sides are equal: a map of windows by tokens


def _settle(
    model: nn.Module, traced: Trace, readings: Mapping[str, Reading], axes: Mapping[str, int | None]
) -> dict[str, int | None]:
    """The axes again. Those that one image size leaves open are found at another size."""
    batch, channels, size, _ = traced.images
    device = next(model.parameters()).device
    for other in (size - size // 4, size + 32):
        try:
            again = trace(model, torch.zeros(batch, channels, other, other, device=device))
            shapes = {place: _shape(again, readings[place]) for place in axes}
        except REFUSALS:
            continue
        return {place: axis or _channel_axis(shapes[place]) for place, axis in axes.items()}
    # If the model takes no other size, the axis of most of its other maps is used.
    counts = Counter(axis for axis in axes.values() if axis is not None)
    usual = counts.most_common(1)[0][0] if counts else 1
    return {place: axis or usual for place, axis in axes.items()}


def _with_layout(model: nn.Module, reading: Reading, shape: tuple[int, ...], axis: int | None) -> Reading:
    if len(shape) == 4:
        return replace(reading, layout="map-last" if axis == 3 else "map")
    if len(shape) == 2:
        return reading
    prefix, has_class, by_class = prefix_tokens(model)
    # Some models add their class token after a few blocks: it exists if the rest is a square grid.
    rest = shape[1] - prefix
    if rest < 1 or math.isqrt(rest) ** 2 != rest:
        prefix = 0
    return replace(
        reading,
        layout="tokens",
        prefix=prefix,
        has_class=has_class and prefix > 0,
        pooling="cls" if by_class and prefix else "mean",
    )


def prefix_tokens(model: nn.Module) -> tuple[int, bool, bool]:
    """The number of tokens before the image's, whether one is a class token, and if timm pools by it."""
    declaring = (m for m in model.modules() if hasattr(m, "num_prefix_tokens"))
    owner = model if hasattr(model, "global_pool") else next(declaring, model)
    by_class = getattr(owner, "global_pool", None) == "token"
    parameters = {name.rpartition(".")[2]: p for name, p in owner.named_parameters()}
    has_class = by_class or not parameters.keys().isdisjoint(CLASS_TOKENS)
    if (declared := getattr(owner, "num_prefix_tokens", None)) is not None:
        return int(declared), has_class, by_class
    if hasattr(owner, "global_pool"):
        return int(by_class), has_class, by_class
    extra = [parameters[name] for name in EXTRA_TOKENS if name in parameters]
    return sum(p.shape[-2] if p.ndim == 3 else 1 for p in extra), has_class, False
