"""Encoders: images (N, C, H, W) in 0 to 1 -> the representation h (N, D)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fullrank.lazy import attach
from fullrank.registry import Entry, Registry
from fullrank.specs import Parameter, Spec

if TYPE_CHECKING:
    from torch import nn

    from fullrank.encoders.attention import cls_attention as cls_attention
    from fullrank.encoders.contract import Encoder as Encoder
    from fullrank.encoders.foreign import module_encoder as module_encoder
    from fullrank.encoders.library import LibraryEncoder as LibraryEncoder
    from fullrank.encoders.loading import (
        Loaded as Loaded,
        load_weights as load_weights,
        plain_state as plain_state,
    )
    from fullrank.encoders.tiny import TinyResNet as TinyResNet
    from fullrank.encoders.tiny_vit import TinyViT as TinyViT
    from fullrank.encoders.weights import (
        Statistics as Statistics,
        Weights as Weights,
        read_weights as read_weights,
        statistics_in as statistics_in,
    )

__getattr__, __dir__, __all__ = attach(__name__)
__all__ += ["ENCODERS", "encoder", "register_encoder", "without_download"]


def _suggest(text: str) -> str:
    """What to write instead of a file of weights."""
    if Path(text).suffix in (".safetensors", ".pth", ".pt", ".ckpt", ".bin") or Path(text).is_file():
        options = f"--init {text} to train, --weights {text} to diagnose"
        return f"weights are given separately from the spec of an encoder, such as resnet18: {options}"
    return ""


_ANY_SIZE = Parameter(
    "any_size",
    bool,
    "also take images of other sizes, such as local crops: the positions of patches are interpolated",
    False,
)

ENCODERS = Registry(
    "encoder",
    "encoders",
    context=("image_size", "in_chans", "mean", "std"),
    group="fullrank.encoders",
    suggest=_suggest,
    other=Entry(
        "timm/NAME",
        "fullrank.encoders.library:LibraryEncoder",
        "any timm model by its name, as in resnet18 or vit_small_patch16_224",
        "timm, PyTorch Image Models (github.com/huggingface/pytorch-image-models)",
        options=(
            Parameter("pretrained", bool, "start from timm's weights, downloaded or cached", False),
            Parameter(
                "stem",
                str,
                "3x3 without max-pool (small), with it (small-pool), with padding 2 (small-padded), "
                "the model's own (standard), or by image size (auto)",
                "auto",
                choices=("auto", "small", "small-pool", "small-padded", "standard"),
            ),
            Parameter(
                "pool",
                str,
                "how tokens or positions become one vector, if not timm's own way",
                choices=("avg", "max", "map", "token"),
            ),
            Parameter("num_heads", int, "number of attention heads of a vision transformer"),
            Parameter("channels", int, "number of input channels; grey images are repeated to fill them"),
            Parameter("drop_path", float, "share of images that skip the last residual branch", 0.0),
            Parameter(
                "last",
                int,
                "width of h of a residual net: of the last block's last convolution, its norm and a new "
                "shortcut; without pretrained weights",
            ),
            _ANY_SIZE,
        ),
        citations=("rw2019timm",),
        families=(
            ("resnet", "he2016deep"),
            ("vit_", "dosovitskiy2021image"),
            ("deit_", "touvron2021training"),
            ("swin_", "liu2021swin"),
            ("convnext_", "liu2022convnet"),
        ),
    ),
)
register_encoder = ENCODERS.add
ENCODERS.register(
    Entry(
        "hf-hub",
        "fullrank.encoders.huggingface:HubEncoder",
        "an image model of the Hugging Face hub, or of a folder in its layout",
        "Wolf et al. 2020 (1910.03771), transformers; or timm, where its config.json names an architecture",
        value=Parameter("path", str, "name on the hub, or folder", required=True),
        options=(
            Parameter("pretrained", bool, "read the weights; false takes its configuration alone", True),
            Parameter("channels", int, "number of input channels; grey images are repeated to fill them"),
        ),
        citations=("wolf2020transformers",),
    )
)
ENCODERS.register(
    Entry(
        "tiny-resnet",
        "fullrank.encoders.tiny:TinyResNet",
        "a small residual net for images of 8 to 32 pixels on a CPU; D = 4 x width, or last",
        "He et al. 2016 (1512.03385), basic blocks; the size is ours",
        options=(
            Parameter("width", int, "channels of the first stage; each later stage has twice as many", 24),
            Parameter("blocks", tuple, "number of residual blocks in each of three stages", (1, 1, 2)),
            Parameter(
                "last",
                int,
                "width of h: of the last block's second convolution, its norm and a new shortcut; ends the "
                "identity shortcut on which the sub-vector argument rests",
            ),
        ),
        citations=("he2016deep",),
    )
)
ENCODERS.register(
    Entry(
        "tiny-vit",
        "fullrank.encoders.tiny_vit:TinyViT",
        "a small vision transformer with a class token for images of 8 to 32 pixels on a CPU; D = width",
        "Dosovitskiy et al. 2021 (2010.11929); the size is ours",
        options=(
            Parameter(
                "patch",
                int,
                "side of a patch in pixels, which divides that of the image; by default the first of 4, 3 "
                "and 2 that gives 3 or more patches a side",
            ),
            Parameter("depth", int, "number of blocks", 3),
            Parameter("width", int, "width of the tokens and of h", 96),
            Parameter("heads", int, "number of attention heads, which divides the width", 3),
            Parameter("ratio", int, "hidden width of the perceptrons, as a multiple of the width", 2),
            _ANY_SIZE,
        ),
        citations=("dosovitskiy2021image",),
    )
)


def encoder(
    spec: "str | Spec | Callable[..., nn.Module]",
    *,
    image_size: int,
    in_chans: int = 3,
    pretrained: bool = False,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
) -> "Encoder":
    """Build an encoder from its spec, or from a class of your own, for square images.

    The mean and standard deviation of the training images become part of the encoder's weights, so they
    cannot get lost. With pretrained weights they are those of timm.

    Args:
        spec: A spec such as `resnet18` (`fullrank list encoders`, or any timm model), or a class. A class
            gets images in 0 to 1, and `mean` and `std` only if it takes them; it must return h (N, D).
        image_size: The side of the images in pixels.
        in_chans: The number of channels of the images.
        pretrained: Start from timm's weights; the same as the option `pretrained=true` of the spec.
        mean: The mean of the training images in 0 to 1, one number per channel or one for all.
        std: The standard deviation of the training images, in the same form.

    Returns:
        The encoder, from images (N, C, H, W) in 0 to 1 to h (N, D).

    Raises:
        UsageError: The name is unknown, a size is impossible, or the class is not an encoder.
        DataError: The pretrained weights cannot be read or downloaded.

    >>> encoder("tiny-resnet,width=8", image_size=8, in_chans=1).feature_dim
    32
    """
    parsed = ENCODERS.parse(spec)
    if pretrained and ("pretrained", True) not in parsed.options:
        parsed = ENCODERS.parse(f"{parsed},pretrained=true")
    built: Encoder = ENCODERS.build(parsed, image_size=image_size, in_chans=in_chans, mean=mean, std=std)
    if ENCODERS[parsed.name].origin is not None:
        from fullrank.encoders.foreign import checked_encoder

        built = cast("Encoder", checked_encoder(built, parsed, image_size, in_chans))
    built.spec = parsed
    return built


def without_download(spec: str | Spec) -> Spec:
    """The spec of the same architecture without pretrained weights, for weights that come from a file.

    Args:
        spec: The spec of an encoder.

    >>> without_download("resnet18,pretrained=true"), without_download("resnet18")
    ('resnet18,stem=standard', 'resnet18')
    """
    parsed = ENCODERS.parse(spec)
    options = dict(parsed.options)
    if ("pretrained", True) in ((option.name, option.default) for option in ENCODERS[parsed.name].options):
        options["pretrained"] = False
    elif options.pop("pretrained", False):
        # Pretrained weights keep the model's own stem at every image size; without them `auto` would not.
        options.setdefault("stem", "standard")
    return Spec(parsed.name, parsed.value, tuple(sorted(options.items())), parsed.family)


def with_options_of(spec: Any, path: str | Path) -> Any:
    """The spec of a timm model with the stem, pooling, attention heads and last width of a file of weights.

    The stem is `standard` for a 7x7 convolution and `small` for a 3x3 one, if no metadata name another. The
    number of heads is used where the file states it. A net with `fc_norm` averages its tokens. The width of
    the last block is used where its shortcut is no identity. Options in the spec stay as they are.

    Args:
        spec: The spec of an encoder.
        path: The file of weights.

    Raises:
        DataError: For a file that cannot be read, see `load_weights`.
    """
    from fullrank.encoders.unseen import options_of
    from fullrank.encoders.weights import read_weights

    parsed = ENCODERS.parse(spec)
    known = {option.name for option in ENCODERS[parsed.name].options}
    found = options_of(parsed.name, read_weights(path)) if {"stem", "num_heads"} <= known else {}
    options = found | dict(parsed.options)
    if options == dict(parsed.options):
        return spec
    return Spec(parsed.name, parsed.value, tuple(sorted(options.items())), parsed.family)


with_stem_of = with_options_of
