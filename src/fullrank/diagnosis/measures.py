"""The measures that a diagnosis tells at each place, by their papers' names."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import Moments
from fullrank.record import Measure, Spectrum
from fullrank.spectrum.functional import (
    alpha_req_of,
    effective_rank_of,
    largest_gap_of,
    live_dimensions_of,
    nesum_of,
    participation_ratio_of,
    rankme_of,
    stable_rank_of,
)
from fullrank.spectrum.geometry import alignment, mean_cosine, uniformity
from fullrank.spectrum.neighbours import hubness, near_duplicates

# Rows of the sample on which measures are taken that compare rows with each other.
SAMPLE = 4096


@dataclass(frozen=True)
class Seen:
    """What is known of a place: the moments of all rows, a sample (n, D) of them, two views if there are.

    `duplicates` is the share of near duplicates among all rows; None takes that of the sample.
    """

    place: str
    moments: Moments
    sample: Tensor
    views: tuple[Tensor, Tensor] | None = None
    duplicates: float | None = None


def spectrum_of(seen: Seen) -> Spectrum:
    """The spectrum as a record holds it: singular values of the centred covariance, and effective rank."""
    values = seen.moments.singular_values()
    return Spectrum(singular_values=values.tolist(), effective_rank=effective_rank_of(values))


def measures_of(seen: Seen, seed: int = 0) -> list[Measure]:
    """Every measure at a place: ranks and variances from the moments of all rows, others from the sample.

    Where a measure is not defined, as alpha-ReQ on two values, its value is None. Ranks are comparable within
    one method only. Alignment and uniformity are taken on the views, where there are some.

    >>> import torch
    >>> x = torch.randn(100, 8)
    >>> found = measures_of(Seen("h", Moments.of(x), x))
    >>> [measure.name for measure in found][:3]
    ['effective_rank', 'rankme', 'participation_ratio']
    """
    values = seen.moments.singular_values()
    rows = seen.moments.matrix_singular_values()
    sample, duplicates = seen.sample, seen.duplicates
    count = seen.moments.count
    spread = seen.moments.scatter.diagonal()
    measured: dict[str, Callable[[], float]] = {
        "effective_rank": lambda: effective_rank_of(values),
        "rankme": lambda: rankme_of(rows),
        "participation_ratio": lambda: participation_ratio_of(values),
        "stable_rank": lambda: stable_rank_of(rows),
        "nesum": lambda: nesum_of(values),
        "alpha_req": lambda: alpha_req_of(values, rows=count).alpha,
        "live_dimensions": lambda: float(live_dimensions_of(values, rows=count)),
        "dimensions_above_largest_gap": lambda: float(largest_gap_of(values, rows=count).index),
        "largest_gap": lambda: largest_gap_of(values, rows=count).ratio,
        "mean_cosine": lambda: mean_cosine(sample),
        "hubness": lambda: hubness(sample, seed=seed),
        "near_duplicates": lambda: near_duplicates(sample, seed=seed) if duplicates is None else duplicates,
        "largest_variance_share": lambda: float(spread.max() / spread.sum()),
    }
    if (views := seen.views) is not None:
        measured["alignment"] = lambda: alignment(*views)
        measured["uniformity"] = lambda: uniformity(sample, seed=seed)
    return [Measure(place=seen.place, name=name, value=_or_none(get)) for name, get in measured.items()]


def _or_none(get: Callable[[], float]) -> float | None:
    try:
        value = get()
    except (DataError, UsageError):
        return None
    return value if math.isfinite(value) else None
