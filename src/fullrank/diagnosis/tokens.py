"""Tokens of a vision transformer whose norm is far above that of the others."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenNorms:
    """The norms of the patch tokens at a place.

    Attributes:
        place: The name of the place.
        tokens: The number of patch tokens of an image.
        share: The share of tokens that are outliers.
        ratio: The median norm of the outliers over the median norm of all tokens; 1 without outliers.
    """

    place: str
    tokens: int
    share: float
    ratio: float
