"""The first layers of a residual net: what is in use for small images, as data."""

from dataclasses import dataclass

from torch import nn

from fullrank.errors import UsageError


@dataclass(frozen=True)
class Stem:
    """A 3x3 convolution of stride 1 in place of a residual net's 7x7 one.

    Attributes:
        name: The value of the option `stem`.
        padding: Pixels added on each side.
        keeps_pool: Whether the max-pool stays.
        meaning: The words for it.
    """

    name: str
    padding: int
    keeps_pool: bool
    meaning: str


STEMS = (
    Stem("small", 1, False, "3x3, stride 1, padding 1, no max-pool"),
    Stem("small-pool", 1, True, "3x3, stride 1, padding 1, with the max-pool"),
    Stem("small-padded", 2, False, "3x3, stride 1, padding 2, no max-pool, as in solo-learn"),
)
STANDARD = "7x7, stride 2, with the max-pool"


def replace_stem(model: nn.Module, name: str, channels: int, stem: str, required: bool) -> None:
    """Give a residual net with a 7x7 stem another one. UsageError if another model `required` it.

    Args:
        model: The model, which is changed.
        name: Its name.
        channels: Channels of its input.
        stem: The name of the stem.
        required: Whether a model without a 7x7 stem is an error.
    """
    chosen = next(each for each in STEMS if each.name == stem)
    if (conv := _first_convolution(model)) is not None and conv.kernel_size == (7, 7):
        small = nn.Conv2d(channels, conv.out_channels, 3, stride=1, padding=chosen.padding, bias=False)
        # As timm initialises the convolutions of its residual nets.
        nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
        model.set_submodule("conv1", small)
        if not chosen.keeps_pool:
            model.set_submodule("maxpool", nn.Identity())
    elif required:
        raise UsageError(f"'{name},stem={stem}': {name} has no 7x7 stem to replace; leave stem out.")


def stem_of(model: nn.Module) -> str | None:
    """The value of `stem` that describes a model, or None for a model without that choice."""
    if (conv := _first_convolution(model)) is None:
        return None
    if conv.kernel_size == (7, 7):
        return "standard"
    pooled = not isinstance(model.get_submodule("maxpool"), nn.Identity)
    shape = conv.kernel_size, conv.stride, conv.padding, pooled
    kinds: dict[object, str] = {
        ((3, 3), (1, 1), (each.padding,) * 2, each.keeps_pool): each.name for each in STEMS
    }
    return kinds.get(shape)


def stem_lines(model: nn.Module) -> dict[str, str]:
    """The lines that give timm's `model` the same small stem, if this one has it."""
    conv, stem = _first_convolution(model), stem_of(model)
    if conv is None or stem in (None, "standard"):
        return {}
    padding = conv.padding[0]
    sizes = f"{conv.in_channels}, {conv.out_channels}, 3, padding={padding}, bias=False"
    pool = "" if "pool" in str(stem) else "; model.maxpool = torch.nn.Identity()"
    return {"stem": f"model.conv1 = torch.nn.Conv2d({sizes}){pool}"}


def _first_convolution(model: nn.Module) -> nn.Conv2d | None:
    """The first convolution of timm's `ResNet` with one; None for others and for deep stems."""
    from timm.models.resnet import ResNet

    return model.conv1 if isinstance(model, ResNet) and isinstance(model.conv1, nn.Conv2d) else None
