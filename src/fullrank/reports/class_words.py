"""What a table of classes says: do they differ, and by representation or classifier? Torch-free."""

from collections.abc import Iterator

from fullrank.errors import few_of
from fullrank.record.scores import Probe
from fullrank.reports.classes import PROBE_NAMES, ClassTable, ProbeRow
from fullrank.reports.numbers import decimals, in_points
from fullrank.statistics import correlation_interval

# An agreement that is below this with its whole interval is low.
_LOW = 0.5
# The largest class of a balanced test set has at most so many times the images of the smallest.
_BALANCED = 1.5


def class_sentences(table: ClassTable) -> list[str]:
    """Whether the classes differ by more than sampling, under which probes, and what the bias says."""
    rows = {row.probe: row for row in table.probes}
    linear, bound = rows.get("linear"), table.explained.get("linear")
    if linear is None or linear.spread is None or bound is None:
        return []
    spread = linear.spread.mean
    sizes = f"{in_points(spread)} points. Classes that are equally hard have up to {in_points(bound)}"
    if spread <= bound:
        return [
            f"The classes differ by no more than sampling explains: their standard deviation is {sizes}. So "
            "these images cannot tell which classes are harder."
        ]
    differ = f"The classes differ by more than sampling explains: their standard deviation is {sizes}."
    others = [row for row in table.probes if row.probe != "linear"]
    return [differ, *_whose(table, others, spread), *_bias(table, linear)]


def _whose(table: ClassTable, others: list[ProbeRow], spread: float) -> Iterator[str]:
    """Whether the same classes are hard for the other probes."""
    if len(others) < 2:
        return
    names = " and ".join(f"the {PROBE_NAMES[row.probe]}" for row in others)
    level = [
        row.spread is not None and row.spread.mean <= table.explained[row.probe] < spread for row in others
    ]
    if all(level):
        yield (
            f"Under {names} they do not differ by more than sampling explains. This points at the "
            "classifier, not at the representation."
        )
        return
    agreements = [row.agreement.mean for row in others if row.agreement is not None]
    intervals = [correlation_interval(value, len(table.rows)) for value in agreements]
    if len(agreements) < len(others) or None in intervals:
        yield f"{len(table.rows)} classes are too few to compare the order of the classes under other probes."
        return
    written = f"{' and '.join(decimals(value, 2) for value in agreements)} ({names})"
    ends = [ends for ends in intervals if ends is not None]
    if all(low > 0 for low, _ in ends):
        yield (
            f"The other probes find the same classes hard: the agreement with the linear probe is {written}. "
            "This points at the representation, not at the classifier."
        )
        yield _worst(table)
    elif all(high < _LOW for _, high in ends):
        yield (
            f"The other probes find other classes hard: the agreement with the linear probe is {written}. "
            "This points at the classifier, not at the representation."
        )
    else:
        yield (
            f"The agreement with the linear probe is {written}. {len(table.rows)} classes leave open whether "
            "the representation or the classifier makes them unequal."
        )


def _worst(table: ClassTable) -> str:
    count = table.extremes
    probes: list[Probe] = [row.probe for row in table.probes]
    shared = set.intersection(*(table.worst(probe) for probe in probes))
    names = [row.name for row in table.rows if row.name in shared]
    group = f"the {count} worst classes" if count > 1 else "the worst class"
    if not names:
        return f"No class is among {group} of all three probes."
    are = "is" if len(names) == 1 else "are"
    named = " and ".join(names) if len(names) == 2 else few_of(names)
    return f"{named} {are} among {group} of all three probes."


def _bias(table: ClassTable, linear: ProbeRow) -> Iterator[str]:
    """Whether harder classes are predicted too often."""
    if (
        linear.correlation is None
        or (ends := correlation_interval(linear.correlation.mean, len(table.rows))) is None
    ):
        return
    low, high = ends
    written = f"{decimals(linear.correlation.mean, 2)} [{decimals(low, 2)}, {decimals(high, 2)}]"
    what = f"The correlation of prediction bias and accuracy is {written}"
    if low <= 0 <= high:
        yield f"{what}, which {len(table.rows)} classes cannot tell from 0."
    else:
        yield f"{what}: harder classes are predicted too {'often' if high < 0 else 'rarely'}."
    images = [row.images for row in table.rows if row.images is not None]
    if max(images) > _BALANCED * min(images):
        yield (
            f"The classes have {min(images):,} to {max(images):,} test images. A few errors of a large class "
            "give a small class a large bias."
        )
