"""The numbers of a record as plain rows: heads side by side, their differences, each run. Torch-free."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fullrank.record import Record, RunEntry, Score
from fullrank.record.comparisons import by_row, compare_heads, grouped, mean_of, references
from fullrank.record.scores import CLASS_ACCURACY
from fullrank.reports.denominators import standard_error, within_noise
from fullrank.reports.run.rows import row_names
from fullrank.statistics import Estimate

# A page lists the scores of each class of at most so many.
MOST_CLASSES = 60


@dataclass(frozen=True)
class HeadRow:
    """One row of the results table; accuracies are points, 0 to 100, means over `seeds`.

    `head` is its name on the page: the settings in which rows differ. `row` is its full name, and `against`
    that of the row to which it has its `difference`: the first one with the same test images.
    `tested` is the number of test images, None where the record does not say it or the seeds differ in it.
    """

    head: str
    seeds: tuple[int, ...]
    linear: Estimate | None
    linear_z: Estimate | None
    nearest: Estimate | None
    difference: Estimate | None
    effective_rank: float | None
    published: float | None
    row: str = ""
    against: str = ""
    tested: int | None = None

    def error(self, accuracy: Estimate | None) -> float | None:
        """The binomial standard error in points of one of its accuracies."""
        if accuracy is None or self.tested is None:
            return None
        return standard_error(accuracy.mean, self.tested)

    def noise(self, other: "HeadRow") -> float | None:
        """The difference of the two linear accuracies that the sampling of the test images explains."""
        if self.linear is None or other.linear is None or self.tested is None or other.tested is None:
            return None
        return within_noise(self.linear.mean, other.linear.mean, min(self.tested, other.tested))

    def side(self, first: "HeadRow") -> Literal["above", "below", "level"]:
        """Where it lies of `first`, as far as its interval separates them, or else the sampling error."""
        gap = self.difference
        if gap is None:
            return "level"
        noise = self.noise(first)
        beyond = gap.low is None and noise is not None and abs(gap.mean) > noise
        if not (gap.separated or beyond):
            return "level"
        return "above" if gap.mean > 0 else "below"


@dataclass(frozen=True)
class ScoreRow:
    """One kind of score of one head, mean over its seeds, in the measure's own unit."""

    head: str
    place: str
    label: str
    split: str
    features: str
    shots: int | None
    measure: str
    value: Estimate
    seeds: int


def head_table(record: Record, place: str = "h") -> list[HeadRow]:
    """The results table, in the record's order.

    Each row is compared with the first row that has the same test images.
    """
    runs = by_row(record.runs)
    first, names = references(record.runs, record.recipe), row_names(record.runs)
    recorded = [each for each in record.comparisons if each.place == place]
    differences = {
        each.head: Estimate(each.difference, each.low, each.high)
        for each in recorded or compare_heads(record.runs, place, record.recipe)
        if each.against == first.get(each.head)
    }
    published = record.published.values if record.published else {}
    return [
        HeadRow(
            head=names.short(row),
            seeds=tuple(entry.seed for entry in entries),
            linear=accuracy(entries, place, "linear"),
            linear_z=accuracy(entries, "z", "linear"),
            nearest=accuracy(entries, place, "nearest"),
            difference=differences.get(row),
            effective_rank=_mean_rank(entries, place),
            published=published.get(row),
            row=row,
            against=first[row],
            tested=_tested(entries),
        )
        for row, entries in runs.items()
    ]


def accuracy(entries: Iterable[RunEntry], place: str, probe: str) -> Estimate | None:
    """Mean accuracy in points of the `linear` or `nearest` probe at `place`; None where there is none."""
    return mean_of([100 * getattr(entry.probes[place], probe) for entry in entries if place in entry.probes])


def probed_places(record: Record) -> list[str]:
    """Every place with a probe, in the order of `by_depth`."""
    return by_depth(list(dict.fromkeys(place for run in record.runs for place in run.probes)))


def by_depth(places: Sequence[str]) -> list[str]:
    """Layers of the encoder as they come, then h, the head's layers and z, each followed by its slices."""
    layers = list(dict.fromkeys(base_place(place) for place in places))

    def depth(place: str) -> tuple[int, int, bool, int]:
        base = base_place(place)
        layer = re.fullmatch(r"head\.(\d+)", base)
        stage = {"h": 1, "z": 3}.get(base, 2 if layer else 0)
        return stage, int(layer[1]) if layer else layers.index(base), place != base, places.index(place)

    return sorted(places, key=depth)


def base_place(place: str) -> str:
    """The place without its slice: `h` for `h[:24]`."""
    return place.partition("[")[0]


def score_rows(record: Record) -> list[ScoreRow]:
    """Every score of the record, mean over the seeds of a head; without those of `unlisted_classes`."""
    short = unlisted_classes(record) > 0
    kinds = grouped(
        ((head, one.place, one.label, one.split, one.features, one.shots, one.measure), one.value)
        for head, one in scores_by_head(record)
        if not (short and one.kind.by_class and one.subject)
    )
    return [ScoreRow(*kind, Estimate.of(values), len(values)) for kind, values in kinds.items()]


def unlisted_classes(record: Record) -> int:
    """The number of classes whose own scores a page leaves out, because they are more than 60; else 0."""
    classes = {one.subject for run in record.runs for one in run.scores if one.statistic == CLASS_ACCURACY}
    return len(classes) if len(classes) > MOST_CLASSES else 0


def scores_by_head(record: Record) -> Iterator[tuple[str, Score]]:
    """Every score with its head, those of one head together."""
    for head, entries in by_row(record.runs).items():
        yield from ((head, score) for entry in entries for score in entry.scores)


def _tested(entries: Iterable[RunEntry]) -> int | None:
    counts = {None if entry.images is None else entry.images.test for entry in entries}
    return next(iter(counts)) if len(counts) == 1 else None


def _mean_rank(entries: Iterable[RunEntry], place: str) -> float | None:
    ranks = [entry.spectrum[place].effective_rank for entry in entries if place in entry.spectrum]
    return float(np.mean(ranks)) if ranks else None
