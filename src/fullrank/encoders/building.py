"""A user's own encoder, built from a spec and checked. Its only place is h."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from fullrank.errors import UsageError, explained
from fullrank.places import evaluating


@final
class Unplaced(nn.Module):
    """Any module from images (N, C, H, W) in 0 to 1 to features (N, D), with h as its only place."""

    places = ()

    def __init__(self, encoder: nn.Module, feature_dim: int = 0):
        super().__init__()
        self.encoder, self.feature_dim = encoder, feature_dim

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) -> h (N, D)."""
        h: Tensor = self.encoder(x)
        if torch.compiler.is_compiling():  # a comparison would fix the number of images in an export
            return h
        if not isinstance(h, Tensor) or h.ndim != 2 or len(h) != len(x):
            raise UsageError(
                f"The encoder must return features (N, D), one row per image, but returned {_described(h)} "
                f"for {len(x)} images; pool its output."
            )
        return h

    def features(self, x: Tensor, places: Sequence[str]) -> dict[str, Tensor]:
        """The output as h."""
        return {"h": self(x)}


def with_places(encoder: nn.Module) -> nn.Module:
    """`encoder` if it has places, or else a module around it with h as its only place."""
    return encoder if is_placed(encoder) else Unplaced(encoder)


def is_placed(encoder: nn.Module) -> bool:
    """Whether an encoder has places."""
    return hasattr(encoder, "places") and callable(getattr(encoder, "features", None))


def checked_encoder(built: object, name: str, image_size: int, in_chans: int) -> nn.Module:
    """`built`, with h as a place and a `feature_dim`. UsageError unless it returns (N, D)."""
    if not isinstance(built, nn.Module):
        raise UsageError(f"The encoder {name!r} is a {type(built).__name__}; it must be an nn.Module.")
    part = with_places(built)
    refusal = f"The encoder {name!r} cannot take images of {in_chans} channels and {image_size} pixels"
    with torch.no_grad(), torch.random.fork_rng(devices=()), evaluating(part), explained(refusal):
        h = part(torch.rand(2, in_chans, image_size, image_size))
    width = getattr(built, "feature_dim", None)
    if not isinstance(h, Tensor) or h.ndim != 2 or (width is not None and width != h.shape[1]):
        raise UsageError(
            f"The encoder {name!r} has feature_dim={width}, but returned {_described(h)} for 2 images; it "
            "must return (2, feature_dim)."
        )
    part.__dict__["feature_dim"] = h.shape[1]
    return part


def _described(h: object) -> object:
    return tuple(h.shape) if isinstance(h, Tensor) else type(h).__name__
