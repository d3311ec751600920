"""Patch tokens of a vision transformer whose norm is far above that of the others."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fullrank.batch import as_float
from fullrank.devices import first_device
from fullrank.errors import UsageError
from fullrank.places import evaluating
from fullrank.record import Measure

# A token is an outlier above this multiple of the median norm.
OUTLIER = 5.0
# Below the first share of tokens they are single accidents; above the second one they are no exceptions.
LEAST_SHARE, MOST_SHARE = 1e-4, 0.1
# How many images are enough for a median of norms, and for a share of tokens.
MOST_IMAGES = 256


@dataclass(frozen=True)
class TokenNorms:
    r"""The norms of the patch tokens at a place, and those that stand out.

    .. math:: \|t\| > 5 \operatorname{median} \|t'\|

    Attributes:
        place: The name of the place.
        tokens: The number of patch tokens of an image, T.
        share: The share of tokens that are outliers.
        ratio: The median norm of the outliers over the median norm of all tokens; 1 without outliers.
        images: The share of images with any outlier.
        limit: The norm above which a token is an outlier.

    >>> norms = torch.ones(10, 49)
    >>> norms[:5, 0] = 40
    >>> found = TokenNorms.of("blocks.3", norms)
    >>> round(found.share, 4), found.ratio, found.images
    (0.0102, 40.0, 0.5)

    Source: after Darcet et al. 2024, section 2.1, where the limit is a fixed norm for one model.
    """

    place: str
    tokens: int
    share: float = 0.0
    ratio: float = 1.0
    images: float = 0.0
    limit: float = float("inf")

    @property
    def stand_out(self) -> bool:
        """Whether a few tokens are outliers: from 0.01 % to 10 % of them."""
        return LEAST_SHARE <= self.share <= MOST_SHARE

    def measures(self) -> list[Measure]:
        """The share of outliers and their ratio, as measures of the place."""
        how = f"{self.tokens} patch tokens an image; an outlier has a norm above {OUTLIER:g} times the median"
        values = {"outlier_token_share": self.share, "outlier_token_norm_ratio": self.ratio}
        return [Measure(place=self.place, name=name, value=value, how=how) for name, value in values.items()]

    @classmethod
    def of(cls, place: str, norms: Tensor) -> "TokenNorms":
        """The outliers among the norms (n, T) of the patch tokens of n images."""
        norms = norms.double()
        median = norms.median()
        outliers = norms > OUTLIER * median
        if not (outliers.any() and median > 0):
            return cls(place, norms.shape[1])
        return cls(
            place,
            tokens=norms.shape[1],
            share=float(outliers.double().mean()),
            ratio=float(norms[outliers].median() / median),
            images=float(outliers.any(1).double().mean()),
            limit=float(OUTLIER * median),
        )


def token_norms(encoder: nn.Module, batches: Iterable[Tensor], places: Sequence[str]) -> list[TokenNorms]:
    """The norms of patch tokens at those of `places` that pool such tokens, without class or register tokens.

    The list is empty for an encoder that has no such places.

    Args:
        encoder: The encoder, read in eval mode.
        batches: Images (N, C, H, W), uint8 or in 0 to 1.
        places: Names of places.

    Raises:
        UsageError: If two batches have different numbers of tokens at a place.
    """
    parts = _of_patches(encoder, batches, places, lambda _, tokens: torch.linalg.vector_norm(tokens, dim=2))
    for place, norms in parts.items():
        counts = sorted({batch.shape[1] for batch in norms})
        if len(counts) > 1:
            unlike = f"from {counts[0]} to {counts[-1]} patch tokens an image"
            raise UsageError(
                f"{place} has {unlike}; give an encoder that keeps every token, or drop that place."
            )
    return [TokenNorms.of(place, torch.cat(norms)) for place, norms in parts.items()]


def pooled_without(
    encoder: nn.Module, batches: Iterable[Tensor], outliers: Sequence[TokenNorms]
) -> dict[str, Tensor]:
    """Features (N, D_p) pooled from the patch tokens of each image without its outliers, at their places.

    An image whose tokens are all outliers keeps them.

    Args:
        encoder: An encoder that was given to `token_norms`.
        batches: Images (N, C, H, W), uint8 or in 0 to 1.
        outliers: What `token_norms` found.
    """
    limits = {norms.place: norms.limit for norms in outliers}

    def pool(place: str, tokens: Tensor) -> Tensor:
        stays = torch.linalg.vector_norm(tokens, dim=2) <= limits[place]  # (N, T)
        stays |= ~stays.any(1, keepdim=True)
        if place.endswith(".max"):
            return tokens.masked_fill(~stays[..., None], -torch.inf).amax(1)
        weights = stays.float()
        return torch.einsum("nt,ntd->nd", weights / weights.sum(1, keepdim=True), tokens)

    parts = _of_patches(encoder, batches, list(limits), pool)
    return {place: torch.cat(rows) for place, rows in parts.items()}


@torch.no_grad()
def _of_patches(
    encoder: nn.Module, batches: Iterable[Tensor], places: Sequence[str], of: Callable[[str, Tensor], Tensor]
) -> dict[str, list[Tensor]]:
    """`of` the patch tokens at each place, batch by batch; empty where an encoder has no such tokens."""
    read: Callable[..., dict[str, Tensor]] | None = getattr(encoder, "of_patches", None)
    parts: dict[str, list[Tensor]] = {}
    if read is None:
        return parts
    with evaluating(encoder):
        for batch in batches:
            features = read(as_float(batch.to(first_device(encoder))), places, of)
            if not features:
                break
            for place, tensor in features.items():
                parts.setdefault(place, []).append(tensor.cpu())
    return parts
