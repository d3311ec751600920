"""Every model of timm as an encoder."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from inspect import signature
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import nn

from fullrank.encoders.reading import REFUSALS, Trace
from fullrank.encoders.stems import replace_stem, stem_lines
from fullrank.encoders.traced import TracedEncoder, reason
from fullrank.encoders.widths import last_lines, set_last_width
from fullrank.errors import DataError, UsageError, unknown_name
from fullrank.preprocessing import Preprocessing
from fullrank.specs import Spec

SMALL_IMAGE = 64


class LibraryEncoder(TracedEncoder):
    """A timm model by its name, without its classifier. h is its pooled output.

        h = model((x - mean) / std)        model = timm.create_model(name, num_classes=0)

    Its places are those of `TracedEncoder`, with timm's own grouping of a model into blocks.

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
        last: The width of h of a residual net, by another width of its last block (see `set_last_width`).
            Pretrained weights do not have it, so the two exclude each other.
        any_size: Also take images of other sizes, such as local crops, where the model is built for one size:
            timm's `dynamic_img_size`, which interpolates the positions of whole patches. Nets that take any
            size anyway stay as they are.
        image_size: Height and width of the images.
        in_chans: Channels of the images.
        mean: The mean of each channel, or one number.
        std: The standard deviation of each channel, or one number.

    Raises:
        UsageError: For an unknown name, or an option or image size that the model cannot take.
        DataError: For weights that are not available.

    >>> import torch
    >>> encoder = LibraryEncoder("resnet18", image_size=32)
    >>> encoder(torch.rand(2, 3, 32, 32)).shape, encoder.places[:3]
    (torch.Size([2, 512]), ('stem', 'layer1.0', 'layer1.1'))

    Source: Wightman, PyTorch Image Models (timm). The small stem is that of Chen et al. 2020 (2002.05709),
    Appendix B.9. `last` is that of Expand or Narrow (2304.05369).
    """

    def __init__(
        self,
        model: str,
        pretrained: bool = False,
        stem: Literal["auto", "small", "small-pool", "small-padded", "standard"] = "auto",
        channels: int | None = None,
        drop_path: float = 0.0,
        num_heads: int | None = None,
        pool: Literal["avg", "max", "map", "token"] | None = None,
        last: int | None = None,
        any_size: bool = False,
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
        if last is not None and pretrained:
            raise UsageError(
                f"'{model}': pretrained weights have the model's own width, not last={last}; leave "
                "out last or pretrained=true."
            )
        fixed = _takes_one_size(model)
        settings: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
        settings |= {"img_size": image_size} if fixed else {}
        settings |= {"dynamic_img_size": True} if fixed and any_size else {}
        settings |= {"drop_path_rate": drop_path} if drop_path else {}
        settings |= {"num_heads": num_heads} if num_heads is not None else {}
        settings |= {"global_pool": pool} if pool is not None else {}
        built = _create(model, settings, pretrained, image_size)
        if stem != "standard" and (stem != "auto" or (image_size <= SMALL_IMAGE and not pretrained)):
            replace_stem(built, model, channels, "small" if stem == "auto" else stem, stem != "auto")
        if last is not None:
            set_last_width(built, model, last)
        if pretrained:
            config: Any = built.pretrained_cfg
            each = (config["mean"], config["std"])
            mean, std = (v if len(v) == channels else (sum(v) / len(v),) for v in each)
        super().__init__(
            built, name=model, image_size=image_size, in_chans=in_chans, channels=channels, mean=mean, std=std
        )
        self.settings, self.last = settings, last
        if fixed:
            _check_patches(built, model, self._traced)
            self.image_size = None if any_size else image_size
            self._option_for_size = _resizes(built)

    @staticmethod
    def preprocessing_for(spec: Spec, size: int | None = None) -> Preprocessing:
        """The preprocessing that belongs to timm's weights of a spec."""
        return preprocessing_of(spec.name, size)

    def _refused(self, shape: Sequence[int], error: Exception) -> UsageError:
        return _refused(self.name, {}, shape[-1], error)

    def library_lines(self) -> dict[str, str]:
        """The line that builds timm's `model`, and those that change its stem and last width, if any."""
        options = "".join(f", {key}={value}" for key, value in self.settings.items())
        last = {} if self.last is None else last_lines(self.model)
        return (
            {"create": f"model = timm.create_model({self.name!r}{options})"} | stem_lines(self.model) | last
        )


def preprocessing_of(name_or_config: str | Mapping[str, Any] | Any, size: int | None = None) -> Preprocessing:
    """The evaluation transform of timm, without its normalisation, for a model or its configuration.

    The steps are those of `timm.data.create_transform(**timm.data.resolve_data_config(...))`, so that
    (fit(image) / 255 - mean) / std equals timm's input.

    Args:
        name_or_config: The name of a model in timm, or its `pretrained_cfg`.
        size: The side of the input in pixels, in place of the configuration's `input_size`. The share of the
            image that is cropped stays.

    Raises:
        UsageError: For a name that timm does not know, or an input that is not square.

    >>> from PIL import Image
    >>> preprocessing = preprocessing_of("resnet18.a1_in1k")
    >>> preprocessing.steps
    'resized to 235 pixels on the shorter side (bicubic), cropped to 224'
    >>> preprocessing.fit(Image.new("RGB", (300, 260))).shape
    (224, 224, 3)
    """
    timm_data: Any = import_module("timm.data")
    config: Any = name_or_config
    if isinstance(config, str):
        _check_name(config)
        config = _configuration(config)
    config = dict(config.to_dict() if hasattr(config, "to_dict") else config or {})
    named = isinstance(name_or_config, str)
    name = name_or_config if named else config.get("architecture") or "the module"
    channels, height, width = config.get("input_size") or (3, 224, 224)
    if size is None and height != width:
        raise UsageError(f"{name} takes images of {height} x {width} pixels, not squares; give --image-size.")
    given = {"input_size": (channels, size or height, size or width)}
    settings = timm_data.resolve_data_config(given, pretrained_cfg=config)
    transform = timm_data.create_transform(**settings, use_prefetcher=True)
    origin = f"timm's {'configuration of' if config else 'defaults for'} {name}"
    return Preprocessing(
        partial(_transformed, transform, settings["crop_mode"] == "border"),
        settings["input_size"][-1],
        tuple(settings["mean"]),
        tuple(settings["std"]),
        _steps(settings),
        origin + (f" at {size} pixels" if size not in (None, height) else ""),
    )


def _configuration(name: str) -> Any:
    import timm

    return timm.get_pretrained_cfg(name)


def _transformed(transform: Callable[[Any], Any], colour: bool, image: Image.Image) -> np.ndarray:
    """The image as (S, S, C) uint8. A transform that pads with a colour takes colour images only."""
    grey = colour and image.mode == "L"
    made = np.asarray(transform(image.convert("RGB") if grey else image)).transpose(1, 2, 0)
    return made.mean(2, keepdims=True).round().astype(np.uint8) if grey else made


def _steps(settings: Mapping[str, Any]) -> str:
    """What timm's transform does, in words."""
    size, mode = settings["input_size"][-1], settings["crop_mode"]
    scaled = math.floor(size / settings["crop_pct"])
    forms = {"squash": f"to {scaled} x {scaled} pixels", "border": f"to {scaled} pixels on the longer side"}
    sides = forms.get(mode, f"to {scaled} pixels on the shorter side")
    cut = ", padded" if mode == "border" else ""
    return f"resized {sides} ({settings['interpolation']}){cut}, cropped to {size}"


def _check_heads(name: str, number: int, pretrained: bool) -> None:
    """UsageError for a number of heads below 1, or one beside pretrained weights, which have their own."""
    if number < 1:
        raise UsageError(f"'{name}': num_heads must be at least 1, but got {number}.")
    if pretrained:
        raise UsageError(
            f"'{name}': pretrained=true has its own number of heads, but num_heads={number} is given; leave "
            "out one of them."
        )


def _takes_one_size(name: str) -> bool:
    """Whether a model is built for one image size. UsageError for a name that timm does not know."""
    _check_name(name)
    config = _configuration(name)
    return config is not None and bool(config.fixed_input_size)


def _resizes(model: nn.Module) -> bool:
    """Whether timm can build a model so that it takes images of several sizes."""
    return any("dynamic_img_size" in signature(each).parameters for each in type(model).__mro__)


def _check_name(name: str) -> None:
    """Raise UsageError for a name, or a tag of weights, that timm does not know."""
    import timm

    if not timm.is_model(name):
        names = ["tiny-resnet", *timm.list_models()]
        raise unknown_name("encoder", name.lower(), names, "timm.list_models() lists timm's")
    architecture, _, tag = name.partition(".")
    tags = [each.partition(".")[2] for each in timm.list_pretrained(architecture + ".*")]
    if tag and tag not in tags:
        raise unknown_name(f"weights of {architecture}", tag, tags, f"timm has {', '.join(tags) or 'none'}")


def _create(name: str, settings: dict[str, Any], pretrained: bool, image_size: int) -> nn.Module:
    import timm

    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **settings)
    except (OSError, *REFUSALS) as error:
        if pretrained:
            # The model's own error, if any, is more informative than a failed download.
            _create(name, settings, False, image_size)
            raise DataError(
                f"The pretrained weights of {name} are not available ({reason(error)}); give a file of "
                "weights with --init FILE instead of pretrained=true, or start without."
            ) from None
        raise _refused(name, settings, image_size, error) from None
    return model


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
    if "'dynamic_img_size'" in str(error):
        return UsageError(
            f"{name} takes images of one size only, so it cannot have any_size=true; leave it out, or choose "
            "an encoder such as vit_small_patch16_224 or resnet18."
        )
    settable = {"drop_path": "drop_path_rate", "num_heads": "num_heads", "pool": "global_pool"}
    for option, setting in settable.items():
        if setting in settings and f"'{setting}'" in str(error):
            return UsageError(f"{name} takes no {option}, but got {settings[setting]}; leave it out.")
    if "num_heads" in settings:
        return UsageError(
            f"{name} cannot have num_heads={settings['num_heads']} ({reason(error)}); give a number "
            "that divides its width, or leave it out."
        )
    if "global_pool" in settings and "pool" in str(error).lower():
        return UsageError(
            f"{name} cannot pool by {settings['global_pool']}; leave pool={settings['global_pool']} out."
        )
    return UsageError(
        f"{name} cannot take images of {image_size} pixels ({reason(error)}); give another --image-size "
        "or another encoder."
    )
