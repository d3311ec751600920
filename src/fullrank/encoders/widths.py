"""The width of a residual net's last block, and so of h."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fullrank.errors import UsageError


@dataclass(frozen=True)
class LastBlock:
    """The last block of timm's `ResNet`: its place in the last stage, and its last convolution and norm."""

    block: nn.Module
    index: int
    conv: str
    norm: str


def last_block(model: nn.Module) -> LastBlock | None:
    """The last block, if it is a basic block or a bottleneck with batch norm and without attention.

    Args:
        model: Any model.

    Returns:
        None for every other model.
    """
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet

    kinds: dict[type, tuple[str, str]] = {BasicBlock: ("conv2", "bn2"), Bottleneck: ("conv3", "bn3")}
    if not isinstance(model, ResNet):
        return None
    stage: Any = model.layer4
    block = stage[-1]
    names = kinds.get(type(block))
    if names is None or block.se is not None or type(getattr(block, names[1])) is not nn.BatchNorm2d:
        return None
    return LastBlock(block, len(stage) - 1, *names)


def set_last_width(model: nn.Module, name: str, width: int) -> None:
    """Give the last block of a residual net another width of its output, and so of h.

    The block's last convolution (the second of a basic block, the third of a bottleneck), its norm and its
    shortcut are new, with `width` channels. The shortcut is a 1x1 convolution and a norm, also where it was
    the identity. All start as timm's do: convolutions by He et al. with fan-out, norms with mean 0, variance
    1 and weight 1, but weight 0 for the norm that ends the residual branch. Other layers stay the same.

    Args:
        model: The untrained model, which is changed.
        name: Its name in messages.
        width: The width of h.

    Raises:
        UsageError: For a width below 1, or a model without such a block.

    >>> import timm, torch
    >>> model = timm.create_model("resnet18", num_classes=0)
    >>> set_last_width(model, "resnet18", 1024)
    >>> model(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 1024])

    Source: Expand or Narrow (arXiv 2304.05369). Its widths are not known here.
    """
    if width < 1:
        raise UsageError(f"'{name}': last must be 1 or more, but got {width}; it is the width of h.")
    if (last := last_block(model)) is None:
        raise UsageError(
            f"'{name},last={width}': the last block of {name} cannot have another width; last is for "
            "tiny-resnet and timm's residual nets with batch norm and without attention, such as resnet18, "
            "resnet50 or resnext50_32x4d."
        )
    block: Any = last.block
    setattr(block, last.conv, _convolution_like(getattr(block, last.conv), width))
    setattr(block, last.norm, _norm_like(getattr(block, last.norm), width))
    before = block.downsample or (nn.Conv2d(block.conv1.in_channels, 1, 1, bias=False), nn.BatchNorm2d(1))
    *pool, conv, norm = before
    block.downsample = nn.Sequential(*pool, _convolution_like(conv, width), _norm_like(norm, width))
    net: Any = model
    net.num_features = net.head_hidden_size = width
    net.feature_info[-1]["num_chs"] = width


def last_width_in(model: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    """The width of the last block in a state dict whose last shortcut is no identity; None for others.

    Args:
        model: A net of the same architecture, of any last width.
        tensors: The state dict, under timm's names.
    """
    if (last := last_block(model)) is None:
        return None
    block = f"layer4.{last.index}"
    shortcut = [name for name in tensors if name.startswith(f"{block}.downsample.")]
    conv = tensors.get(f"{block}.{last.conv}.weight")
    return len(conv) if shortcut and conv is not None else None


def last_lines(model: nn.Module) -> dict[str, str]:
    """The line that gives timm's `model` the last block of this one, which `set_last_width` changed.

    Args:
        model: The changed model.
    """
    if (last := last_block(model)) is None:
        return {}
    block: Any = last.block
    lines = [f"block = model.layer4[{last.index}]"]
    lines += [f"block.{name} = {_written(getattr(block, name))}" for name in (last.conv, last.norm)]
    conv, norm = map(_written, block.downsample[-2:])
    if last.index:
        lines.append(f"block.downsample = torch.nn.Sequential({conv}, {norm})")
    else:  # timm's block has a shortcut, whose pooling stays
        lines.append(f"block.downsample[-2], block.downsample[-1] = {conv}, {norm}")
    return {"last": "; ".join(lines)}


def _convolution_like(conv: nn.Conv2d, width: int) -> nn.Conv2d:
    """A convolution with `width` channels of output, initialised as timm does in its residual nets."""
    settings: Any = {name: getattr(conv, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    new = nn.Conv2d(conv.in_channels, width, groups=conv.groups, bias=conv.bias is not None, **settings)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new


def _norm_like(norm: nn.BatchNorm2d, width: int) -> nn.BatchNorm2d:
    """A batch norm with `width` channels, whose weights start where those of an untrained one stand."""
    new = nn.BatchNorm2d(width, eps=norm.eps, momentum=norm.momentum)
    nn.init.constant_(new.weight, norm.weight[0].item())
    return new


def _written(layer: nn.Conv2d | nn.BatchNorm2d) -> str:
    """A layer in Python."""
    if isinstance(layer, nn.Conv2d):
        return f"torch.nn.{layer}"
    # torch's own words have arguments that older versions do not know.
    return f"torch.nn.BatchNorm2d({layer.num_features}, eps={layer.eps}, momentum={layer.momentum})"
