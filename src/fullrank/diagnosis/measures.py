"""The measures of a diagnosis at each place, by their papers' names."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fullrank.diagnosis.evidence import PlaceEvidence
from fullrank.errors import DataError, UsageError, count_of
from fullrank.linalg import row_coordinates
from fullrank.record import Measure
from fullrank.spectrum.corrected import corrected_participation_ratio_of
from fullrank.spectrum.discriminant import lidar
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
from fullrank.spectrum.intrinsic import IntrinsicDimension, gride, two_nn
from fullrank.spectrum.isotropy import GaussianDistance, gaussian_distance, isotropy_distance
from fullrank.spectrum.neighbours import hubness, near_duplicates
from fullrank.spectrum.sampling import effective_rank_error
from fullrank.statistics import NORMAL_95

# How many rows the intrinsic dimension compares with each other: it is measured at every place.
_COMPARED = 2048
# The last rank of the usual window of alpha-ReQ, and the published delta of LiDAR.
_LAST_RANK, _DELTA = 50, 1e-4


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
        *_with_settings(place, seed),
    ]


def _with_settings(place: PlaceEvidence, seed: int) -> list[Measure]:
    """The measures whose value depends on settings, with these; where one has no value, why not."""
    features = row_coordinates(place.features)
    measured: dict[str, Callable[[], tuple[float, str]]] = {
        "alpha_req": lambda: _alpha(place),
        "intrinsic_dimension_two_nn": lambda: _dimension(two_nn(features, sample=_COMPARED, seed=seed)),
        "intrinsic_dimension_gride": lambda: _dimension(gride(features, sample=_COMPARED, seed=seed)),
        # Of the features as they are: in coordinates of their rows they would have fewer channels.
        "gaussian_excess": lambda: _excess(gaussian_distance(place.features, seed=seed)),
        "isotropy_excess": lambda: _excess(isotropy_distance(place.features, seed=seed)),
    }
    if (views := place.views) is not None:
        measured["lidar"] = lambda: _lidar(*views)
    measures = []
    for name, get in measured.items():
        try:
            value, how = get()
        except (DataError, UsageError) as error:
            measures.append(Measure(place=place.place, name=name, value=None, how=str(error)))
        else:
            measures.append(Measure(place=place.place, name=name, value=value, how=how))
    return measures


def _alpha(place: PlaceEvidence) -> tuple[float, str]:
    """alpha-ReQ with its window, and what ended the window early."""
    count, width = place.moments.count, place.features.shape[1]
    fit = alpha_req_of(place.moments.singular_values(), rows=count)
    ended = ""
    if fit.last < _LAST_RANK:
        limits = {width: f"{width} channels", count - 1: f"{count:,} rows"}
        ended = f", cut short by {limits.get(fit.last, 'values that are numerically zero')}"
    return fit.alpha, f"ranks {fit.first} to {fit.last}{ended}"


def _dimension(found: IntrinsicDimension) -> tuple[float, str]:
    """An intrinsic dimension, with its neighbours, rows and standard error."""
    left_out = f", without {count_of(found.equal, 'equal row')}" if found.equal else ""
    sample = f"neighbours {found.near} and {found.far} of {found.rows:,} rows{left_out}"
    return found.value, f"{sample}; standard error {found.standard_error:.2g}"


def _excess(distance: GaussianDistance) -> tuple[float, str]:
    """The excess of a distance from a Gaussian, with the statistic and its floor."""
    compared = f"N T = {distance.statistic:.4g} against a floor of {distance.floor:.4g}"
    return distance.excess, f"{compared}; {distance.rows:,} rows, {count_of(distance.slices, 'slice')}"


def _lidar(first: Tensor, second: Tensor) -> tuple[float, str]:
    """LiDAR of two views of each image, where there are more images than channels."""
    count, width = first.shape
    if count <= width:
        raise DataError(f"LiDAR needs more images than channels, but got n = {count} and D = {width}.")
    return lidar(torch.stack([first, second], 1), _DELTA), f"n = {count}, q = 2, delta = {_DELTA:g}"


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
