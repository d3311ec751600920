"""The registered pipelines of views."""

from dataclasses import replace
from typing import Literal

from fullrank.errors import UsageError
from fullrank.views.operations import Blur, Crop, Drop, Grey, Jitter, Operation, Solarize
from fullrank.views.pipeline import Pipeline, Views

_TURNS: dict[str, Literal["hsv", "linear"]] = {"exact": "hsv", "composed": "hsv", "linear": "linear"}


def simclr(
    image_size: int,
    channels: int,
    scale: float = 0.08,
    flip: float = 0.5,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    jitter: float = 0.8,
    grey: float = 0.2,
    blur: float = 0.5,
    colour: str = "exact",
    drop: float = 0.0,
    layer: str = "foreground",
) -> Views:
    """SimCLR's augmentation at the commonly used strength, the same for both views.

    >>> simclr(32, channels=1, blur=0.0).operations[0]
    ('crop', 'flip', 'brightness', 'contrast')

    Source: Chen et al. 2020, SimCLR, Appendix A, where jitter is twice as strong: 0.8, 0.8, 0.8, 0.2.
    """
    crop = Crop(image_size, scale, flip)
    colours = Jitter(brightness, contrast, saturation, hue, jitter, _TURNS[colour])
    then = (colours, Grey(grey), Blur(blur))
    return _pair(channels, Drop(drop, layer), crop, then, then, composed=colour != "exact")


def directclr(
    image_size: int,
    channels: int,
    scale: float = 0.08,
    flip: float = 0.5,
    colour: str = "exact",
    drop: float = 0.0,
    layer: str = "foreground",
) -> Views:
    """P1's two different pipelines: view 1 is always blurred; view 2 rarely, but it is sometimes solarized.

    >>> first, second = directclr(32, channels=3).operations
    >>> set(second) - set(first)
    {'solarize'}

    Source: P1, the authors' released code (BYOL's pipelines); bicubic crops.
    """
    crop = Crop(image_size, scale, flip, interpolation="bicubic")
    colours = (Jitter(0.4, 0.4, 0.2, 0.1, 0.8, _TURNS[colour]), Grey(0.2))
    first, second = (*colours, Blur(1.0)), (*colours, Blur(0.1), Solarize(0.2))
    return _pair(channels, Drop(drop, layer), crop, first, second, composed=colour != "exact")


def weak(
    image_size: int,
    channels: int,
    scale: float = 0.5,
    flip: float = 0.5,
    drop: float = 0.0,
    layer: str = "foreground",
) -> Views:
    """Only a mild crop and a flip, the same for both views.

    >>> weak(32, channels=3).operations[0]
    ('crop', 'flip')
    >>> weak(32, channels=3, drop=0.5).operations[0]
    ('drop', 'crop', 'flip')
    """
    return _pair(channels, Drop(drop, layer), Crop(image_size, scale, flip), (), ())


def multicrop(
    image_size: int,
    channels: int,
    global_views: int = 2,
    local: int = 6,
    size: int | None = None,
    split: float = 0.3,
    smallest: float = 0.05,
    flip: float = 0.5,
    blur: float = 0.5,
    solarize: float = 0.2,
    colour: str = "exact",
    drop: float = 0.0,
    layer: str = "foreground",
) -> Views:
    """Global views of most of the image, and local crops of another size of a small part of it.

    A global view shows a share of the area from `split` to 1, a local crop one from `smallest` to `split`.
    All are changed alike: jitter as LeJEPA has it, grey, blur and solarize.

    >>> views = multicrop(32, channels=3, local=4)
    >>> views.sizes, views.global_count
    ((32, 32, 14, 14, 14, 14), 2)

    Source: Caron et al. 2020 (SwAV) and 2021 (DINO), where local crops of 96 pixels go with 224; shares and
    changes as in LeJEPA's published recipe.
    """
    if global_views < 2 or local < 0:
        raise UsageError(
            f"multicrop needs 2 global views or more and no negative number of local crops, but got "
            f"global={global_views} and local={local}."
        )
    if not 0 < smallest <= split <= 1:
        raise UsageError(
            f"Expected 0 < smallest <= split <= 1, the shares of the area at which crops begin and end, but "
            f"got smallest={smallest} and split={split}; smallest=0.05,split=0.3 is usual."
        )
    whole = Crop(image_size, split, flip)
    crop = Crop(max(1, round(image_size * 3 / 7)) if size is None else size, smallest, flip, largest=split)
    then = (Jitter(0.4, 0.4, 0.2, 0.1, 0.8, _TURNS[colour]), Grey(0.2), Blur(blur), Solarize(solarize))
    composed = colour != "exact"
    pair = _pair(channels, Drop(drop, layer), whole, then, then, composed)
    small = replace(pair.first, crop=crop)
    more = (pair.first,) * (global_views - 2) + (small,) * local
    return Views(pair.first, pair.second, channels, more, local)


def _pair(
    channels: int,
    drop: Drop,
    crop: Crop,
    first: tuple[Operation, ...],
    second: tuple[Operation, ...],
    composed: bool = False,
) -> Views:
    if channels < 1:
        raise UsageError(
            f"Views need images of 1 channel or more, but got channels={channels}; give their number."
        )
    names = dict.fromkeys(name for each in (*first, *second) for name in each.colour_names)
    if channels not in (1, 3) and names:
        problem = f"The views need colours for {', '.join(names)}, but the images have {channels} channels"
        remedy = "set these to 0 (simclr,hue=0), or choose views without them, such as weak"
        raise UsageError(f"{problem}; {remedy}.")
    first, second = _effective(first, channels), _effective(second, channels)
    return Views(Pipeline(crop, first, drop, composed), Pipeline(crop, second, drop, composed), channels)


def _effective(operations: tuple[Operation, ...], channels: int) -> tuple[Operation, ...]:
    """The operations that can happen. On one channel, those that need colours are left out."""
    if channels == 1:
        operations = tuple(
            replace(each, saturation=0.0, hue=0.0) if isinstance(each, Jitter) else each
            for each in operations
            if not isinstance(each, Grey)
        )
    return tuple(operation for operation in operations if operation.names)
