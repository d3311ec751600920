"""Every model of timm as an encoder."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fullrank.encoders.contract import Encoder
from fullrank.encoders.reading import REFUSALS, Trace, find_readings, read, trace
from fullrank.encoders.stems import replace_stem, stem_lines
from fullrank.errors import DataError, UsageError, one_line, unknown_name
from fullrank.places import evaluating

SMALL_IMAGE = 64


class LibraryEncoder(Encoder):
    """A timm model by its name, without its classifier. h is its pooled output.

        h = model((x - mean) / std)        model = timm.create_model(name, num_classes=0)

    Places, in the order in which they run, come from one pass with forward hooks:

    - `stem`: the input of the first block. It is missing if that is the image.
    - each block by its path in timm, such as `layer1.0` or `blocks.3`
    - `last-conv-input`: the input of the last convolution on more than one position, if any. It is missing if
      only the image is convolved.

    Maps are averaged over positions. For tokens, the class token is used if the model pools by it (timm's
    `global_pool` is `token`). Otherwise, and in blocks before it is added, the image's tokens are averaged,
    without class and register tokens. If a block returns several tensors, the first with one row per image is
    used.

    Args:
        model: The name of the model in timm.
        pretrained: Start from timm's weights, downloaded or found. Images are then normalised with the mean
            and standard deviation of those weights, or with the channels' average if the model does not take
            3 channels.
        stem: `small` replaces the 7x7 stem and max-pool of timm's `ResNet` by a 3x3 convolution of stride 1
            without max-pool, as usual for CIFAR. `small-pool` keeps the max-pool, and `small-padded` pads by
            2 pixels, as solo-learn does. `standard` changes nothing and keeps a 32nd of the image's side.
            `auto` is `small` for images of 64 pixels or less, unless `pretrained`.
        pool: How positions or tokens become one vector, if not timm's own way: timm's `global_pool`.
        num_heads: Number of attention heads of a vision transformer, if not timm's own. No weight shows it.
        channels: Channels of the model, if it has more than the images. A grey image is then repeated.
        drop_path: The rate of stochastic depth, at least 0 and below 1.
        image_size: Height and width of the images.
        in_chans: Channels of the images.
        mean: The mean of each channel, or one number.
        std: The standard deviation of each channel, or one number.

    Raises:
        UsageError: For an unknown name, an option or image size that the model cannot take, or a model that
            does not return one vector per image.
        DataError: For weights that are not available.

    >>> encoder = LibraryEncoder("resnet18", image_size=32)
    >>> encoder(torch.rand(2, 3, 32, 32)).shape, encoder.places[:3]
    (torch.Size([2, 512]), ('stem', 'layer1.0', 'layer1.1'))

    Source: Wightman, PyTorch Image Models (timm). The small stem is that of Chen et al. 2020 (2002.05709),
    Appendix B.9.
    """

    library_root = "model."

    def __init__(
        self,
        model: str,
        pretrained: bool = False,
        stem: Literal["auto", "small", "small-pool", "small-padded", "standard"] = "auto",
        channels: int | None = None,
        drop_path: float = 0.0,
        num_heads: int | None = None,
        pool: Literal["avg", "max", "map", "token"] | None = None,
        *,
        image_size: int = 224,
        in_chans: int = 3,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
    ):
        channels = in_chans if channels is None else channels
        if channels < 1 or in_chans not in (1, channels):
            raise UsageError(
                f"'{model}': channels={channels} does not fit images with in_chans={in_chans}; only grey "
                "images can be repeated to more channels, so leave channels out."
            )
        if not 0 <= drop_path < 1:
            raise UsageError(f"'{model}': drop_path must be at least 0 and less than 1, but got {drop_path}.")
        if num_heads is not None:
            _check_heads(model, num_heads, pretrained)
        fixed = _takes_one_size(model)
        settings: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
        settings |= {"img_size": image_size} if fixed else {}
        settings |= {"drop_path_rate": drop_path} if drop_path else {}
        settings |= {"num_heads": num_heads} if num_heads is not None else {}
        settings |= {"global_pool": pool} if pool is not None else {}
        built = _create(model, settings, pretrained, image_size)
        if stem != "standard" and (stem != "auto" or (image_size <= SMALL_IMAGE and not pretrained)):
            replace_stem(built, model, channels, "small" if stem == "auto" else stem, stem != "auto")
        traced = _try_out(built, model, channels, image_size)
        if fixed:
            _check_patches(built, model, traced)
        if pretrained:
            config: Any = built.pretrained_cfg
            each = (config["mean"], config["std"])
            mean, std = (v if len(v) == channels else (sum(v) / len(v),) for v in each)
        super().__init__(channels, mean, std)
        self.in_chans = in_chans
        self.name = model
        self.image_size = image_size if fixed else None
        self.model = built
        self.register_load_state_dict_post_hook(_forget_caches)  # type: ignore[no-untyped-call]
        self.feature_dim: int = traced.output.shape[1]
        self._readings = find_readings(built, traced)
        self.places = tuple(self._readings)

    def features(self, x: Tensor, places: Sequence[str]) -> dict[str, Tensor]:
        """The features (N, D_p) at each of `places`. UsageError for an unknown place."""
        own = ("h", *self.places)
        for place in set(places).difference(own):
            raise unknown_name("place", place, own, f"{self.name} has {', '.join(own)}")
        if self.image_size is not None and x.shape[-2:] != (self.image_size, self.image_size):
            raise UsageError(
                f"{self.name} was built for images of {self.image_size}x{self.image_size} pixels, but got "
                f"{'x'.join(map(str, x.shape[-2:]))}; give images of that size, or build it for yours."
            )
        readings = {place: self._readings[place] for place in places if place != "h"}
        h, features = read(self.model, self.normalised(x), readings)
        return {place: h if place == "h" else features[place] for place in places}

    def library_lines(self) -> dict[str, str]:
        """If the model has the small stem, the lines that change timm's `model` in the same way."""
        return stem_lines(self.model)


def _check_heads(name: str, number: int, pretrained: bool) -> None:
    """UsageError for a number of heads below 1, or one beside pretrained weights, which have their own."""
    if number < 1:
        raise UsageError(f"'{name}': num_heads must be at least 1, but got {number}.")
    if pretrained:
        raise UsageError(
            f"'{name}': pretrained=true has its own number of heads, but num_heads={number} is given; leave "
            "out one of them."
        )


def _forget_caches(encoder: nn.Module, _: object) -> None:
    """Drop what a model cached in eval mode from its old weights."""
    with evaluating(encoder):
        pass


def _takes_one_size(name: str) -> bool:
    """Whether a model is built for one image size. UsageError for a name that timm does not know."""
    import timm

    if not timm.is_model(name):
        names = ["tiny-resnet", *timm.list_models()]
        raise unknown_name("encoder", name.lower(), names, "timm.list_models() lists timm's")
    architecture, _, tag = name.partition(".")
    tags = [each.partition(".")[2] for each in timm.list_pretrained(architecture + ".*")]
    if tag and tag not in tags:
        raise unknown_name(f"weights of {architecture}", tag, tags, f"timm has {', '.join(tags) or 'none'}")
    config = timm.get_pretrained_cfg(name)
    return config is not None and bool(config.fixed_input_size)


def _create(name: str, settings: dict[str, Any], pretrained: bool, image_size: int) -> nn.Module:
    import timm

    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **settings)
    except (OSError, *REFUSALS) as error:
        if pretrained:
            # The model's own error, if any, is more informative than a failed download.
            _create(name, settings, False, image_size)
            raise DataError(
                f"The pretrained weights of {name} are not available ({_reason(error)}); give a file of "
                "weights with --init FILE instead of pretrained=true, or start without."
            ) from None
        raise _refused(name, settings, image_size, error) from None
    return model


def _try_out(model: nn.Module, name: str, channels: int, image_size: int) -> Trace:
    """Two blank images through the model. UsageError if that fails or gives no vector per image."""
    try:
        traced = trace(model, torch.zeros(2, channels, image_size, image_size))
    except REFUSALS as error:
        raise _refused(name, {}, image_size, error) from None
    if not (isinstance(traced.output, Tensor) and traced.output.ndim == 2 and len(traced.output) == 2):
        raise UsageError(
            f"{name} does not return one vector per image, so it has no representation h; use a model that "
            "pools its features."
        )
    return traced


def _check_patches(model: nn.Module, name: str, traced: Trace) -> None:
    """UsageError for an image that patches do not cover: the model would silently drop the margin."""
    size = traced.images[-1]
    layers = [model.get_submodule(call.module) for call in traced.calls if call.input_shape == traced.images]
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and layer.stride == layer.kernel_size:
            patch = layer.kernel_size[0]
            if margin := size % patch:
                smaller = f"{size - margin} or " if size > patch else ""
                raise UsageError(
                    f"{name} cuts images into patches of {patch} pixels, but {size} is not a multiple of "
                    f"{patch}; give --image-size {smaller}{size - margin + patch}."
                )


def _refused(name: str, settings: dict[str, Any], image_size: int, error: Exception) -> UsageError:
    settable = {"drop_path": "drop_path_rate", "num_heads": "num_heads", "pool": "global_pool"}
    for option, setting in settable.items():
        if setting in settings and f"'{setting}'" in str(error):
            return UsageError(f"{name} takes no {option}, but got {settings[setting]}; leave it out.")
    if "num_heads" in settings:
        return UsageError(
            f"{name} cannot have num_heads={settings['num_heads']} ({_reason(error)}); give a number "
            "that divides its width, or leave it out."
        )
    if "global_pool" in settings and "pool" in str(error).lower():
        return UsageError(
            f"{name} cannot pool by {settings['global_pool']}; leave pool={settings['global_pool']} out."
        )
    return UsageError(
        f"{name} cannot take images of {image_size} pixels ({_reason(error)}); give another --image-size "
        "or another encoder."
    )


def _reason(error: Exception) -> str:
    return one_line(" ".join(str(error).split()).rstrip(".") or type(error).__name__, longest=200)
