"""A vision transformer small enough to train on two CPU cores."""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullrank.encoders.contract import Encoder
from fullrank.encoders.reading import POOLINGS, Pooling, Reading
from fullrank.errors import UsageError

# The sides of patches that are tried where none is given, and the fewest patches a side.
_PATCHES, _FEWEST = (4, 3, 2), 3


class TinyViT(Encoder):
    """A thin vision transformer for images of 8 to 32 pixels.

    The image is cut into square patches. Each becomes a token by a linear map, and a class token goes before
    them. All tokens get a learned position. Each block adds self-attention and then a GELU perceptron, each
    on layer-normalised tokens. h is the class token after a last layer norm, so D = width. Nothing is drawn
    in training.

    Places: `stem.mean` (the tokens before the first block), `block1.cls`, `block1.mean`, `block2.cls` and so
    on (the output of each block). `.mean` and `.max` pool the tokens of the patches, without the class token.
    `block1` is `block1.cls`.

    Train it with AdamW. The rate 0.003 of the recipe `digits` suits it; at 0.001 the linear accuracy of z was
    7 points lower after 20 epochs at 16 pixels. A step takes half the time of `tiny-resnet`.

    Args:
        patch: The side of a patch in pixels. None is the first of 4, 3 and 2 that divides the image into 3
            or more patches a side.
        depth: The number of blocks.
        width: The width of tokens and of h.
        heads: The number of attention heads, which divides the width.
        ratio: The hidden width of the perceptrons, as a multiple of the width.
        any_size: Also take square or oblong images of other sizes, in whole patches, such as local crops.
            The learned positions are then interpolated (`resized_positions`). At `image_size` nothing
            changes.
        image_size: Height and width of the images. It takes no other size, unless `any_size`.
        in_chans: Channels of the images.
        mean: The mean of each channel, or one number.
        std: The standard deviation of each channel, or one number.

    Raises:
        UsageError: For an impossible size, or a patch that does not divide the image.

    >>> net = TinyViT(image_size=16, in_chans=1)
    >>> net(torch.rand(2, 1, 16, 16)).shape, net.places[:3]
    (torch.Size([2, 96]), ('stem.mean', 'block1.cls', 'block1.mean'))

    Source: Dosovitskiy et al. 2021 (arXiv 2010.11929); the size is ours.
    """

    name = "tiny-vit"

    def __init__(
        self,
        patch: int | None = None,
        depth: int = 3,
        width: int = 96,
        heads: int = 3,
        ratio: int = 2,
        any_size: bool = False,
        *,
        image_size: int = 32,
        in_chans: int = 3,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
    ):
        super().__init__(in_chans, mean, std)
        for option, value in {"depth": depth, "width": width, "heads": heads, "ratio": ratio}.items():
            if value < 1:
                raise UsageError(f"{option} must be 1 or more, but got {value}.")
        if width % heads:
            raise UsageError(f"width={width} is not a multiple of heads={heads}; give a width that is.")
        self.image_size, self.feature_dim, self.any_size = image_size, width, any_size
        self.patch = _patch_for(image_size) if patch is None else _checked(patch, image_size)
        self.embed = nn.Conv2d(in_chans, width, self.patch, self.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (image_size // self.patch) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, heads, ratio * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        for tokens in (self.cls_token, self.positions):
            nn.init.trunc_normal_(tokens, std=0.02)
        names = [f"block{number}" for number in range(1, depth + 1)]
        self.places = ("stem.mean", *(f"{name}.{how}" for name in names for how in ("cls", "mean")))

    def _parts_of(self, place: str) -> tuple[str, Pooling] | None:
        """A place as the name of its tokens and how they are pooled; None if there is no such place."""
        layer, _, pooling = place.partition(".")
        pooling = pooling or ("mean" if layer == "stem" else "cls")
        layers = ["stem", *(f"block{number}" for number in range(1, len(self.blocks) + 1))]
        known = layer in layers and pooling in POOLINGS and (layer, pooling) != ("stem", "cls")
        return (layer, cast(Pooling, pooling)) if known else None

    def has_place(self, name: str) -> bool:
        """Whether `features` takes a place: h, the stem or a block, pooled in any way that it has."""
        return name == "h" or self._parts_of(name) is not None

    def pooling_of(self, place: str) -> str:
        """How the tokens at a place are pooled: mean, max or cls."""
        parts = self._parts_of(place)
        return "cls" if parts is None else parts[1]

    def features(self, x: Tensor, places: Sequence[str]) -> dict[str, Tensor]:
        """The features (N, D) at each of `places`."""
        tokens = self._tokens(x)
        found = {"h": self.norm(tokens[f"block{len(self.blocks)}"][:, 0])}
        for place in places:
            if place != "h":
                layer, pooling = self._parts_of(place) or ("", "cls")
                found[place] = Reading("", "tokens", 1, pooling=pooling).pooled(tokens[layer])
        return {place: found[place] for place in places}

    def of_patches(
        self, x: Tensor, places: Sequence[str], of: Callable[[str, Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """`of(place, tokens)` for the patch tokens (N, T, D) at those of `places` that pool such tokens."""
        parts = {place: self._parts_of(place) for place in places}
        pooled = {place: each[0] for place, each in parts.items() if each is not None and each[1] != "cls"}
        tokens = self._tokens(x) if pooled else {}
        return {place: of(place, tokens[layer][:, 1:].float()) for place, layer in pooled.items()}

    def _tokens(self, x: Tensor) -> dict[str, Tensor]:
        """The tokens (N, 1 + T, D) before the first block and after each."""
        height, width = x.shape[-2:]
        positions: Tensor = self.positions
        if (height, width) != (self.image_size, self.image_size):
            self._check_size(height, width)
            positions = resized_positions(positions, height // self.patch, width // self.patch)
        patches = self.embed(self.normalised(x)).flatten(2).transpose(1, 2)  # (N, T, D)
        x = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], 1) + positions
        tokens = {"stem": x}
        for number, block in enumerate(self.blocks, start=1):
            tokens[f"block{number}"] = x = block(x)
        return tokens

    def _check_size(self, height: int, width: int) -> None:
        """UsageError for images of another size than its own that it does not take."""
        own = f"{self.name} was built for images of {self.image_size}x{self.image_size} pixels, but got "
        if not self.any_size:
            raise UsageError(
                f"{own}{height}x{width}; give images of that size, or build it with any_size=true."
            )
        if min(height, width) < self.patch or height % self.patch or width % self.patch:
            raise UsageError(
                f"{self.name} cuts images into patches of {self.patch} pixels, but got {height}x{width}; "
                f"give images whose sides are multiples of {self.patch}."
            )


class Block(nn.Module):
    """Self-attention and a perceptron, each added to the tokens and fed with their layer norm."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, T, D) -> tokens (N, T, D)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)  # (N, heads, T, D / heads)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def resized_positions(positions: Tensor, rows: int, columns: int) -> Tensor:
    """Learned positions of a class token and of a square grid of patches, for a grid of another size.

    The grid is interpolated bicubically, with a filter where it shrinks. The position of the class token
    stays.

    Args:
        positions: (1, 1 + S S, D), the class token first.
        rows: The number of rows of the new grid.
        columns: The number of its columns.

    Returns:
        (1, 1 + rows columns, D).

    >>> resized_positions(torch.zeros(1, 1 + 7 * 7, 5), 3, 4).shape
    torch.Size([1, 13, 5])

    Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), Section 3.2; the filter is timm's.
    """
    side = math.isqrt(positions.shape[1] - 1)
    first, others = positions[:, :1], positions[:, 1:]
    grid = others.reshape(len(others), side, side, -1).permute(0, 3, 1, 2)
    # In single precision at least: bicubic weights in 16 bits would move the positions.
    single = grid.to(torch.promote_types(grid.dtype, torch.float32))
    resized = F.interpolate(single, (rows, columns), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, resized.to(grid.dtype).flatten(2).transpose(1, 2)], 1)


def _patch_for(size: int) -> int:
    """The side of a patch for images of `size` pixels. UsageError if none of the usual ones divides it."""
    for patch in _PATCHES:
        if size % patch == 0 and size // patch >= _FEWEST:
            return patch
    raise UsageError(
        f"tiny-vit finds no patch of 2 to 4 pixels for images of {size} pixels; give images of "
        f"{max(6, size + size % 2)} pixels, or an option such as patch=1."
    )


def _checked(patch: int, size: int) -> int:
    """`patch`, if it cuts images of `size` pixels into whole patches."""
    if patch < 1:
        raise UsageError(f"patch must be 1 or more, but got {patch}.")
    if size % patch:
        smaller = f"{size - size % patch} or " if size > patch else ""
        dividing = [each for each in range(1, size + 1) if size % each == 0]
        nearest = min(dividing, key=lambda each: abs(each - patch))
        raise UsageError(
            f"tiny-vit cuts images into patches of {patch} pixels, but {size} is not a multiple of {patch}; "
            f"give patch={nearest}, or --image-size {smaller}{size - size % patch + patch}."
        )
    return patch
