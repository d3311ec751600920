"""A residual net small enough to train on two CPU cores."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullrank.encoders.contract import Encoder
from fullrank.errors import UsageError


class TinyResNet(Encoder):
    """A thin residual net of three stages for images of 8 to 32 pixels.

    It has a 3x3 stem and then basic blocks with width, 2 x width and 4 x width channels. The image is halved
    before the second and third stage. h is the mean over positions of the last block's output, so D = 4 x
    width. Each residual branch ends in a batch norm that starts at zero, so every block starts as its
    shortcut.

    The last block has an identity shortcut, so the last stage needs 2 or more blocks. Without it, channels
    that no loss touches (h[d0:] under `subvector:d0`) would only be an untrained projection of the previous
    layer. With it, they carry what the previous block learns.

    With `last`, the second convolution of the last block and its norm have `last` channels, and so has h. The
    block then has a shortcut of its own, a 1x1 convolution and a norm. This ends the identity shortcut on
    which the argument for a sub-vector rests, so do not combine the two. All layers before it stay the same.

    Places, each averaged over positions: `stem`, `stage1.1` ... `stage3.2` (the output of each block), and
    `last-conv-input`, the input of the last convolution.

    Args:
        width: Channels of the first stage.
        blocks: The number of blocks in each of the three stages.
        last: The width of h; None is 4 x width, with the identity shortcut.
        image_size: Height and width of the images, 4 or more.
        in_chans: Channels of the images.
        mean: The mean of each channel, or one number.
        std: The standard deviation of each channel, or one number.

    Raises:
        UsageError: For an impossible size.

    >>> TinyResNet(in_chans=1)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 96])
    >>> TinyResNet(in_chans=1, last=384)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 384])

    Source: He et al. 2016 (arXiv 1512.03385) for the blocks; Expand or Narrow (arXiv 2304.05369) for `last`.
    """

    name = "tiny-resnet"

    def __init__(
        self,
        width: int = 24,
        blocks: Sequence[int] = (1, 1, 2),
        last: int | None = None,
        *,
        image_size: int = 32,
        in_chans: int = 3,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
    ):
        super().__init__(in_chans, mean, std)
        if image_size < 4:
            raise UsageError(
                f"Images of {image_size} pixels are too small to be halved twice; give 4 or more."
            )
        if width < 1:
            raise UsageError(f"width must be 1 or more, but got {width}.")
        if last is not None and last < 1:
            raise UsageError(f"last must be 1 or more, but got {last}; it is the width of h.")
        if len(blocks) != 3 or min(blocks) < 1 or blocks[-1] < 2:
            raise UsageError(
                f"blocks={'-'.join(map(str, blocks))} is not three numbers of 1 or more with 2 or more in "
                "the last stage (its last block needs an identity shortcut); write 1-1-2 or larger."
            )
        self.feature_dim = 4 * width if last is None else last
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.blocks = nn.ModuleDict()
        channels = width
        for stage, depth in enumerate(blocks, start=1):
            for block in range(1, depth + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                out = width * 2 ** (stage - 1)
                outer = last if (stage, block) == (3, depth) else None
                self.blocks[f"stage{stage}_{block}"] = BasicBlock(channels, out, stride, outer)
                channels = out
        # Channels last in memory, because convolutions are then faster on a CPU (docs/tried.md).
        self.to(memory_format=torch.channels_last)
        self.places = ("stem", *(name.replace("_", ".") for name in self.blocks), "last-conv-input")

    def pooling_of(self, place: str) -> str:
        """All places are averaged over positions."""
        return "mean"

    def features(self, x: Tensor, places: Sequence[str]) -> dict[str, Tensor]:
        """The features (N, D_p) at each of `places`, averaged over positions."""
        x = self.stem(self.normalised(x)).contiguous(memory_format=torch.channels_last)
        maps = {"stem": x}
        for name, block in self.blocks.items():
            x, inner = block(x)
            maps[name.replace("_", ".")] = x
        maps |= {"last-conv-input": inner, "h": x}
        return {place: maps[place].mean((2, 3)) for place in places}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, the second initialised to zero, added to a shortcut.

    The output has `outer` channels, if not `inner`; its shortcut is then no identity, whatever its width.
    """

    def __init__(self, in_channels: int, inner: int, stride: int, outer: int | None = None):
        super().__init__()
        out_channels = inner if outer is None else outer
        self.conv1 = nn.Conv2d(in_channels, inner, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        nn.init.zeros_(self.norm2.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != inner or outer is not None:
            self.shortcut = nn.Sequential(
                SubsampledConv(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> the output (N, C', H', W') and the input of the second convolution."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x)), inner


class SubsampledConv(nn.Conv2d):
    """A 1x1 convolution of every `every`-th pixel, equal to one with that stride."""

    # With a stride, its gradient writes beyond its memory on CPUs without AVX-512, for fewer than 8 channels
    # in channels-last order (oneDNN in torch 2.15).

    def __init__(self, in_channels: int, out_channels: int, every: int):
        super().__init__(in_channels, out_channels, 1, bias=False)
        self.every = every

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / every, W / every)."""
        return super().forward(x[:, :, :: self.every, :: self.every])
