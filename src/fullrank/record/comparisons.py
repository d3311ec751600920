"""Heads of a study against the first one, paired over seeds. Torch-free."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from fullrank.record.schema import Comparison, RunEntry
from fullrank.statistics import Estimate

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def compare_heads(runs: Sequence[RunEntry], place: str = "h") -> list[Comparison]:
    """Each head against the first: linear accuracy at `place`, paired over the seeds both heads have.

    The interval is that of a paired t test. A head that shares no seed with the first is left out.
    """
    accuracies = {
        head: {run.seed: run.probes[place].linear for run in entries if place in run.probes}
        for head, entries in by_row(runs).items()
    }
    first = next(iter(accuracies), "")
    comparisons = []
    for head, own in accuracies.items():
        estimate = paired_difference(own, accuracies[first], 100)
        if head != first and estimate is not None:
            interval = {"difference": estimate.mean, "low": estimate.low, "high": estimate.high}
            comparisons.append(Comparison(head=head, against=first, place=place, **interval))
    return comparisons


def paired_difference(
    values: Mapping[int, float], base: Mapping[int, float], scale: float = 1
) -> Estimate | None:
    """`scale` times the mean difference to `base` over the seeds that both have; None if they share none."""
    return mean_of([scale * (value - base[seed]) for seed, value in values.items() if seed in base])


def mean_of(values: Sequence[float]) -> Estimate | None:
    """The mean over seeds and its interval; None without values."""
    return Estimate.of(values) if values else None


def by_row(runs: Iterable[RunEntry]) -> dict[str, list[RunEntry]]:
    """The runs of each row of the table, rows in the order in which they first appear."""
    return grouped((run.row, run) for run in runs)


def grouped(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, list[Value]]:
    """The values of each key, keys in the order in which they first appear."""
    groups: dict[Key, list[Value]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups
