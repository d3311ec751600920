"""Where the features of a library's model can be read, derived from the model itself."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fullrank.places import evaluating

Layout = Literal["vector", "map", "map-last", "tokens", "token"]
SEQUENCES = nn.Sequential | nn.ModuleList
# What models raise for images that they cannot take. timm has no error class for this.
REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def pooled(features: Tensor, layout: Layout, prefix: int = 0) -> Tensor:
    """Features as (N, D), in new memory, because the model may overwrite its own."""
    match layout:
        case "map":  # (N, D, H, W)
            return features.mean((2, 3))
        case "map-last":  # (N, H, W, D)
            return features.mean((1, 2))
        case "tokens":  # (N, T, D)
            return features[:, prefix:].mean(1)
        case "token":  # (N, T, D)
            return features[:, 0].clone()
        case "vector":  # (N, D)
            return features.clone()


@dataclass(frozen=True)
class Reading:
    """One place: the output or the input of a module, and how it is pooled."""

    module: str
    layout: Layout
    prefix: int = 0
    of_input: bool = False


def read(model: nn.Module, x: Tensor, readings: Mapping[str, Reading]) -> tuple[Tensor, dict[str, Tensor]]:
    """The model's output for `x`, and the features (N, D_p) at each place, from one plain forward pass."""
    features: dict[str, Tensor] = {}

    def keep(place: str, reading: Reading, module: nn.Module, *values: Any) -> None:
        # The last value is the module's output, or its input for a hook before the call.
        tensor = _first_tensor(values[-1], x.shape[0])
        if tensor is not None:
            features[place] = pooled(tensor, reading.layout, reading.prefix)

    with ExitStack() as hooks:
        for place, reading in readings.items():
            module = model.get_submodule(reading.module)
            hook = partial(keep, place, reading)
            register = module.register_forward_pre_hook if reading.of_input else module.register_forward_hook
            hooks.callback(register(hook).remove)
        return model(x), features


@dataclass(frozen=True)
class Call:
    """One call of a module: the shapes of the first tensors with one row per image, in and out."""

    module: str
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Trace:
    """A pass of `images` (a shape): every call, in the order in which the calls ended, and the output."""

    images: tuple[int, ...]
    calls: tuple[Call, ...]
    output: Any

    @cached_property
    def once(self) -> dict[str, Call]:
        """The calls of the modules that ran once."""
        runs = Counter(call.module for call in self.calls)
        return {call.module: call for call in self.calls if runs[call.module] == 1}


@torch.no_grad()
def trace(model: nn.Module, images: Tensor) -> Trace:
    """Run `images` through `model` in eval mode and record every module's call."""
    calls: list[Call] = []

    def note(name: str, module: nn.Module, *values: Any) -> None:
        tensors = (_first_tensor(value, len(images)) for value in values)
        calls.append(Call(name, *(None if tensor is None else tuple(tensor.shape) for tensor in tensors)))

    with evaluating(model), ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_hook(partial(note, name)).remove)
        output = model(images)
    return Trace(tuple(images.shape), tuple(calls), output)


def find_readings(model: nn.Module, traced: Trace) -> dict[str, Reading]:
    """The places of a model, in the order in which they run: name -> how it is read."""
    blocks = find_blocks(model, traced)
    readings = {name: Reading(name, "vector") for name in blocks}
    stem = traced.once[blocks[0]].input_shape if blocks else None
    if stem and not _is_image(stem, traced):
        readings = {"stem": Reading(blocks[0], "vector", of_input=True)} | readings
    if (last := last_convolution(model, traced)) is not None:
        readings["last-conv-input"] = Reading(last, "vector", of_input=True)
    shapes = {place: _shape(traced, reading) for place, reading in readings.items()}
    axes = {place: _channel_axis(shape) for place, shape in shapes.items() if len(shape) == 4}
    if None in axes.values():
        axes = _settle(model, traced, readings, axes)
    return {
        place: _with_layout(model, reading, shapes[place], axes.get(place))
        for place, reading in readings.items()
    }


def find_blocks(model: nn.Module, traced: Trace) -> list[str]:
    """The paths of the blocks that run once with one row per image, in the order in which they run."""
    order = [name for name, call in traced.once.items() if call.output_shape is not None]

    def resolve(path: str) -> list[str]:
        """The `blocks` of a stage, or the block itself."""
        blocks = getattr(model.get_submodule(path), "blocks", None)
        inner = list(_elements(blocks, f"{path}.blocks")) if isinstance(blocks, SEQUENCES) else []
        return inner if inner and all(name in order for name in inner) else [path]

    # timm's models number their parameter groups by block; others have sequences.
    names: list[str] = []
    patterns = _patterns(model)
    for name, _ in model.named_modules():
        pattern = next((p for p in patterns if p.fullmatch(name)), None)
        if pattern is not None:
            # One number is a stage or a block; two are a block of a stage.
            names += resolve(name) if pattern.groups == 1 else [name]
    if not names:
        children = dict(model.named_children())
        sequences = {name: child for name, child in children.items() if isinstance(child, SEQUENCES)}
        tops = [path for name, child in sequences.items() for path in _elements(child, name)]
        tops = tops or [name for name, child in children.items() if _layers(child) > 1]
        names = [name for top in tops for name in resolve(top)]
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


def _first_tensor(value: Any, rows: int) -> Tensor | None:
    """`value`, or the first tensor in it, with one row per image."""
    values = value if isinstance(value, tuple | list) else (value,)
    return next(
        (v for v in values if isinstance(v, Tensor) and v.ndim in (2, 3, 4) and v.shape[0] == rows), None
    )


def _shape(traced: Trace, reading: Reading) -> tuple[int, ...]:
    call = traced.once[reading.module]
    return (call.input_shape if reading.of_input else call.output_shape) or ()


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
    by_class = getattr(model, "global_pool", None) == "token"
    declared = getattr(model, "num_prefix_tokens", None)
    prefix = int(by_class) if declared is None else int(declared)
    # Some models add their class token after a few blocks: it exists if the rest is a square grid.
    rest = shape[1] - prefix
    if rest < 1 or math.isqrt(rest) ** 2 != rest:
        prefix = 0
    if by_class and prefix:
        return replace(reading, layout="token")
    return replace(reading, layout="tokens", prefix=prefix)
