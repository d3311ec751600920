"""Every model of timm as an encoder."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fullrank.encoders.contract import Encoder
from fullrank.encoders.reading import REFUSALS, Trace, find_readings, read, trace
from fullrank.errors import DataError, UsageError, one_line, unknown_name
from fullrank.places import evaluating

SMALL_IMAGE = 64


class LibraryEncoder(Encoder):
    """A model of timm by its name there, without its classifier: h is its pooled output before one.

        h = model((x - mean) / std)        model = timm.create_model(name, num_classes=0)

    `stem`: a residual net (timm's `ResNet`) that starts with a 7x7 convolution and a max-pool keeps a 32nd
    of the image's side. With `small` that convolution is 3x3 with stride 1 and there is no max-pool, as is
    usual for CIFAR; `standard` leaves the model as it is; `auto` is `small` for images of 64 pixels or less,
    unless `pretrained`.

    `channels`: what the model takes, where that is more than the images have: a grey image is repeated.

    `pretrained`: starts from timm's weights, which it downloads or finds. The images are then normalised with
    the mean and spread that those weights were trained with, not with those of the images; where the model
    does not take 3 channels, with their average.

    Places, in the order in which they run, from one pass by forward hooks: `stem`, what the first block is
    given (none where that is the image); each block by its path in timm, as in `layer1.0` or `blocks.3`;
    and `last-conv-input`, the input of the last convolution that runs (on more than one position, if any
    does; none where only the image is convolved). Maps are averaged over positions. Of tokens the class
    token is taken where the model pools by it (timm's `global_pool` is `token`); elsewhere, and in blocks
    that run before it is added, the tokens of the image are averaged, without class and register tokens.
    Of a block that gives several tensors the first with a row an image is read.

    Shapes: (N, in_chans, H, W) in 0 to 1 -> (N, feature_dim). Raises UsageError for a name that timm does
    not know, an option or image size that the model cannot take, and a model that gives no vector an image;
    DataError for weights that cannot be had.

    >>> encoder = LibraryEncoder("resnet18", image_size=32)
    >>> encoder(torch.rand(2, 3, 32, 32)).shape, encoder.places[:3]
    (torch.Size([2, 512]), ('stem', 'layer1.0', 'layer1.1'))

    Source: Wightman, PyTorch Image Models (timm); the small stem is that of Chen et al. 2020 (2002.05709),
    Appendix B.9.
    """

    library_root = "model."

    def __init__(
        self,
        model: str,
        pretrained: bool = False,
        stem: Literal["auto", "small", "standard"] = "auto",
        channels: int | None = None,
        drop_path: float = 0.0,
        *,
        image_size: int = 224,
        in_chans: int = 3,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
    ):
        channels = in_chans if channels is None else channels
        if channels < 1 or in_chans not in (1, channels):
            raise UsageError(
                f"'{model}': channels={channels} does not fit images with in_chans={in_chans}; a grey image "
                "can be repeated to 1 or more, any other keeps its own, so leave channels out."
            )
        if not 0 <= drop_path < 1:
            raise UsageError(f"'{model}': drop_path must be at least 0 and less than 1, but got {drop_path}.")
        fixed = _takes_one_size(model)
        settings: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
        settings |= {"img_size": image_size} if fixed else {}
        settings |= {"drop_path_rate": drop_path} if drop_path else {}
        built = _create(model, settings, pretrained, image_size)
        if stem == "small" or (stem == "auto" and image_size <= SMALL_IMAGE and not pretrained):
            _shrink_stem(built, model, channels, required=stem == "small")
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
        """The features (N, D_p) at each of `places`; UsageError for a place that the model does not have."""
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
        """Where the model has the small stem, the lines that give timm's `model` the same."""
        from timm.models.resnet import ResNet

        net = self.model
        if not isinstance(net, ResNet) or not isinstance(net.conv1, nn.Conv2d) or net.conv1.stride != (1, 1):
            return {}
        channels = f"{net.conv1.in_channels}, {net.conv1.out_channels}"
        convolution = f"torch.nn.Conv2d({channels}, 3, padding=1, bias=False)"
        return {"stem": f"model.conv1 = {convolution}; model.maxpool = torch.nn.Identity()"}


def _forget_caches(encoder: nn.Module, _: object) -> None:
    """Drop what a model cached in eval mode from its old weights."""
    with evaluating(encoder):
        pass


def _takes_one_size(name: str) -> bool:
    """Whether a model is built for one image size; UsageError for a name that timm does not know."""
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
            # The model's own refusal, if it has one, says more than a failed download.
            _create(name, settings, False, image_size)
            raise DataError(
                f"The pretrained weights of {name} cannot be had ({_reason(error)}); give a file of weights "
                "with --init FILE in place of pretrained=true, or start without."
            ) from None
        raise _refused(name, settings, image_size, error) from None
    return model


def _shrink_stem(model: nn.Module, name: str, channels: int, required: bool) -> None:
    """Give a residual net with a 7x7 stem the 3x3 one; UsageError where it is `required` of another model."""
    from timm.models.resnet import ResNet

    if isinstance(model, ResNet) and isinstance(model.conv1, nn.Conv2d):
        small = nn.Conv2d(channels, model.conv1.out_channels, 3, stride=1, padding=1, bias=False)
        # As timm starts the convolutions of its residual nets.
        nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
        model.set_submodule("conv1", small)
        model.set_submodule("maxpool", nn.Identity())
    elif required:
        raise UsageError(
            f"'{name},stem=small': {name} has no 7x7 stem that could be replaced; leave stem out."
        )


def _try_out(model: nn.Module, name: str, channels: int, image_size: int) -> Trace:
    """Two blank images through the model; UsageError where that fails or gives no vector an image."""
    try:
        traced = trace(model, torch.zeros(2, channels, image_size, image_size))
    except REFUSALS as error:
        raise _refused(name, {}, image_size, error) from None
    if not (isinstance(traced.output, Tensor) and traced.output.ndim == 2 and len(traced.output) == 2):
        raise UsageError(
            f"{name} gives no vector an image, so it has no representation h; take a model that pools its "
            "features."
        )
    return traced


def _check_patches(model: nn.Module, name: str, traced: Trace) -> None:
    """UsageError for an image that its patches do not cover: the model would drop the margin in silence."""
    size = traced.images[-1]
    layers = [model.get_submodule(call.module) for call in traced.calls if call.input_shape == traced.images]
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and layer.stride == layer.kernel_size:
            patch = layer.kernel_size[0]
            if margin := size % patch:
                smaller = f"{size - margin} or " if size > patch else ""
                raise UsageError(
                    f"{name} cuts images into patches of {patch} pixels, but {size} is no multiple of "
                    f"{patch}; give --image-size {smaller}{size - margin + patch}."
                )


def _refused(name: str, settings: dict[str, Any], image_size: int, error: Exception) -> UsageError:
    if "drop_path_rate" in settings and "drop_path_rate" in str(error):
        return UsageError(f"{name} takes no drop_path, but got {settings['drop_path_rate']}; leave it out.")
    return UsageError(
        f"{name} cannot take images of {image_size} pixels ({_reason(error)}); give another --image-size "
        "or another encoder."
    )


def _reason(error: Exception) -> str:
    return one_line(" ".join(str(error).split()).rstrip(".") or type(error).__name__, longest=200)
