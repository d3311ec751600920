"""Two places side by side on the same rows: the numbers of the record, and what a verdict needs besides."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fullrank.diagnosis.against import unlike_rows
from fullrank.linalg import row_coordinates
from fullrank.record import DiagnosisEntry, Finding, Measure, MeasureChange, PlacePair
from fullrank.record.measures import counts_directions
from fullrank.spectrum.similarity import JointMoments, Overlap, joint_moments, neighbour_overlap
from fullrank.statistics import NORMAL_95

_BLOCK = 1024  # rows


@dataclass(frozen=True, eq=False)
class PlaceBeside:
    """The features of two targets at a place of each.

    Attributes:
        at: The name of the place.
        against: The name of the other target's place.
        pair: The numbers of the record. None where rows are not matched.
        moments: The joint moments of all matched rows, the first set that of the other target. None where
            rows are not matched. Where there are more channels than rows, those of `row_coordinates`.
        now: Features of a sample of rows of this target, (n, D).
        before: Features of the other target, (m, E); of the same rows where these are matched.
        labels: The label of each row of `now`, (n,), -1 for none. None without labels.
        labels_before: The label of each row of `before`, (m,), in the same numbers.
        classes: The name of each label, if labels are words.
    """

    at: str
    against: str
    pair: PlacePair | None
    moments: JointMoments | None
    now: Tensor
    before: Tensor
    labels: np.ndarray | None = None
    labels_before: np.ndarray | None = None
    classes: tuple[str, ...] = ()


def place_beside(
    now: Tensor,
    before: Tensor,
    place: str,
    against: str,
    *,
    labels: np.ndarray | None = None,
    classes: Sequence[str] = (),
    seed: int = 0,
) -> PlaceBeside:
    """Features of two targets on the same rows, all in memory.

    Args:
        now: Features (N, D) of this target.
        before: Features (N, E) of the other target, on the same rows.
        place: The name of the place of `now`.
        against: The name of the place of `before`.
        labels: The label of each row, (N,), -1 for none.
        classes: The name of each label.
        seed: The seed of the sample whose neighbours are compared.
    """
    sides = row_coordinates(before), row_coordinates(now)
    moments, overlap = joint_moments([sides]), neighbour_overlap(*sides, seed=seed)
    pair = pair_of(moments, overlap, place, against, (now, before))
    return PlaceBeside(place, against, pair, moments, now, before, labels, labels, tuple(classes))


def pair_of(
    moments: JointMoments, overlap: Overlap, place: str, against: str, sides: tuple[Tensor, Tensor]
) -> PlacePair:
    """The numbers of the record, from the joint moments of the other target and this one.

    Args:
        moments: The joint moments. If there are more channels than rows, those of `row_coordinates`.
        overlap: The overlap of nearest neighbours.
        place: The name of the place of this target.
        against: The name of the place of the other target.
        sides: Features (n, D) of this target and (n, E) of the other one. If there are more channels than
            rows, those of the moments.
    """
    half = NORMAL_95 * overlap.error
    widths = (sides[0].shape[1], sides[1].shape[1])
    # Of coordinates in two bases of the rows only lengths and angles mean something.
    channels = widths[0] == widths[1] == len(moments.first.origin)
    return PlacePair(
        place=place,
        against=against,
        rows=moments.count,
        widths=widths,
        cka=_number(moments.cka),
        overlap=overlap.mean,
        overlap_low=max(overlap.mean - half, 0.0),
        overlap_high=min(overlap.mean + half, 1.0),
        by_chance=overlap.by_chance,
        neighbours=overlap.neighbours,
        compared=len(overlap.shares),
        angles=torch.rad2deg(moments.angles()).tolist(),
        distance=_number(moments.distance if channels else _distance(*sides)),
        rotated_distance=_number(moments.rotated_distance),
        kept=_number(moments.kept.total),
        added=_number(1 - moments.added.total),
    )


def _distance(now: Tensor, before: Tensor) -> float | None:
    """`JointMoments.distance` from the rows themselves."""
    if now.shape[1] != before.shape[1]:
        return None
    mean, apart, spread = before.mean(0, dtype=torch.float64), 0.0, 0.0
    for x, y in zip(torch.split(now, _BLOCK), torch.split(before, _BLOCK), strict=True):
        apart += float((x.double() - y).square().sum())
        spread += float((y - mean).square().sum())
    return math.sqrt(apart / spread) if spread > 0 else None


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def measure_changes(
    now: DiagnosisEntry, before: DiagnosisEntry, places: Sequence[tuple[str, str]] = (("embedding",) * 2,)
) -> tuple[list[MeasureChange], list[str]]:
    """Each measure of both at each pair of places, and a sentence on those that cannot be compared.

    Ranks of very unlike numbers of rows, or of unlike widths, are left out. A change is `apart` where both
    have an interval and these do not overlap.

    Args:
        now: The diagnosis of this target.
        before: That of the other target.
        places: The places of this target, each with that of the other target beside it.
    """
    values = {(one.place, one.name): one for one in before.measures}
    rows = unlike_rows(now, before, now.target, before.target)
    limits = [rows] if rows else []
    changes = []
    for place, against in places:
        widths = [len(one.spectrum[at].singular_values) for one, at in ((now, place), (before, against))]
        if widths[0] != widths[1]:
            limits.append(f"Ranks at {place}: its width is {widths[0]}, that of the other is {widths[1]}.")
        ranks = rows is None and widths[0] == widths[1]
        for one in now.measures:
            other = values.get((against, one.name))
            if one.place == place and other is not None and (ranks or not counts_directions(one.name)):
                changes.append(_change(one, other))
    return changes, limits


def _change(now: Measure, before: Measure) -> MeasureChange:
    return MeasureChange(
        place=now.place,
        against=before.place,
        name=now.name,
        now=now.value,
        before=before.value,
        now_low=now.low,
        now_high=now.high,
        before_low=before.low,
        before_high=before.high,
        apart=_apart(now, before),
    )


def _apart(now: Measure, before: Measure) -> bool:
    """Whether both have an interval and these do not overlap."""
    if now.low is None or now.high is None or before.low is None or before.high is None:
        return False
    return now.high < before.low or before.high < now.low


def new_alarms(
    now: DiagnosisEntry, before: DiagnosisEntry, places: Sequence[tuple[str, str]] = (("embedding",) * 2,)
) -> list[Finding]:
    """The alarms that this target has, and that the other does not have at the place beside it."""
    beside = dict(places)
    known = {(finding.cause, finding.place) for finding in before.findings if finding.level == "alarm"}
    alarms = [finding for finding in now.findings if finding.level == "alarm" and finding.place in beside]
    return [alarm for alarm in alarms if (alarm.cause, beside[alarm.place]) not in known]
