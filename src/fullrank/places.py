"""Places: names of the points in a model where features are read, and the functions that read them.

`h` is the encoder's output, `z` the head's output and `head.1` the output of the head's first layer. Any
other name is a place of the encoder. A name may end in `[:k]`, which means its first k channels.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from fullrank.batch import as_float
from fullrank.errors import UsageError, unknown_name


@dataclass(frozen=True)
class Place:
    """A parsed place: the name of a layer, and how many of its leading channels are read.

    >>> Place.parse("h[:24]")
    Place(name='h', width=24)
    """

    name: str
    width: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Parse `name` or `name[:k]`.

        Raises:
            UsageError: If the text has another form.
        """
        match = re.fullmatch(r"([\w.\-]+)(?:\[:(\d+)\])?", text.strip())
        if match is None or match[2] == "0":
            raise UsageError(f"'{text}' is not a valid place; write a name, or name[:k] with k of 1 or more.")
        return cls(match[1], int(match[2]) if match[2] else None)

    def __str__(self) -> str:
        return self.name if self.width is None else f"{self.name}[:{self.width}]"


class HasPlaces(Protocol):
    """What an encoder must have, beside being an nn.Module, so that its places can be read."""

    places: Sequence[str]

    def features(self, x: Tensor, places: Sequence[str]) -> dict[str, Tensor]:
        """The features (N, D_p) at `h` or at any of `places`."""


def place_dims(
    encoder: nn.Module, image_size: int, channels: int, places: Sequence[str] | None = None
) -> dict[str, int]:
    """Place -> the width of its features, from two blank images; by default of the encoder's own places."""
    placed, weight = cast(HasPlaces, encoder), next(encoder.parameters(), torch.empty(0))
    blank = torch.zeros(2, channels, image_size, image_size, device=weight.device)
    with torch.no_grad(), evaluating(encoder):
        features = placed.features(blank, placed.places if places is None else places)
    return {place: rows.shape[1] for place, rows in features.items()}


def layer_of(place: str) -> str:
    """The layer of a place, without the pooling in its name.

    >>> layer_of("blocks.6.cls"), layer_of("blocks.6"), layer_of("h")
    ('blocks.6', 'blocks.6', 'h')
    """
    return re.sub(r"\.(mean|cls|max)$", "", place)


def is_of_head(place: str) -> bool:
    """Whether a place belongs to a head: z, or `head.` and a number.

    >>> is_of_head("head.1"), is_of_head("z[:8]"), is_of_head("h"), is_of_head("head.norm")
    (True, True, False, False)
    """
    return re.fullmatch(r"(z|head\.\d+)(\[:\d+\])?", place) is not None


def head_places(head: nn.Module) -> list[str]:
    """The places inside a head: `head.1` to `head.L`; the last one is z."""
    return [f"head.{number}" for number, _ in enumerate(layers_of(head), start=1)]


def layers_of(head: nn.Module) -> list[nn.Module]:
    """The layers that a head lists in `layers`; empty if `layers` is something else, such as their number."""
    layers = getattr(head, "layers", None)
    return list(layers) if isinstance(layers, nn.ModuleList | nn.Sequential) else []


def read_places(
    encoder: nn.Module, head: nn.Module, images: Tensor, places: Sequence[str], views: Tensor | None = None
) -> dict[str, Tensor]:
    """The features of a batch of images at each of `places`.

    One pass through the encoder and one through the head serve all places.

    Args:
        encoder: The encoder.
        head: The head.
        images: The images, (N, C, H, W) float in 0 to 1.
        places: Names of places, such as `h`, `z`, `head.1` or `h[:24]`.
        views: For a head that takes them, the numbers (N, P) of the view that each image is.

    Returns:
        Place -> features (N, D_p).

    Raises:
        UsageError: If the model does not have a place, or the place has fewer channels than asked for.
    """
    parsed = {text: Place.parse(text) for text in places}
    names = list(dict.fromkeys(place.name for place in parsed.values()))
    placed = cast(HasPlaces, encoder)
    of_head = ["z", *head_places(head)]
    inner = [name for name in names if name not in ("h", *of_head)]
    for name in inner:
        check_place(placed, name, of_head)
    features = placed.features(images, ["h", *inner])
    if any(name in of_head for name in names):
        features |= read_head(head, features["h"], views)
    return {text: _leading(features[place.name], place) for text, place in parsed.items()}


@torch.no_grad()
def collect_features(
    encoder: nn.Module,
    head: nn.Module,
    images: Tensor | Iterable[Tensor],
    places: Sequence[str],
    *,
    batch_size: int = 512,
) -> dict[str, Tensor]:
    """The features of many images at each of `places`, computed in eval mode.

    Encoder and head return to the mode that they were in, unchanged.

    Args:
        encoder: The encoder.
        head: The head.
        images: The images, (N, C, H, W) uint8, or an iterable of such batches, which need not be in memory
            together.
        places: Names of places, such as `h`, `z`, `head.1` or `h[:24]`.
        batch_size: Number of images in one pass, if `images` is one tensor.

    Returns:
        Place -> features (N, D_p), float32 on the CPU.

    Raises:
        UsageError: If the model does not have a place, or the place has fewer channels than asked for.
    """
    batches = torch.split(images, batch_size) if isinstance(images, Tensor) else images
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    parts: dict[str, list[Tensor]] = {place: [] for place in places}
    with evaluating(encoder, head):
        for batch in batches:
            for place, features in read_places(encoder, head, as_float(batch.to(device)), places).items():
                parts[place].append(features.float().cpu())
    # With several processes, one may have no image.
    return {place: torch.cat(chunks) if chunks else torch.empty(0, 0) for place, chunks in parts.items()}


def has_place(encoder: HasPlaces, name: str) -> bool:
    """Whether an encoder has a place; one that does not say so has those that it lists."""
    answer = getattr(encoder, "has_place", None)
    return bool(answer(name)) if callable(answer) else name in encoder.places


def check_place(encoder: HasPlaces, name: str, of_head: Sequence[str] = ()) -> None:
    """Raise UsageError if an encoder does not have a place; the head's places are then named too."""
    if not has_place(encoder, name):
        if refusal := getattr(encoder, "refusal_of", lambda name: "")(name):
            raise UsageError(refusal)
        own = ["h", *of_head, *encoder.places]
        modules = getattr(encoder, "module_names", lambda: ())()
        raise unknown_name("place", name, [*own, *modules], f"this model has {', '.join(own)}")


def read_head(head: nn.Module, h: Tensor, views: Tensor | None = None) -> dict[str, Tensor]:
    """The features of a head for h (N, D), and for `views` if there are any: at z and after each layer."""
    features: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        features[name] = output

    with ExitStack() as hooks:
        for name, layer in zip(head_places(head), layers_of(head), strict=True):
            hooks.enter_context(layer.register_forward_hook(partial(keep, name)))
        features["z"] = head(h) if views is None else head(h, views=views.to(h.device))
    return features


def _leading(features: Tensor, place: Place) -> Tensor:
    if place.width is not None and place.width > features.shape[1]:
        raise UsageError(
            f"'{place}' needs {place.width} channels, but {place.name} has {features.shape[1]}; "
            f"write {place.name}[:k] with k of {features.shape[1]} or less."
        )
    return features[:, : place.width]


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put modules into eval mode; afterwards each part has its former mode, with nothing cached."""
    modes = [(m, m.training) for module in modules for m in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module in modules:
            module.train()  # LeViT caches its attention biases in eval mode and drops them only here
        for module, training in modes:
            module.training = training
