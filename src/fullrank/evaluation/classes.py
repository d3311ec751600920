"""The scores of each class, and over classes, of three probes that were fitted on the same features."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from fullrank.probes import PerClass, agreement
from fullrank.record.scores import (
    AGREEMENT,
    BEST_CLASSES,
    BIAS,
    BIAS_CORRELATION,
    CLASS_ACCURACY,
    CLASS_ERROR,
    CLASS_IMAGES,
    FALSE_POSITIVES,
    MEAN_OF_CLASSES,
    SPREAD,
    TAKEN,
    TAKEN_FOR,
    WORST_CLASSES,
    Probe,
)


class ClassScore(NamedTuple):
    """A score of a class, or over all of them where it has no subject."""

    probe: Probe
    statistic: str
    value: float
    subject: str = ""


def class_scores(results: Mapping[Probe, PerClass], names: Sequence[str]) -> Iterator[ClassScore]:
    """What the measure "per-class" adds; a correlation that is not defined is left out.

    Args:
        results: Probe -> its accuracies by class; those of "linear" are among them.
        names: The names of the classes.
    """
    for probe, result in results.items():
        yield from _of_classes(probe, result, names)
        yield ClassScore(probe, MEAN_OF_CLASSES, result.mean)
        yield ClassScore(probe, "worst class", result.worst)
        yield ClassScore(probe, "best class", result.best)
        yield ClassScore(probe, WORST_CLASSES, result.worst_group)
        yield ClassScore(probe, BEST_CLASSES, result.best_group)
        yield ClassScore(probe, SPREAD, result.std)
        alike = None if probe == "linear" else agreement(result, results["linear"])
        for statistic, value in ((BIAS_CORRELATION, result.bias_correlation), (AGREEMENT, alike)):
            if value is not None:
                yield ClassScore(probe, statistic, value)


def absent_note(result: PerClass, names: Sequence[str]) -> str:
    """Which classes have no test image; "" if all have one."""
    if not (absent := [names[number] for number in result.absent]):
        return ""
    what = f"{len(absent)} of {len(names)} classes {'has' if len(absent) == 1 else 'have'} no test image"
    first = f"the first is {absent[0]!r}" if len(absent) > 1 else f"it is {absent[0]!r}"
    return f"{what} and {'is' if len(absent) == 1 else 'are'} left out of the scores by class; {first}."


def _of_classes(probe: Probe, result: PerClass, names: Sequence[str]) -> Iterator[ClassScore]:
    per_class: dict[str, Mapping[int, float]] = {CLASS_ACCURACY: result.accuracy, CLASS_ERROR: result.errors}
    if probe == "linear":
        per_class[CLASS_IMAGES] = result.counts
    per_class |= {BIAS: result.bias, FALSE_POSITIVES: result.false_positives}
    for statistic, values in per_class.items():
        for number, value in values.items():
            yield ClassScore(probe, statistic, value, names[number])
    for number, (other, count) in result.confusions.items() if probe == "linear" else ():
        pair = f"{names[number]}{TAKEN}{names[other]}"
        yield ClassScore(probe, TAKEN_FOR, count / result.counts[number], pair)
