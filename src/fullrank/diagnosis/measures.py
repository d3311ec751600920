"""The measures of a diagnosis at each place, by their papers' names."""

import math
from collections.abc import Callable

from fullrank.diagnosis.evidence import PlaceEvidence
from fullrank.errors import DataError, UsageError
from fullrank.linalg import row_coordinates
from fullrank.record import Measure
from fullrank.spectrum.corrected import corrected_participation_ratio_of
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
from fullrank.spectrum.sampling import effective_rank_error
from fullrank.statistics import NORMAL_95


def measures_of(place: PlaceEvidence, duplicates: float | None = None, seed: int = 0) -> list[Measure]:
    """Every measure at a place. Ranks and variances use the moments of all rows, others use its features."""
    moments = place.moments
    values, rows = moments.singular_values(), moments.matrix_singular_values()
    features, count = row_coordinates(place.features), moments.count
    spread = moments.variances
    measured: dict[str, Callable[[], float]] = {
        "effective_rank": lambda: effective_rank_of(values),
        "rankme": lambda: rankme_of(rows),
        "participation_ratio": lambda: participation_ratio_of(values),
        "corrected_participation_ratio": lambda: corrected_participation_ratio_of(values, rows=count),
        "stable_rank": lambda: stable_rank_of(rows),
        "nesum": lambda: nesum_of(values),
        "alpha_req": lambda: alpha_req_of(values, rows=count).alpha,
        "live_dimensions": lambda: float(live_dimensions_of(values, rows=count)),
        "dimensions_above_largest_gap": lambda: float(largest_gap_of(values, rows=count).index),
        "largest_gap": lambda: largest_gap_of(values, rows=count).ratio,
        "mean_cosine": lambda: mean_cosine(features),
        "hubness": lambda: hubness(features, seed=seed),
        "near_duplicates": lambda: near_duplicates(features, seed=seed) if duplicates is None else duplicates,
        "largest_variance_share": lambda: float(spread.max() / spread.sum()),
    }
    if (views := place.views) is not None:
        measured["alignment"] = lambda: alignment(*views)
        measured["uniformity"] = lambda: uniformity(features, seed=seed)
    measures = [Measure(place=place.place, name=name, value=_or_none(get)) for name, get in measured.items()]
    return [
        _with_interval(measures[0], effective_rank_error(features, max(count, len(features)))),
        *measures[1:],
    ]


def _with_interval(measure: Measure, error: float) -> Measure:
    """The measure with its 95 % interval of plus and minus 1.96 standard errors."""
    if measure.value is None:
        return measure
    ends = {"low": measure.value - NORMAL_95 * error, "high": measure.value + NORMAL_95 * error}
    return measure.model_copy(update={**ends, "how": "95 % interval by the infinitesimal jackknife"})


def _or_none(get: Callable[[], float]) -> float | None:
    try:
        value = get()
    except (DataError, UsageError):
        return None  # not defined, such as alpha-ReQ on two values
    return value if math.isfinite(value) else None
