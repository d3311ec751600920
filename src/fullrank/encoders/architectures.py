"""Which of timm's residual nets and vision transformers a file of weights comes from."""

import math
from collections.abc import Mapping

from torch import Tensor

_RESNETS: dict[tuple[tuple[int, ...], bool, int], str] = {
    ((2, 2, 2, 2), False, 64): "resnet18",
    ((3, 4, 6, 3), False, 64): "resnet34",
    ((3, 4, 6, 3), True, 64): "resnet50",
    ((3, 4, 23, 3), True, 64): "resnet101",
    ((3, 8, 36, 3), True, 64): "resnet152",
    ((3, 4, 6, 3), True, 128): "wide_resnet50_2",
    ((3, 4, 23, 3), True, 128): "wide_resnet101_2",
}
_TRANSFORMERS = {
    (192, 12): "tiny",
    (384, 12): "small",
    (768, 12): "base",
    (1024, 24): "large",
    (1280, 32): "huge",
}


def architecture_of(tensors: Mapping[str, Tensor]) -> str | None:
    """The name in timm of the net in a file, from its depth, width and patch size; None if it is another.

    Args:
        tensors: The tensors of the file, under timm's names behind any prefix.
    """
    for anchor, read in {"layer1.0.conv1.weight": _resnet, "patch_embed.proj.weight": _transformer}.items():
        owner = next((name.removesuffix(anchor) for name in tensors if name.endswith(anchor)), None)
        if owner is not None:
            return read(
                {name.removeprefix(owner): each for name, each in tensors.items() if name.startswith(owner)}
            )
    return None


def _resnet(net: Mapping[str, Tensor]) -> str | None:
    stages = (_count(net, f"layer{stage}.") for stage in range(1, 5))
    bottleneck, width = "layer1.0.conv3.weight" in net, len(net["layer1.0.conv1.weight"])
    if net["layer1.0.conv2.weight"].shape[1] != width:  # grouped, as in ResNeXt
        return None
    return _RESNETS.get((tuple(stages), bottleneck, width))


def _transformer(net: Mapping[str, Tensor]) -> str | None:
    width, channels, patch, _ = net["patch_embed.proj.weight"].shape
    size = _TRANSFORMERS.get((width, _count(net, "blocks.")))
    # A hybrid embeds the channels of a residual net.
    if size is None or "pos_embed" not in net or channels >= 64:
        return None
    if patch == 14 and "blocks.0.ls1.gamma" in net:
        return f"vit_{size}_patch14_{'reg4_' if 'register_tokens' in net else ''}dinov2"
    return f"vit_{size}_patch{patch}_{math.isqrt(net['pos_embed'].shape[1]) * patch}"


def _count(net: Mapping[str, Tensor], prefix: str) -> int:
    """The number of blocks behind a prefix."""
    return len({name.removeprefix(prefix).partition(".")[0] for name in net if name.startswith(prefix)})
