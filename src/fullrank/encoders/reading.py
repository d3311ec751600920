"""Where the features of a library's model can be read, found from the model itself, and reading them there.

The blocks are those that the model groups its parameters by; one pass over blank images then tells what each
of them gives: a map, with the channels first or last, or tokens.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Layout = Literal["vector", "map", "map-last", "tokens", "token"]
SEQUENCES = nn.Sequential | nn.ModuleList
# What models raise for images that they cannot take: timm has no error of its own.
REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def pooled(features: Tensor, layout: Layout, prefix: int = 0) -> Tensor:
    """Features as (N, D), new in memory, since the model may go on to overwrite its own.

    A `map` (N, D, H, W) and a `map-last` (N, H, W, D) are averaged over positions, `tokens` (N, T, D) over
    the tokens behind the first `prefix`; of `token` (N, T, D) the first token is taken, and a `vector`
    (N, D) is left as it is.

    >>> pooled(torch.arange(6.0).reshape(1, 3, 2), "tokens", prefix=1)
    tensor([[3., 4.]])
    """
    match layout:
        case "map":
            return features.mean((2, 3))
        case "map-last":
            return features.mean((1, 2))
        case "tokens":
            return features[:, prefix:].mean(1)
        case "token":
            return features[:, 0].clone()
        case "vector":
            return features.clone()


@dataclass(frozen=True)
class Reading:
    """One place: the output of a module, or its input, and how that is pooled."""

    module: str
    layout: Layout
    prefix: int = 0
    of_input: bool = False


def read(model: nn.Module, x: Tensor, readings: Mapping[str, Reading]) -> tuple[Tensor, dict[str, Tensor]]:
    """The model's output for `x`, and the features (N, D_p) at each place, from one plain forward pass."""
    found: dict[str, Tensor] = {}

    def keep(place: str, reading: Reading, value: Any) -> None:
        features = _first_tensor(value, x.shape[0])
        if features is not None:
            found[place] = pooled(features, reading.layout, reading.prefix)

    with ExitStack() as hooks:
        for place, reading in readings.items():
            module = model.get_submodule(reading.module)
            # Arguments that are bound here are not those of the loop's last turn.
            if reading.of_input:
                handle = module.register_forward_pre_hook(
                    lambda module, inputs, place=place, reading=reading: keep(place, reading, inputs)
                )
            else:
                handle = module.register_forward_hook(
                    lambda module, inputs, output, place=place, reading=reading: keep(place, reading, output)
                )
            hooks.callback(handle.remove)
        return model(x), found


@dataclass(frozen=True)
class Call:
    """One call of a module: the shapes of the first tensor that it was given and gave, a row an image."""

    module: str
    given: tuple[int, ...] | None
    gave: tuple[int, ...] | None


@dataclass(frozen=True)
class Trace:
    """What happened to `images` (a shape): every call in the order in which they ended, and the output."""

    images: tuple[int, ...]
    calls: tuple[Call, ...]
    output: Any


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put every module back into its mode afterwards; what it kept in eval mode is dropped."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        # LeViT keeps its attention biases in eval mode, and lets go of them only here.
        model.train()
        for module, training in modes:
            module.training = training


@torch.no_grad()
def trace(model: nn.Module, images: Tensor) -> Trace:
    """Run `images` through `model` in eval mode and note every module's call; its mode is put back."""
    calls: list[Call] = []

    def note(name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = (_first_tensor(inputs, len(images)), _first_tensor(output, len(images)))
            calls.append(Call(name, *(None if t is None else tuple(t.shape) for t in tensors)))

        return hook

    with modes_kept(model), ExitStack() as after:
        for name, module in model.named_modules():
            after.callback(module.register_forward_hook(note(name)).remove)
        output = model.eval()(images)
    return Trace(tuple(images.shape), tuple(calls), output)


def find_readings(model: nn.Module, seen: Trace) -> dict[str, Reading]:
    """The places of a model that was traced, in the order in which they run: name -> how it is read.

    `stem` is the input of the first block and `last-conv-input` that of the last convolution; every other
    place is a block's output, by the module's path.
    """
    blocks = find_blocks(model, seen)
    wanted = {name: Reading(name, "vector") for name in blocks}
    by_name = {call.module: call for call in seen.calls}
    if blocks and by_name[blocks[0]].given and not _is_image(by_name[blocks[0]].given, seen):
        wanted = {"stem": Reading(blocks[0], "vector", of_input=True)} | wanted
    if (last := last_convolution(model, seen)) is not None:
        wanted["last-conv-input"] = Reading(last, "vector", of_input=True)
    shapes = {place: _shape(by_name[r.module], r.of_input) for place, r in wanted.items()}
    axes = {place: _channel_axis(shape) for place, shape in shapes.items() if len(shape) == 4}
    if None in axes.values():
        axes = _settle(model, seen, wanted, axes)
    return {
        place: _with_layout(model, reading, shapes[place], axes.get(place))
        for place, reading in wanted.items()
    }


def find_blocks(model: nn.Module, seen: Trace) -> list[str]:
    """The paths of a model's blocks, in the order in which they run.

    They are the modules that fit the patterns by which the model numbers its parameter groups
    (`group_matcher`), or where it has none the elements of its sequences. A stage, which has `blocks` of
    its own, stands for those. What runs more than once, or gives no tensor with a row an image, is left out.
    """
    runs = Counter(call.module for call in seen.calls)
    gave = {call.module: call.gave for call in seen.calls if call.gave is not None and runs[call.module] == 1}

    def resolve(path: str) -> list[str]:
        blocks = getattr(model.get_submodule(path), "blocks", None)
        inner = list(_elements(blocks, f"{path}.blocks")) if isinstance(blocks, SEQUENCES) else []
        return inner if inner and all(name in gave for name in inner) else [path]

    names: list[str] = []
    patterns = _patterns(model)
    for name, _ in model.named_modules():
        matched = next((p for p in patterns if p.fullmatch(name)), None)
        if matched is not None:
            # One number is a stage or a block; two are a block of a stage.
            names += resolve(name) if matched.groups == 1 else [name]
    if not names:
        children = list(model.named_children())
        tops = [
            path
            for name, child in children
            if isinstance(child, SEQUENCES)
            for path in _elements(child, name)
        ]
        tops = tops or [name for name, child in children if _layers(child) > 1]
        names = [name for top in tops for name in resolve(top)]
    order = {call.module: i for i, call in enumerate(seen.calls)}
    return sorted((name for name in dict.fromkeys(names) if name in gave), key=order.__getitem__)


def last_convolution(model: nn.Module, seen: Trace) -> str | None:
    """The path of the last convolution that runs; None where only the image is convolved.

    A convolution of a single position (a gate of squeeze-and-excitation, a classifier's layer) is passed
    over where an earlier one works on a map. None too where the last one does not have a row an image, or
    runs more than once.
    """
    convolutions = [
        call
        for call in seen.calls
        if isinstance(model.get_submodule(call.module), nn.Conv2d) and not _is_image(call.given, seen)
    ]
    maps = [call for call in convolutions if call.given is None or math.prod(call.given[2:]) > 1]
    last = next(reversed(maps or convolutions), None)
    if last is None or last.given is None or sum(call.module == last.module for call in seen.calls) > 1:
        return None
    return last.module


def _patterns(model: nn.Module) -> list[re.Pattern[str]]:
    """The patterns of `group_matcher` that number their groups, without the stem's."""
    matcher = getattr(model, "group_matcher", None)
    groups = matcher() if matcher is not None else None
    if not isinstance(groups, Mapping):
        return []
    found = []
    for group, given in groups.items():
        if group != "stem" and given is not None:
            # A pattern with a suffix joins the modules it fits to another group.
            texts = [given] if isinstance(given, str) else [text for text, suffix in given if suffix is None]
            found += [pattern for text in texts if (pattern := re.compile(text)).groups]
    return found


def _elements(sequence: nn.Module, path: str) -> Iterator[str]:
    """The paths of what a sequence, or the sequences in it, hold that has several layers."""
    for key, element in sequence.named_children():
        if _layers(element) > 1:
            deeper = list(_elements(element, f"{path}.{key}")) if isinstance(element, SEQUENCES) else []
            yield from deeper or [f"{path}.{key}"]


def _layers(module: nn.Module) -> int:
    return sum(isinstance(m, nn.Conv2d | nn.Linear) for m in module.modules())


def _first_tensor(value: Any, rows: int) -> Tensor | None:
    """`value`, or the first tensor in it, that has a row an image."""
    values = value if isinstance(value, tuple | list) else (value,)
    return next(
        (v for v in values if isinstance(v, Tensor) and v.ndim in (2, 3, 4) and v.shape[0] == rows), None
    )


def _shape(call: Call, of_input: bool) -> tuple[int, ...]:
    return (call.given if of_input else call.gave) or ()


def _is_image(shape: tuple[int, ...] | None, seen: Trace) -> bool:
    return shape is not None and len(shape) == 4 and shape[1] == seen.images[1]


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Where a map of a square image (N, a, b, c) has its channels: 1 or 3, None where a = b = c.

    A map that is square on neither side is one of windows by tokens, with its channels last.
    """
    _, a, b, c = shape
    if a == b == c:
        return None
    return 1 if b == c else 3


def _settle(
    model: nn.Module, seen: Trace, wanted: Mapping[str, Reading], axes: Mapping[str, int | None]
) -> dict[str, int | None]:
    """The axes again, with those that one image size leaves open found at another.

    A model that takes no other size has them where most of its other maps have them.
    """
    batch, channels, size, _ = seen.images
    device = next(model.parameters()).device
    for other in (size - size // 4, size + 32):
        try:
            calls = trace(model, torch.zeros(batch, channels, other, other, device=device)).calls
        except REFUSALS:
            continue
        again = {call.module: call for call in calls}
        return {
            place: axis or _channel_axis(_shape(again[wanted[place].module], wanted[place].of_input))
            for place, axis in axes.items()
        }
    known = Counter(axis for axis in axes.values() if axis is not None)
    usual = known.most_common(1)[0][0] if known else 1
    return {place: axis or usual for place, axis in axes.items()}


def _with_layout(model: nn.Module, reading: Reading, shape: tuple[int, ...], axis: int | None) -> Reading:
    if len(shape) == 4:
        layout: Layout = "map-last" if axis == 3 else "map"
        return Reading(reading.module, layout, of_input=reading.of_input)
    if len(shape) == 2:
        return reading
    by_class = getattr(model, "global_pool", None) == "token"
    declared = getattr(model, "num_prefix_tokens", None)
    prefix = int(by_class) if declared is None else int(declared)
    # Some models add their class token only after a few blocks: it is there when the rest is a square grid.
    rest = shape[1] - prefix
    if rest < 1 or math.isqrt(rest) ** 2 != rest:
        prefix = 0
    layout = "token" if by_class and prefix else "tokens"
    return Reading(reading.module, layout, 0 if layout == "token" else prefix, reading.of_input)
