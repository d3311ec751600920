"""The numbers of a record as plain rows: heads side by side, their differences, each run. Torch-free."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from fullrank.record import Comparison, Record, RunEntry

# `scipy.special` and not `scipy.stats`: a tenth of a second against one, for the same quantile.


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % t interval; `low` and `high` are None for fewer than two seeds.

    >>> Estimate.of([94.0, 95.0, 96.0])
    Estimate(mean=95.0, low=92.51586..., high=97.48413...)
    >>> Estimate.of([94.0])
    Estimate(mean=94.0, low=None, high=None)
    """

    mean: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Mean +- t(0.975, n-1) s / sqrt(n) of n values, n at least 1."""
        mean, count = float(np.mean(values)), len(values)
        if count < 2:
            return cls(mean)
        half = float(stdtrit(count - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(count))
        return cls(mean, mean - half, mean + half)

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def separated(self) -> bool:
        """Whether there is an interval and it excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class HeadRow:
    """One head of the results table; accuracies are points, 0 to 100, means over `seeds`.

    `linear`, `nearest`, `difference` and `effective_rank` are at the place the table was asked for.
    `difference` is against the first head, paired over the seeds both have; None for the first head itself.
    A number nobody measured is None.
    """

    head: str
    seeds: tuple[int, ...]
    linear: Estimate | None
    linear_z: Estimate | None
    nearest: Estimate | None
    difference: Estimate | None
    effective_rank: float | None
    published: float | None


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
    """The results table: one row a head, in the record's order, the first being the one compared against.

    >>> from fullrank.record import Machine
    >>> machine = Machine(processor="cpu", threads=2, device="cpu", python="3.12", torch="2.15")
    >>> empty = Record(kind="study", fullrank="0", created="", machine=machine, recipe={}, runs=[])
    >>> head_table(empty)
    []
    """
    runs = by_head(record.runs)
    given = [comparison for comparison in record.comparisons if comparison.place == place]
    differences = {
        comparison.head: Estimate(comparison.difference, comparison.low, comparison.high)
        for comparison in given or compare_heads(record.runs, place)
        if comparison.against == next(iter(runs), None)
    }
    published = record.published.values if record.published else {}
    rows = []
    for head, entries in runs.items():
        ranks = [entry.spectrum[place].effective_rank for entry in entries if place in entry.spectrum]
        rows.append(
            HeadRow(
                head=head,
                seeds=tuple(entry.seed for entry in entries),
                linear=accuracy(entries, place, "linear"),
                linear_z=accuracy(entries, "z", "linear"),
                nearest=accuracy(entries, place, "nearest"),
                difference=differences.get(head),
                effective_rank=float(np.mean(ranks)) if ranks else None,
                published=published.get(head),
            )
        )
    return rows


def compare_heads(runs: Sequence[RunEntry], place: str = "h") -> list[Comparison]:
    """Each head against the first: linear accuracy at `place`, paired over the seeds both heads have.

    The interval is that of a paired t test. A head that shares no seed with the first is left out.
    """
    heads = by_head(runs)
    if not heads:
        return []
    first = next(iter(heads))
    base = {run.seed: run.probes[place].linear for run in heads[first] if place in run.probes}
    comparisons = []
    for head, entries in heads.items():
        paired = [
            100 * (run.probes[place].linear - base[run.seed])
            for run in entries
            if place in run.probes and run.seed in base
        ]
        if head != first and paired:
            estimate = Estimate.of(paired)
            comparisons.append(
                Comparison(
                    head=head,
                    against=first,
                    place=place,
                    difference=estimate.mean,
                    low=estimate.low,
                    high=estimate.high,
                )
            )
    return comparisons


def accuracy(entries: Iterable[RunEntry], place: str, probe: str) -> Estimate | None:
    """Mean accuracy in points of the `linear` or `nearest` probe at `place`; None where there is none."""
    values = [100 * getattr(entry.probes[place], probe) for entry in entries if place in entry.probes]
    return Estimate.of(values) if values else None


def by_head(runs: Iterable[RunEntry]) -> dict[str, list[RunEntry]]:
    """The runs of each head, heads in the order in which they first appear."""
    heads: dict[str, list[RunEntry]] = {}
    for run in runs:
        heads.setdefault(run.head, []).append(run)
    return heads


def probed_places(record: Record) -> list[str]:
    """Every place with a probe, in the order of `by_depth`."""
    return by_depth(list(dict.fromkeys(place for run in record.runs for place in run.probes)))


def by_depth(places: Sequence[str]) -> list[str]:
    """Places from the image towards the loss; a slice such as `h[:24]` follows its place.

    Encoder layers keep their order and stand before h, then the head's layers, then z.

    >>> by_depth(["z", "head.1", "h", "h[:24]", "stem"])
    ['stem', 'h', 'h[:24]', 'head.1', 'z']
    """
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
    """Every score of the record, mean over the seeds of a head."""
    rows = []
    for head, entries in by_head(record.runs).items():
        kinds: dict[tuple[str, str, str, str, int | None, str], list[float]] = {}
        for score in (score for entry in entries for score in entry.scores):
            key = score.place, score.label, score.split, score.features, score.shots, score.measure
            kinds.setdefault(key, []).append(score.value)
        rows += [ScoreRow(head, *key, Estimate.of(values), len(values)) for key, values in kinds.items()]
    return rows


def effective_dimension(singular_values: Sequence[float]) -> int:
    """How many singular values stand above float64 noise, as numpy.linalg.matrix_rank counts them.

    >>> effective_dimension([1.0, 0.5, 1e-20, 0.0])
    2
    """
    return int(above_noise(np.asarray(singular_values, dtype=np.float64)).sum())


def above_noise(values: np.ndarray) -> np.ndarray:
    """Mask of the values along the last axis above max * D * eps, finite: not numerically zero."""
    finite = np.where(np.isfinite(values), values, 0.0)
    limit = finite.max(axis=-1, keepdims=True, initial=0.0) * values.shape[-1] * np.finfo(np.float64).eps
    mask: np.ndarray = finite > np.maximum(limit, 0.0)
    return mask


def in_points(value: float | None) -> str:
    """A number with one decimal and a real minus sign; an en dash where there is none.

    >>> in_points(-0.04), in_points(None)
    ('0.0', '–')
    """
    if value is None or not np.isfinite(value):
        return "–"
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "−")


def signed(value: float | None) -> str:
    """As `in_points`, with a plus sign before what is above zero.

    >>> signed(2.94), signed(-2.94), signed(0.01)
    ('+2.9', '−2.9', '0.0')
    """
    text = in_points(value)
    return f"+{text}" if value is not None and text not in ("–", "0.0") and value > 0 else text
