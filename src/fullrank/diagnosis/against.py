"""A diagnosis beside an earlier one of the same kind: what got worse, by the intervals of the earlier one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fullrank.errors import UsageError, count_of
from fullrank.record import (
    RECORD_FILE,
    BaselineComparison,
    Compared,
    DiagnosisEntry,
    LayerRow,
    Measure,
    Record,
)
from fullrank.statistics import binomial_interval

_RANK = "effective_rank"
# A rank grows with the number of rows, so ranks of this many times as many rows are not compared.
_MOST_ROWS = 2


@dataclass(frozen=True)
class Earlier:
    """A diagnosis to compare with: its record, its entry, when and by which version it was made."""

    path: Path
    entry: DiagnosisEntry
    created: str
    version: str


def read_baseline(path: str | Path, *, of_file: bool) -> Earlier:
    """An earlier diagnosis.

    Args:
        path: The record, or its folder.
        of_file: Whether it is to be compared with a diagnosis of a file of embeddings.

    Raises:
        UsageError: It is the record of something else, or of a model beside a file or the other way round.
        DataError: There is no readable record.
    """
    path = Path(path)
    folder = path.parent if path.name == RECORD_FILE else path
    if folder.is_file():
        raise UsageError(f"A baseline is a {RECORD_FILE} or its folder, but got {path}; give one of these.")
    record = Record.load(folder)
    if record.diagnosis is None or "monitor" in record.recipe:
        kind = "watched training" if record.diagnosis else "table" if record.table else record.kind
        raise UsageError(
            f"{path} holds a {kind}, but a baseline is a diagnosis; give the folder of an earlier "
            "`fullrank diagnose`."
        )
    if (record.diagnosis.places == ["embedding"]) != of_file:
        kinds = ("a model", "a file of embeddings") if of_file else ("a file of embeddings", "a model")
        raise UsageError(
            f"The baseline {path} is of {kinds[0]}, but this diagnosis is of {kinds[1]}; give one of "
            f"{kinds[1]}."
        )
    return Earlier(folder / RECORD_FILE, record.diagnosis, record.created, record.fullrank)


def compare_with(earlier: Earlier, entry: DiagnosisEntry) -> BaselineComparison:
    """A diagnosis beside an earlier one.

    A number is worse if it lies below the 95 % interval of the earlier one: the effective rank of a place, or
    its linear or nearest accuracy. An alarm is worse if the earlier diagnosis does not have it at that place.

    Raises:
        UsageError: The two have no place in common.
    """
    before = earlier.entry
    shared = [place for place in entry.places if place in before.places]
    if not shared:
        raise UsageError(
            f"The baseline {earlier.path} has {', '.join(before.places)}, and this diagnosis has "
            f"{', '.join(entry.places)}: no place in common; diagnose both at the same places."
        )
    limits: list[str] = []
    for name, only in (
        ("the baseline", set(before.places) - set(shared)),
        ("this diagnosis", set(entry.places) - set(shared)),
    ):
        if only:
            limits.append(f"Places that only {name} has: {', '.join(sorted(only))}.")
    numbers = [
        *_ranks(entry, before, earlier.version, shared, limits),
        *_accuracies(entry, before, shared, limits),
        *_new_alarms(entry, before),
    ]
    return BaselineComparison(
        record=str(earlier.path),
        target=before.target,
        created=earlier.created,
        numbers=numbers,
        not_compared=limits,
    )


def _ranks(
    entry: DiagnosisEntry, before: DiagnosisEntry, version: str, places: list[str], limits: list[str]
) -> Iterator[Compared]:
    """The effective rank of each place in both; adds a sentence for each that cannot be compared."""
    if limit := unlike_rows(entry, before, "this diagnosis", "the baseline"):
        limits.append(limit)
        return
    for place in places:
        old, new = (_measured(each, place) for each in (before, entry))
        widths = [len(each.spectrum[place].singular_values) for each in (before, entry)]
        if widths[0] != widths[1]:
            limits.append(f"The effective rank of {place}: its width was {widths[0]} and is {widths[1]}.")
        elif old is None or new is None or old.value is None or new.value is None:
            limits.append(f"The effective rank of {place}: one of the two has none.")
        elif old.low is None or old.high is None:
            remedy = "diagnose the baseline again"
            limits.append(f"The effective rank of {place}: fullrank {version} wrote no interval; {remedy}.")
        else:
            yield _compared(place, _RANK, (old.value, old.low, old.high), (new.value, new.low, new.high))


def unlike_rows(entry: DiagnosisEntry, before: DiagnosisEntry, this: str, other: str) -> str | None:
    """A sentence where the numbers of rows are too unlike to compare ranks, else None."""
    if 1 / _MOST_ROWS < entry.rows / before.rows < _MOST_ROWS:
        return None
    counts = f"{other} has {count_of(before.rows, 'row')}, and {this} has {entry.rows}"
    return f"Effective ranks: {counts}. A rank grows with the number of rows."


def _measured(entry: DiagnosisEntry, place: str) -> Measure | None:
    return next((one for one in entry.measures if (one.place, one.name) == (place, _RANK)), None)


def _accuracies(
    entry: DiagnosisEntry, before: DiagnosisEntry, places: list[str], limits: list[str]
) -> Iterator[Compared]:
    """Linear and nearest accuracy of each place in both, with their binomial intervals."""
    old, new = before.images, entry.images
    if old is None or new is None:
        lacking = " and ".join(
            name for name, images in (("the baseline", old), ("this diagnosis", new)) if images is None
        )
        limits.append(f"Accuracies: {lacking} has none.")
        return
    kinds = [f"{images.classes} classes of {images.label!r} on {images.split}" for images in (old, new)]
    if kinds[0] != kinds[1]:
        limits.append(f"Accuracies: the baseline probed {kinds[0]}, and this diagnosis {kinds[1]}.")
        return
    for row, now in zip(_rows(before, places), _rows(entry, places), strict=True):
        for name in ("linear", "nearest"):
            first, second = getattr(row, name, None), getattr(now, name, None)
            if row is not None and first is not None and second is not None:
                earlier = (first, *binomial_interval(first, old.test))
                yield _compared(row.place, name, earlier, (second, *binomial_interval(second, new.test)))


def _rows(entry: DiagnosisEntry, places: list[str]) -> list[LayerRow | None]:
    rows = {row.place: row for row in entry.layers}
    return [rows.get(place) for place in places]


def _compared(
    place: str,
    name: str,
    before: tuple[float, float, float],
    now: tuple[float, float | None, float | None],
) -> Compared:
    return Compared(
        place=place,
        name=name,
        now=now[0],
        now_low=now[1],
        now_high=now[2],
        before=before[0],
        low=before[1],
        high=before[2],
        worse=now[0] < before[1],
    )


def _new_alarms(entry: DiagnosisEntry, before: DiagnosisEntry) -> list[Compared]:
    known = {(finding.cause, finding.place) for finding in before.findings if finding.level == "alarm"}
    return [
        Compared(place=finding.place, name=finding.cause, now=finding.value, worse=True)
        for finding in entry.findings
        if finding.level == "alarm" and (finding.cause, finding.place) not in known
    ]
