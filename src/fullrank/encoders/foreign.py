"""Somebody else's encoder: any torch module, or a class that a spec names."""

from collections.abc import Sequence
from typing import cast, final

import torch
from torch import Tensor, nn

from fullrank.encoders.contract import Encoder
from fullrank.encoders.traced import TracedEncoder
from fullrank.errors import UsageError, explained
from fullrank.places import HasPlaces, evaluating, has_place


def module_encoder(
    module: nn.Module,
    *,
    image_size: int,
    in_chans: int,
    channels: int | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> Encoder:
    """Any torch module from images to features, as an encoder with places.

    A module that has `places` and `features(x, places)` keeps them. For any other, `TracedEncoder` says what
    its places are, and what h is where the module returns no vector per image.

    Args:
        module: The module. It gets images (N, C, H, W), on its device and in its dtype.
        image_size: The side of the images in pixels.
        in_chans: The number of channels of the images.
        channels: The channels that the module takes, if it takes more than grey images have.
        mean: What is subtracted from images in 0 to 1, one number per channel or one for all.
        std: What they are then divided by, in the same form.

    Returns:
        The encoder around the module itself, in the same mode.

    Raises:
        UsageError: If the module does not take such images, or returns nothing with one row per image.

    >>> net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> module_encoder(net, image_size=8, in_chans=1).feature_dim
    6
    """
    if not isinstance(module, nn.Module):
        raise UsageError(f"{module!r} is a {type(module).__name__}; an encoder must be an nn.Module.")
    inner = getattr(module, "_orig_mod", module)
    if is_placed(inner):
        return PlacedEncoder(inner, image_size, in_chans if channels is None else channels, mean, std)
    return TracedEncoder(
        _Scripted(inner) if isinstance(inner, torch.jit.ScriptModule) else inner,
        name=type(inner).__name__,
        image_size=image_size,
        in_chans=in_chans,
        channels=channels,
        mean=mean,
        std=std,
    )


@final
class PlacedEncoder(Encoder):
    """A module with places of its own, behind a mean and a standard deviation."""

    library_root = "model."

    def __init__(
        self, module: nn.Module, image_size: int, in_chans: int, mean: Sequence[float], std: Sequence[float]
    ):
        super().__init__(in_chans, mean, std)
        self.name, self.model, self.training = type(module).__name__, module, module.training
        self.places = tuple(cast(HasPlaces, module).places)
        checked_encoder(module, self.name, image_size, in_chans)
        self.feature_dim = int(cast(int, module.feature_dim))

    def features(self, x: Tensor, places: Sequence[str]) -> dict[str, Tensor]:
        """The features (N, D_p) at each of `places`, as the module gives them."""
        return cast(HasPlaces, self.model).features(self.normalised(x), places)

    def has_place(self, name: str) -> bool:
        """Whether the module takes a place."""
        return name == "h" or has_place(cast(HasPlaces, self.model), name)


class _Scripted(nn.Module):
    """A TorchScript module, which takes no hooks: its only place is h."""

    def __init__(self, scripted: nn.Module):
        super().__init__()
        self.scripted = scripted

    def forward(self, x: torch.Tensor) -> object:
        return self.scripted(x)


def is_placed(encoder: nn.Module) -> bool:
    """Whether an encoder has places."""
    return hasattr(encoder, "places") and callable(getattr(encoder, "features", None))


def with_places(encoder: nn.Module, image_size: int, in_chans: int) -> nn.Module:
    """`encoder` if it has places, or else an encoder around it."""
    if is_placed(encoder):
        return encoder
    return module_encoder(encoder, image_size=image_size, in_chans=in_chans)


def checked_encoder(built: object, name: str, image_size: int, in_chans: int) -> nn.Module:
    """`built`, with places and a `feature_dim`. UsageError unless it returns one row per image."""
    if not isinstance(built, nn.Module):
        raise UsageError(f"The encoder {name!r} is a {type(built).__name__}; it must be an nn.Module.")
    refusal = f"The encoder {name!r} cannot take images of {in_chans} channels and {image_size} pixels"
    part = built
    if not is_placed(built):
        part = module_encoder(built, image_size=image_size, in_chans=in_chans)
        part.register_load_state_dict_pre_hook(_read_old_names)  # type: ignore[no-untyped-call]
    with torch.no_grad(), torch.random.fork_rng(devices=()), evaluating(part), explained(refusal):
        h = part(torch.rand(2, in_chans, image_size, image_size))
    width = getattr(built, "feature_dim", None)
    if not isinstance(h, torch.Tensor) or h.ndim != 2 or (width is not None and width != h.shape[1]):
        described = tuple(h.shape) if isinstance(h, torch.Tensor) else type(h).__name__
        raise UsageError(
            f"The encoder {name!r} has feature_dim={width}, but returned {described} for 2 images; it must "
            "return (2, feature_dim)."
        )
    part.__dict__["feature_dim"] = h.shape[1]
    return part


def _read_old_names(part: nn.Module, state: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
    """The weights of older runs call the module `encoder`, and have no mean and no spread."""
    if not any(name.startswith(f"{prefix}model.") for name in state):
        old = f"{prefix}encoder."
        for name in [name for name in state if name.startswith(old)]:
            state[f"{prefix}model.{name.removeprefix(old)}"] = state.pop(name)
    for name in ("mean", "std"):
        state.setdefault(prefix + name, getattr(part, name))
