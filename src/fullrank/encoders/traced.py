"""Any torch module from images to features as an encoder, with places found by tracing it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from fullrank.encoders.contract import Encoder
from fullrank.encoders.reading import (
    POOLED,
    POOLINGS,
    REFUSALS,
    TOKENS,
    Call,
    Pooling,
    Reading,
    find_readings,
    read,
    tensor_at,
    trace,
    with_layouts,
)
from fullrank.errors import FullrankError, UsageError, one_line, unknown_name
from fullrank.places import evaluating


class TracedEncoder(Encoder):
    """A module as an encoder. Its places come from one pass of two blank images with forward hooks.

        h = module((x - mean) / std)

    If the module returns no vector per image, h is pooled from its output, and `output_note` says how: maps
    and token sequences are averaged over positions. Of a mapping, a dataclass or a named tuple, h is the
    first of the entries `pooler_output`, `image_embeds`, `pooled`, `features`, `embedding`, `h` and the like,
    else the last hidden state, else the first tensor with one row per image. Of a plain tuple, h is the first
    vector per image, else the first tensor with one row per image.

    Places, in the order in which they run:

    - `stem`: the input of the first block. It is missing if that is the image.
    - each block by its path in the module, such as `layer1.0` or `blocks.3`
    - `last-conv-input`: the input of the last convolution on more than one position, if any. It is missing if
      only the image is convolved.

    Any other module that runs once, with one row per image, is a place by its dotted path too. Maps are
    averaged over positions. For tokens, the class token is used if the model pools by it (timm's
    `global_pool` is `token`). Otherwise, and in blocks before it is added, the image's tokens are averaged,
    without class and register tokens. `PLACE.mean`, `PLACE.max` and, with a class token, `PLACE.cls` name the
    pooling; blocks with a class token are listed as `PLACE.cls` and `PLACE.mean`. If a block returns several
    tensors, the first with one row per image is used.

    The features of blocks equal timm's `forward_intermediates` without its last norm, which tests check for
    several families. The module itself is used, not a copy. Its mode, weights and gradients do not change.

    Args:
        module: The module. Images go to its device and have its dtype; features of 16 bits become float32.
        name: Its name in messages.
        image_size: Height and width of the images.
        in_chans: Channels of the images.
        channels: Channels that the module takes, if it takes more than the images have. A grey image is then
            repeated.
        mean: The mean of each channel, or one number.
        std: The standard deviation of each channel, or one number.

    Attributes:
        model: The module.
        output_note: How h is made of the module's output; empty if h is the output.

    Raises:
        UsageError: If the module does not take such images, or returns nothing with one row per image.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
    >>> encoder = TracedEncoder(net, name="net", image_size=8, in_chans=3)
    >>> encoder.feature_dim, encoder.output_note
    (5, 'h is the mean over positions of the output (5, 4, 4)')
    >>> encoder.features(torch.rand(2, 3, 8, 8), ["1.max"])["1.max"].shape
    torch.Size([2, 4])
    """

    library_root = "model."
    #: The only side of images that the module takes; None if it takes several.
    image_size: int | None = None
    #: Whether its option `any_size` lets it take other sizes.
    _option_for_size = False

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        image_size: int,
        in_chans: int,
        channels: int | None = None,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ):
        super().__init__(in_chans if channels is None else channels, mean, std)
        self.in_chans, self.name = in_chans, name
        self.model = getattr(module, "_orig_mod", module)  # hooks have no effect in a compiled module
        self.training = self.model.training
        self.register_load_state_dict_post_hook(_forget_caches)  # type: ignore[no-untyped-call]
        weights = self._weights()
        self.mean, self.std = self.mean.to(weights.device), self.std.to(weights.device)
        self._find_places(image_size)

    def _find_places(self, image_size: int) -> None:
        """Trace the module, and find h and the places."""
        blank = torch.zeros(2, self.mean.shape[1], image_size, image_size).to(self._weights())
        with self._explaining(blank.shape), torch.random.fork_rng(devices=()):
            self._traced = trace(self.model, blank)
            output = self._traced.calls[-1]
            if output.output_shape is None:
                raise self._no_rows(output.output_type, len(blank))
            self._readings = find_readings(self.model, self._traced)
            self._h = with_layouts(self.model, self._traced, {"h": Reading("")})["h"]
        self.feature_dim = output.output_shape[1 if self._h.layout == "map" else -1]
        self.output_note = _note(self._h, output)
        self.places = tuple(
            place for name, reading in self._readings.items() for place in _listed(name, reading)
        )

    def features(self, x: Tensor, places: Sequence[str]) -> dict[str, Tensor]:
        """The features (N, D_p) at each of `places`. UsageError for an unknown place."""
        readings = {place: self._reading(place) for place in places if place != "h"}
        images = self._input(x)
        if torch.compiler.is_compiling():
            output, features = read(self.model, images, readings)
        else:
            with self._explaining(x.shape):
                output, features = read(self.model, images, readings)
        if "h" in places:
            features["h"] = self._representation(output, x)
        if images.dtype in (torch.float16, torch.bfloat16):
            features = {place: tensor.float() for place, tensor in features.items()}
        if absent := [place for place in places if place not in features]:
            raise UsageError(f"{self.name} gives nothing at {absent[0]!r} in this mode; read another place.")
        return {place: features[place] for place in places}

    def of_patches(
        self, x: Tensor, places: Sequence[str], of: Callable[[str, Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """`of(place, tokens)` for the patch tokens (N, T, D) at those of `places` that pool such tokens.

        Class and register tokens are no patches. `of` is called during the pass, so that the tokens of one
        place at a time are in memory.
        """
        known = [place for place in places if self.has_place(place)]
        readings = {place: self._h if place == "h" else self._reading(place) for place in known}
        pooling = {place: reading for place, reading in readings.items() if reading.pools_patches}
        if not pooling:
            return {}
        with self._explaining(x.shape):
            return read(
                self.model,
                self._input(x),
                pooling,
                lambda place, reading, tensor: of(place, reading.patches(tensor).float()),
            )[1]

    def pooling_of(self, place: str) -> str:
        """How features at a place are pooled: mean, cls or max; "" where there is one vector per image."""
        reading = self._h if place == "h" else self._reading(place)
        return "" if reading.layout == "vector" else reading.pooling

    def has_place(self, name: str) -> bool:
        """Whether `features` takes a place: h, a listed one, or any module that runs once a pass."""
        return name == "h" or self.refusal_of(name) is None

    def refusal_of(self, place: str) -> str | None:
        """Why a place cannot be read; "" if no module is called so, None if it can be read."""
        try:
            self._reading(place)
        except UsageError as error:
            return str(error) if self._layer_of(place) in self.module_names() | self._readings.keys() else ""
        return None

    def module_names(self) -> set[str]:
        """The dotted names of all modules inside; those that run once are places."""
        return {name for name, _ in self.model.named_modules() if name}

    def _layer_of(self, place: str) -> str:
        """A place without its pooling. A module that is called so itself, such as `cls`, is no pooling."""
        layer, _, last = place.rpartition(".")
        return layer if layer and last in POOLINGS and place not in self.module_names() else place

    def _reading(self, place: str) -> Reading:
        """How a place is read; found when it is asked for the first time."""
        if place not in self._readings:
            layer = self._layer_of(place)
            found = self._reading_of_module(place) if layer == place else self._repooled(place, layer)
            self._readings[place] = found
        return self._readings[place]

    def _repooled(self, place: str, layer: str) -> Reading:
        reading, pooling = self._reading(layer), cast(Pooling, place.rpartition(".")[2])
        if reading.layout == "vector":
            raise UsageError(f"{layer!r} has one vector per image and needs no pooling; write {layer}.")
        if pooling == "cls" and not reading.has_class:
            raise UsageError(f"{layer!r} has no class token; write {layer}.mean or {layer}.max.")
        return replace(reading, pooling=pooling)

    def _reading_of_module(self, path: str) -> Reading:
        if path not in (names := self.module_names()):
            own = ("h", *self.places)
            raise unknown_name("place", path, names.union(own), f"{self.name} has {', '.join(own)}")
        calls = [call for call in self._traced.calls if call.module == path]
        remedy = f"read another place, such as {(*self.places, 'h')[0]}"
        if len(calls) != 1:
            runs = f"runs {len(calls)} times in a pass" if calls else "does not run by itself"
            raise UsageError(f"The module {path!r} of {self.name} {runs}; {remedy}.")
        (call,) = calls
        unnamed = [key for key in call.output_entry[:1] if key not in (*POOLED, *TOKENS, *range(9))]
        if call.output_shape is None or unnamed:
            lack = f"an entry such as {POOLED[0]}" if unnamed else "one row per image"
            returned = f"{call.output_type} without {lack}"
            raise UsageError(f"The module {path!r} of {self.name} returns {returned}; {remedy}.")
        with self._explaining(self._traced.images):
            return with_layouts(self.model, self._traced, {path: Reading(path)})[path]

    def _representation(self, output: Any, images: Tensor) -> Tensor:
        """h (N, D) in the output. In an export, a comparison would fix the number of images."""
        h = tensor_at(output, self._h.entry, images.shape[0])
        if h is None or h.ndim != _DIMENSIONS[self._h.layout]:
            raise self._no_rows(str(type(output).__name__ if h is None else tuple(h.shape)), len(images))
        if not torch.compiler.is_compiling() and len(h) != len(images):
            raise self._no_rows(str(tuple(h.shape)), len(images))
        return h if self._h.layout == "vector" else self._h.pooled(h)

    def _input(self, x: Tensor) -> Tensor:
        """Images as the module takes them. UsageError for a size that it does not take."""
        if self.image_size is not None and x.shape[-2:] != (self.image_size, self.image_size):
            raise UsageError(
                f"{self.name} was built for images of {self.image_size}x{self.image_size} pixels, but got "
                f"{'x'.join(map(str, x.shape[-2:]))}; give images of that size, or build it "
                f"{'with any_size=true' if self._option_for_size else 'for yours'}."
            )
        weights = self._weights()
        return self.normalised(x.to(weights.device)).to(weights.dtype)

    def _weights(self) -> Tensor:
        """A tensor with the device and the dtype of the module."""
        return next((p for p in self.model.parameters() if p.is_floating_point()), self.mean)

    def _no_rows(self, returned: str, count: int) -> UsageError:
        return UsageError(
            f"{self.name} must return features (N, D), one row per image, but returned {returned} for "
            f"{count} images; return a tensor, or a tuple or mapping that holds one."
        )

    def _refused(self, shape: Sequence[int], error: Exception) -> UsageError:
        """The error for images (N, C, H, W) that the module cannot take."""
        first = next((m for m in self.model.modules() if isinstance(m, nn.Conv2d)), None)
        needs = 0 if first is None else first.in_channels
        remedy = "give another --image-size, or a forward that takes one batch of images (N, C, H, W)"
        if needs not in (0, self.mean.shape[1]):
            repeat = f", or repeat grey ones with channels={needs}" if self.in_chans == 1 else ""
            remedy = f"give images of {needs} channels{repeat}"
        given = f"{shape[1]} channel{'s' * (shape[1] != 1)} and {' x '.join(map(str, shape[2:]))} pixels"
        return UsageError(f"{self.name} cannot take images of {given} ({reason(error)}); {remedy}.")

    @contextmanager
    def _explaining(self, shape: Sequence[int]) -> Iterator[None]:
        """An error of the module becomes that of `_refused`, unless memory has run out."""
        try:
            yield
        except FullrankError:
            raise
        except REFUSALS as error:
            if isinstance(error, torch.OutOfMemoryError) or "memory" in str(error):
                raise
            raise self._refused(shape, error) from error


_DIMENSIONS = {"vector": 2, "tokens": 3, "map": 4, "map-last": 4}


def reason(error: Exception) -> str:
    """The message of a foreign error, for a clause in a sentence."""
    return one_line(" ".join(str(error).split()).rstrip(".") or type(error).__name__, longest=200)


def _listed(name: str, reading: Reading) -> tuple[str, ...]:
    """The places of a block. Its class token is one too, unless it is the same for all images (the stem)."""
    if not reading.has_class:
        return (name,)
    return (f"{name}.mean",) if reading.of_input else (f"{name}.cls", f"{name}.mean")


def _note(reading: Reading, call: Call) -> str:
    """How h is made of an output that is no vector per image."""
    shape = tuple((call.output_shape or ())[1:])
    source = "the output" if reading.layout == "vector" else f"the output {shape}"
    if reading.entry:
        key = ".".join(map(str, reading.entry))
        source = f"entry {key} of the {call.output_type} that the module returns"
    match reading.layout:
        case "vector":
            return f"h is {source}" if reading.entry else ""
        case "tokens":
            count = shape[0] - reading.prefix
            what = "its class token" if reading.pooling == "cls" else f"the mean of {count} image tokens"
            return f"h is {what} in {source}"
        case _:
            return f"h is the mean over positions of {source}"


def _forget_caches(encoder: nn.Module, _: object) -> None:
    """Drop what a model cached in eval mode from its old weights."""
    with evaluating(encoder):
        pass
