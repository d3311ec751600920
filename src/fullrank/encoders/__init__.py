"""Encoders: images (N, C, H, W) in 0 to 1 -> the representation h (N, D)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fullrank.lazy import attach
from fullrank.specs import Entry, Parameter, Registry, Spec

if TYPE_CHECKING:
    from fullrank.encoders.contract import Encoder as Encoder
    from fullrank.encoders.tiny import TinyResNet as TinyResNet

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "contract": ["Encoder"],
        "tiny": ["TinyResNet"],
    },
)
__all__ += ["ENCODERS", "encoder"]

ENCODERS = Registry("encoder", "encoders")
ENCODERS.register(
    Entry(
        "tiny-resnet",
        "fullrank.encoders.tiny:TinyResNet",
        "a thin residual net for images of 8 to 32 pixels on a CPU; D = 4 x width",
        "He et al. 2016 (1512.03385), basic blocks; the size is ours",
        options=(
            Parameter("width", int, "channels of the first stage, doubled in each later one", 24),
            Parameter("blocks", tuple, "residual blocks in each of three stages", (1, 1, 2)),
        ),
    )
)


def encoder(
    spec: str | Spec,
    *,
    image_size: int,
    in_chans: int = 3,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
) -> "Encoder":
    """Build an encoder from its spec, for square images of `in_chans` channels with that mean and spread.

    Mean and spread of the training images, one number a channel or one for all, become part of the
    encoder's weights: nobody who loads it can forget them. Raises UsageError for an unknown name or an
    impossible size.

    >>> encoder("tiny-resnet,width=8", image_size=8, in_chans=1).feature_dim
    32
    """
    built: Encoder = ENCODERS.build(spec, image_size=image_size, in_chans=in_chans, mean=mean, std=std)
    return built
