"""Rows of a study against the first one, paired over seeds. Torch-free."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from fullrank.record.schema import Comparison, RunEntry
from fullrank.statistics import Estimate

# Keys of a recipe that decide which images a run is tested on. The last two do so only if test images are
# held out of the training images, which they reduce. Probes of a run always use the labels called "label".
TESTED, REDUCED = ("data", "classes", "held_out"), ("fraction", "limit")
Tested = tuple[tuple[str, str], ...]
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def compare_heads(
    runs: Sequence[RunEntry], place: str = "h", recipe: Mapping[str, Any] | None = None
) -> list[Comparison]:
    """Each row against the first row with the same test images, paired over the seeds that both have.

    A row is a head with the values of the keys that the study varies. A difference between accuracies on
    different test images would mean nothing. The interval is that of a paired t test.

    Args:
        runs: The runs of the study, in the order of its rows.
        place: Where the linear probe reads the features.
        recipe: The settings that all runs share, as in `Record.recipe`.

    Returns:
        A comparison for each row that shares a seed with the first row on its test images. That first row
        has none.
    """
    accuracies = {
        row: {run.seed: run.probes[place].linear for run in entries if place in run.probes}
        for row, entries in by_row(runs).items()
    }
    first = references(runs, recipe or {})
    comparisons = []
    for row, values in accuracies.items():
        estimate = paired_difference(values, accuracies[first[row]], 100)
        if row != first[row] and estimate is not None:
            interval = {"difference": estimate.mean, "low": estimate.low, "high": estimate.high}
            comparisons.append(Comparison(head=row, against=first[row], place=place, **interval))
    return comparisons


def references(runs: Sequence[RunEntry], recipe: Mapping[str, Any]) -> dict[str, str]:
    """For each row of a study the first row with the same test images, which may be itself."""
    first_on: dict[Tested, str] = {}
    return {
        row: first_on.setdefault(tested_on({**recipe, **entries[0].varied}), row)
        for row, entries in by_row(runs).items()
    }


def tested_on(settings: Mapping[str, Any]) -> Tested:
    """The settings that decide which images a run is tested on, as text; those that are not set are left out.

    >>> tested_on({"data": "digits", "limit": 100, "held_out": None})
    (('data', 'digits'),)
    >>> tested_on({"data": "digits", "limit": 1e2, "held_out": "0.20"})
    (('data', 'digits'), ('held_out', '0.2'), ('limit', '100'))
    """
    values = {key: as_text(settings.get(key)) for key in (*TESTED, *REDUCED)}
    keys = TESTED if values["held_out"] == "null" else (*TESTED, *REDUCED)
    return tuple((key, values[key]) for key in keys if values[key] != "null")


def as_text(value: Any) -> str:
    """A setting as text. Equal numbers are written equally, so 3e-3 and 0.003 are one value; None is null."""
    try:
        return f"{float(value):.12g}" if not isinstance(value, bool) else str(value)
    except (TypeError, ValueError):
        return "null" if value is None else str(value)


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
