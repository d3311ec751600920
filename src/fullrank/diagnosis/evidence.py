"""The evidence of a diagnosis: features at places, views of the same images, stacked linear maps."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fullrank.diagnosis.dominant import Dominant, dominant_of
from fullrank.diagnosis.norms import NormShift
from fullrank.diagnosis.rows import RowSurvey, survey_features
from fullrank.diagnosis.shape import LOW_RANK, Cut, LowRankLimits, Shape, Whitening, low_rank_of, shape_of
from fullrank.diagnosis.tokens import TokenNorms
from fullrank.errors import DataError, UsageError, unknown_name
from fullrank.linalg import Gram, Moments, second_moments
from fullrank.objectives.contract import Unguarded
from fullrank.places import is_of_head
from fullrank.record import ProbedAgain

Pair = tuple[Tensor, Tensor]
"""Features (n, D) of two views of the same images."""


@dataclass(frozen=True)
class PlaceEvidence:
    """Features at one place, read in eval mode.

    Args:
        place: The name of the place.
        features: Features (N, D) of clean images.
        views: Features (n, D) of two views of the same n images, if known.
        operations: By operation, the same views of the first m images with all other operations off; m is at
            most n.
        imposed_rank: The rank that a fixed head imposes here, such as 24 for the z of `subvector:24`. It is
            never a finding.
        left_out: The numbers of the images whose rows `without` has removed.
        sample_of: The number of rows that the features are a sample of. None if they are all rows.
        numbers: Where the features are a sample, the number of each row among all rows, (N,).
        all_moments: Where the features are a sample, the moments of all rows.
        smallest: Where the features are a sample, the smallest value of all rows.

    Raises:
        UsageError: For shapes that do not fit.
        DataError: For features that are not finite.

    >>> PlaceEvidence("h", torch.randn(10, 4)).features.shape
    torch.Size([10, 4])
    """

    place: str
    features: Tensor
    views: Pair | None = None
    operations: dict[str, Pair] = field(default_factory=dict)
    imposed_rank: int | None = None
    left_out: tuple[int, ...] = ()
    sample_of: int | None = None
    numbers: Tensor | None = None
    all_moments: Moments | Gram | None = None
    smallest: float | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or len(self.features) < 2:
            shape = f"(N, D) with N of 2 or more, but got {tuple(self.features.shape)}"
            raise UsageError(f"Expected the features at {self.place} as {shape}; give one row per image.")
        width = self.features.shape[1]
        if self.imposed_rank is not None and not 1 <= self.imposed_rank <= width:
            limits = f"1 to {width}, the width there, but got {self.imposed_rank}"
            raise UsageError(f"imposed_rank at {self.place} must be {limits}; leave it out if there is none.")
        if self.operations and self.views is None:
            single = f"views of {len(self.operations)} single operations"
            raise UsageError(f"{self.place} has {single}, but none of all operations together; give both.")
        pairs = {} if self.views is None else {"views": self.views, **self.operations}
        for name, pair in pairs.items():
            _check_pair(self.place, name, pair, width, len(pairs["views"][0]))
        for tensor in (self.features, *(side for pair in pairs.values() for side in pair)):
            bad = ~torch.isfinite(tensor).all(1)
            if bad.any():
                rows = f"{int(bad.sum())} of {len(tensor)} rows, the first row {int(bad.nonzero()[0])}"
                where = f"The features at {self.place} have NaN or infinity in {rows}"
                raise DataError(f"{where}; drop those rows or fix the model.")

    @cached_property
    def shape(self) -> Shape:
        """The measurements that causes need, computed once."""
        smallest = float(self.features.min()) if self.smallest is None else self.smallest
        return shape_of(self.moments, smallest)

    @cached_property
    def dominant(self) -> Dominant:
        """The few channels or the direction with the most variance, computed once."""
        return dominant_of(self.features, self.moments, self.shape)

    @cached_property
    def survey(self) -> RowSurvey:
        """The zero rows and equal rows of the features, by their numbers in the source, computed once."""
        return survey_features(self.features, np.asarray(self.images))

    @cached_property
    def whitening(self) -> Whitening:
        """The map onto the leading components of the features, computed once."""
        return Whitening.of(self.features)

    @cached_property
    def moments(self) -> Moments | Gram:
        """The second moments of all rows, computed once."""
        return second_moments(self.features) if self.all_moments is None else self.all_moments

    @property
    def images(self) -> list[int]:
        """For each row of the features the number of its image, counted with those left out."""
        omitted = set(self.left_out)
        total = len(self.features) + len(omitted)
        numbers = range(total) if self.numbers is None else self.numbers.tolist()
        return [number for number in numbers if number not in omitted]

    def without_zero_rows(self) -> "PlaceEvidence":
        """The same place without its zero rows, or itself if they are more than 75 % of the rows."""
        zero = set(self.survey.left_out.tolist())
        return self.without([row for row, number in enumerate(self.images) if number in zero] if zero else [])

    def without(self, rows: Collection[int]) -> "PlaceEvidence":
        """The same place without these rows of its features. Its views stay, because they are other rows.

        Args:
            rows: The numbers of the rows.

        Raises:
            UsageError: For a row that does not exist, or if fewer than 2 rows would remain.

        >>> place = PlaceEvidence("h", torch.randn(5, 4)).without([1, 3])
        >>> place.features.shape, place.images
        (torch.Size([3, 4]), [0, 2, 4])
        """
        count = len(self.features)
        outside = [row for row in rows if not 0 <= row < count]
        if outside:
            limits = f"{self.place} has rows 0 to {count - 1}"
            raise UsageError(f"{limits}, but row {outside[0]} was to be left out; name rows of the features.")
        if not rows:
            return self
        stays = torch.ones(count, dtype=torch.bool)
        stays[list(rows)] = False
        images = self.images
        return replace(
            self,
            features=self.features[stays.to(self.features.device)],
            left_out=tuple(sorted({*self.left_out, *(images[row] for row in rows)})),
            all_moments=None,
            smallest=None,
        )


@dataclass(frozen=True)
class Evidence:
    """Everything known of one model: places from the image to z, stacked maps, the loss, the labels.

    Args:
        places: The features at each place, from the image to z.
        stacked: Consecutive linear maps W1 (m, D), W2 (K, m), ..., the one applied first comes first. Nothing
            but linear maps may lie between them, and they lead to the last place.
        temperature: The temperature of a cosine loss on z. None means unknown; 0.1 is then assumed.
        limits: Which drop of a spectrum makes a rank low.
        seed: The seed of everything random, such as a bootstrap.
        labels: The label of each image, (N,), -1 for none, counted with the rows that a place leaves out.
        supervised: Whether the loss uses labels. None means unknown.
        trained: Whether the weights were trained. What would be an alarm is a note otherwise.
        survey: Zero rows and equal rows of the whole file, or equal pixels of all images.
        norms: Batch norms, compared with their input, in the order of the encoder.
        tokens: The norms of patch tokens, by place.
        probed_again: Accuracies after one change, beside the plain ones.
        unguarded: What keeps the objective from collapse and is switched off.

    Raises:
        UsageError: For no places, labels or maps that do not fit, or a temperature that is not above 0.
        DataError: For maps that are not finite.

    >>> len(Evidence((PlaceEvidence("z", torch.randn(10, 4)),)).places)
    1
    """

    places: tuple[PlaceEvidence, ...]
    stacked: tuple[Tensor, ...] = ()
    temperature: float | None = None
    limits: LowRankLimits = LOW_RANK
    seed: int = 0
    labels: Tensor | None = None
    supervised: bool | None = None
    trained: bool = True
    survey: RowSurvey | None = None
    norms: tuple[NormShift, ...] = ()
    tokens: tuple[TokenNorms, ...] = ()
    probed_again: tuple[ProbedAgain, ...] = ()
    unguarded: tuple[Unguarded, ...] = ()

    def __post_init__(self) -> None:
        if not self.places:
            raise UsageError(
                "A diagnosis needs the features of 1 or more places, but got 0; pass those of z."
            )
        if self.temperature is not None and not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(f"temperature must be above 0, but got {self.temperature}; None means unknown.")
        for map_ in self.stacked:
            shape = tuple(map_.shape)
            if len(shape) != 2:
                raise UsageError(f"Expected stacked maps (out, in), but got {shape}; leave out other layers.")
            if not torch.isfinite(map_).all():
                raise DataError(f"A stacked map {shape} has NaN or infinity; load weights that are finite.")
        for first, second in pairwise(self.stacked):
            if first.shape[0] != second.shape[1]:
                sizes = f"{first.shape[0]} outputs is followed by one with {second.shape[1]} inputs"
                raise UsageError(f"A stacked map with {sizes}; give consecutive maps, the first one first.")

        if self.labels is not None and any(
            len(self.labels) != len(place.features) + len(place.left_out) for place in self.places
        ):
            counts = sorted({len(place.features) + len(place.left_out) for place in self.places})
            raise UsageError(
                f"There are {len(self.labels)} labels for places of {counts[0]} to {counts[-1]} rows; give "
                "one label per row, -1 for none."
            )

    def labels_at(self, place: PlaceEvidence) -> Tensor | None:
        """The labels of the rows of the features at `place`, without those that are left out."""
        if self.labels is None or not place.left_out:
            return self.labels
        omitted = set(place.left_out)
        every = range(len(self.labels)) if place.numbers is None else place.numbers.tolist()
        stays = [row for row, number in enumerate(every) if number not in omitted]
        return self.labels[stays]

    def survey_at(self, place: PlaceEvidence) -> RowSurvey:
        """Zero and equal rows at `place`: those of the whole file if `survey` is of rows, else its own."""
        whole = self.survey is not None and self.survey.of == "rows" and place.place == self.places[0].place
        return self.survey if self.survey is not None and whole else place.survey

    def again(self, change: str) -> list[ProbedAgain]:
        """The accuracies after this change."""
        return [each for each in self.probed_again if each.change == change]

    def before(self, place: PlaceEvidence) -> tuple[PlaceEvidence, ...]:
        """The places before `place`, the nearest first."""
        return self.places[: self._index(place)][::-1]

    def is_last(self, place: PlaceEvidence) -> bool:
        """Whether nothing comes after `place`, so that the loss sees it."""
        return self._index(place) == len(self.places) - 1

    @property
    def end_of_encoder(self) -> int:
        """The index of h, else of the last place that is not in a head, else of the last place."""
        names = [place.place for place in self.places]
        of_encoder = [index for index, name in enumerate(names) if not is_of_head(name)]
        return names.index("h") if "h" in names else (of_encoder or [len(names) - 1])[-1]

    def cut(self, place: PlaceEvidence) -> Cut | None:
        """Where the spectrum at `place` drops sharply within the `limits`, or None.

        >>> x = torch.randn(500, 4) @ torch.randn(4, 16)
        >>> evidence = Evidence((PlaceEvidence("z", x),))
        >>> evidence.cut(evidence.places[0]).rank
        4
        """
        return low_rank_of(place.shape.eigenvalues, self.limits, place.imposed_rank, place.shape.rows)

    def lacks(self, needs: Sequence[str], place: PlaceEvidence) -> list[str]:
        """Those of `needs` that are missing at `place`.

        `views` exist if `place` or an earlier one has views. `stacked` exists if there are two or more maps.

        Args:
            needs: The names of the evidence, `views` or `stacked`.
            place: The place.

        Raises:
            UsageError: For any other name.

        >>> evidence = Evidence((PlaceEvidence("z", torch.randn(10, 4)),))
        >>> evidence.lacks(("views", "stacked"), evidence.places[0])
        ['views', 'stacked']
        """
        present = {
            "views": any(other.views is not None for other in (place, *self.before(place))),
            "stacked": len(self.stacked) > 1,
        }
        for need in needs:
            if need not in present:
                raise unknown_name("evidence", need, present, f"a cause may need {' or '.join(present)}")
        return [need for need in needs if not present[need]]

    def without(self, place: PlaceEvidence, rows: Collection[int]) -> "Evidence":
        """The same evidence without these rows of the features at `place`."""
        index = self._index(place)
        changed = self.places[index].without(rows)
        return replace(self, places=(*self.places[:index], changed, *self.places[index + 1 :]))

    def _index(self, place: PlaceEvidence) -> int:
        index = next((i for i, other in enumerate(self.places) if other is place), None)
        if index is None:
            raise UsageError(f"{place.place} is not in this evidence; use one of its places.")
        return index


def on_same_images(first: PlaceEvidence, second: PlaceEvidence) -> tuple[PlaceEvidence, PlaceEvidence]:
    """Two places without the rows that either leaves out, so that both hold the same images."""
    totals = [len(place.features) + len(place.left_out) for place in (first, second)]
    if totals[0] != totals[1]:
        counts = f"{first.place} has features of {totals[0]} images and {second.place} of {totals[1]}"
        raise UsageError(f"{counts}; give the same images at every place.")
    omitted = {*first.left_out, *second.left_out}

    def shared(place: PlaceEvidence) -> PlaceEvidence:
        return place.without([row for row, image in enumerate(place.images) if image in omitted])

    return shared(first), shared(second)


def _check_pair(place: str, name: str, pair: Pair, width: int, most: int) -> None:
    first, second = (tuple(side.shape) for side in pair)
    if first != second or len(first) != 2 or first[1] != width or not 2 <= first[0] <= most:
        raise UsageError(
            f"Expected {name} at {place} as two tensors (n, {width}) of the same images, n from 2 to {most}, "
            f"but got {first} and {second}; read both in one pass."
        )
