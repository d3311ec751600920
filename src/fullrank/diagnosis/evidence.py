"""What a diagnosis of causes looks at: features at places, views of the same images, stacked linear maps."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError


@dataclass(frozen=True)
class PlaceEvidence:
    """Features at one place, read in eval mode.

    Shapes: `features` (N, D) of clean images; `views`, where known, (n, D) twice: two views of n images;
    `operations` the same views of the first m of them, m at most n, with all but one operation off, by the
    name of that operation.
    `imposed_rank` is the rank that a fixed head imposes here (24 for the z of `subvector:24`); it is never a
    finding. Raises UsageError for shapes that do not fit, DataError for features that are not finite.

    >>> PlaceEvidence("h", torch.randn(10, 4)).features.shape
    torch.Size([10, 4])
    """

    place: str
    features: Tensor
    views: tuple[Tensor, Tensor] | None = None
    operations: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    imposed_rank: int | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or len(self.features) < 2:
            raise UsageError(
                f"Expected the features at {self.place} as (N, D) with N of 2 or more, but got "
                f"{tuple(self.features.shape)}; give one row for each image."
            )
        width = self.features.shape[1]
        if self.imposed_rank is not None and not 1 <= self.imposed_rank <= width:
            raise UsageError(
                f"imposed_rank at {self.place} must be 1 to {width}, the width there, but got "
                f"{self.imposed_rank}; leave it out where the head imposes none."
            )
        if self.operations and self.views is None:
            raise UsageError(
                f"{self.place} has views of {len(self.operations)} single operations, but no views of all "
                "together; give both, of the same images."
            )
        pairs = {"views": self.views} if self.views is not None else {}
        for name, pair in (pairs | self.operations).items():
            _check_pair(self.place, name, pair, width, len(pairs["views"][0]))
        for tensor in (
            self.features,
            *(side for pair in (pairs | self.operations).values() for side in pair),
        ):
            bad = ~torch.isfinite(tensor).all(1)
            if bad.any():
                raise DataError(
                    f"The features at {self.place} hold NaN or infinity in {int(bad.sum())} of {len(tensor)} "
                    f"rows, the first of them row {int(bad.nonzero()[0])}; drop those rows or mend the model."
                )


@dataclass(frozen=True)
class Evidence:
    """All that is known of one model: its places from the image to z, stacked maps, the loss's temperature.

    `stacked` are consecutive linear maps W1 (m, D), W2 (K, m), ..., the one applied first first; nothing but
    linear maps may stand between them, and they lead to the last place. `temperature` is that of a cosine
    loss on z; None is unknown, and 0.1 is then assumed. Raises UsageError for no places, maps that do not fit
    together or a temperature that is not above 0, and DataError for maps that are not finite.

    >>> len(Evidence((PlaceEvidence("z", torch.randn(10, 4)),)).places)
    1
    """

    places: tuple[PlaceEvidence, ...]
    stacked: tuple[Tensor, ...] = ()
    temperature: float | None = None

    def __post_init__(self) -> None:
        if not self.places:
            raise UsageError("A diagnosis needs the features of 1 place or more, but got 0; give those of z.")
        if self.temperature is not None and not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(
                f"temperature must be a number above 0, but got {self.temperature}; None means unknown."
            )
        for map_ in self.stacked:
            if map_.ndim != 2:
                raise UsageError(
                    f"Expected stacked maps as matrices (out, in), but got {tuple(map_.shape)}; "
                    "flatten or leave out other layers."
                )
            if not torch.isfinite(map_).all():
                raise DataError(
                    f"A stacked map {tuple(map_.shape)} holds NaN or infinity; load weights that are finite."
                )
        for first, second in zip(self.stacked, self.stacked[1:], strict=False):
            if first.shape[0] != second.shape[1]:
                raise UsageError(
                    f"A stacked map of {first.shape[0]} outputs is followed by one of {second.shape[1]} "
                    "inputs; give only consecutive maps, the one applied first first."
                )

    def before(self, index: int) -> tuple[PlaceEvidence, ...]:
        """The places below `places[index]`, the nearest first."""
        return self.places[:index][::-1]


def _check_pair(place: str, name: str, pair: tuple[Tensor, Tensor], width: int, most: int) -> None:
    first, second = pair
    if first.shape != second.shape or first.ndim != 2 or first.shape[1] != width or len(first) > most:
        raise UsageError(
            f"Expected {name} at {place} as two tensors (n, {width}) of the same images, n at most {most}, "
            f"but got {tuple(first.shape)} and {tuple(second.shape)}; read both in one pass."
        )
    if len(first) < 2:
        raise UsageError(f"{name} at {place} need 2 images or more, but got {len(first)}; give more.")
