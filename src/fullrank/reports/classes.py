"""How unequal the classes are under three probes, as a table of classes and of probes. Torch-free."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fullrank.record import Score
from fullrank.record.comparisons import grouped, mean_of
from fullrank.record.scores import (
    AGREEMENT,
    BEST_CLASSES,
    BIAS,
    BIAS_CORRELATION,
    BY_CLASS,
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
from fullrank.reports.run.tables import by_depth
from fullrank.statistics import Estimate, extreme_count, sampling_spread

PROBE_NAMES: dict[Probe, str] = {
    "linear": "linear probe",
    "nearest-mean": "nearest class mean",
    "nearest": "nearest neighbours",
}
ERRORS = (
    "± is the standard error from the number of test images of the class; the noise of training is not in it."
)
MEANING = (
    "Accuracy in points. Bias: predictions of the class over its test images, 1 is fair. False positives: "
    "images of other classes that are predicted as it. Bias r: the correlation of bias and accuracy. "
    "Agreement: the rank correlation of the accuracies by class with those of the linear probe, high if the "
    "same classes are hard for both."
)
_Values = Mapping[tuple[Probe, str, str], Sequence[float]]


@dataclass(frozen=True)
class ProbedClass:
    """What one probe makes of a class, means over seeds; accuracy and its standard error in points."""

    accuracy: float
    error: float | None
    bias: float | None
    false_positives: float | None


@dataclass(frozen=True)
class ClassRow:
    """A class: its number of test images, what each probe makes of it, and what it is most often taken for.

    `taken_for` is the other class, and `taken` the share of its images in points; "" and None without errors.
    """

    name: str
    images: int | None
    probes: dict[Probe, ProbedClass]
    taken_for: str
    taken: float | None


@dataclass(frozen=True)
class ProbeRow:
    """A probe over all classes, means over seeds; accuracies in points, correlations as numbers."""

    probe: Probe
    mean: Estimate | None
    worst: Estimate | None
    best: Estimate | None
    spread: Estimate | None
    correlation: Estimate | None
    agreement: Estimate | None


@dataclass(frozen=True)
class ClassTable:
    """The classes at one place of a model, the worst of the linear probe first, and the probes over them.

    `head` is the row of the study, "" for a single model. `split` is "test" or the spec of a shift.
    """

    head: str
    place: str
    label: str
    split: str
    rows: tuple[ClassRow, ...]
    probes: tuple[ProbeRow, ...]

    @property
    def extremes(self) -> int:
        """How many classes are the worst ones, and the best ones."""
        return extreme_count(len(self.rows))

    @property
    def explained(self) -> dict[Probe, float]:
        """Probe -> the standard deviation over classes, in points, that the sampling of images explains."""
        counts = [row.images for row in self.rows if row.images is not None]
        if len(counts) < max(2, len(self.rows)):
            return {}
        return {
            each.probe: 100 * sampling_spread(self._shares(each.probe), counts)
            for each in self.probes
            if all(each.probe in row.probes for row in self.rows)
        }

    def worst(self, probe: Probe) -> set[str]:
        """The names of the worst classes of a probe."""
        accuracies = {row.name: row.probes[probe].accuracy for row in self.rows if probe in row.probes}
        return set(sorted(accuracies, key=accuracies.__getitem__)[: self.extremes])

    def _shares(self, probe: Probe) -> list[float]:
        return [row.probes[probe].accuracy / 100 for row in self.rows]

    @property
    def title(self) -> str:
        """Where the classes were scored."""
        what = "" if self.label == "label" else f" of '{self.label}'"
        return f"Classes{what} at {self.place}{'' if self.split == 'test' else f', {self.split}'}"


def class_tables(scores: Mapping[str, Iterable[Score]]) -> list[ClassTable]:
    """The table of each head, place, label and split that has scores by class; old records have few of them.

    Args:
        scores: The scores of each head, of all its seeds.
    """
    kinds = grouped(
        ((head, one.place, one.label, one.split), one)
        for head, each in scores.items()
        for one in each
        if one.kind.by_class
    )
    places = by_depth(list(dict.fromkeys(place for _, place, *_ in kinds)))
    tables = [ClassTable(*kind, *_contents(each)) for kind, each in kinds.items()]
    heads = list(dict.fromkeys(table.head for table in tables))
    return sorted(tables, key=lambda table: (heads.index(table.head), places.index(table.place)))


def _contents(scores: Sequence[Score]) -> tuple[tuple[ClassRow, ...], tuple[ProbeRow, ...]]:
    # A linear probe on other treatments of the features has scores of the same names; the first is shown.
    first = {one.probe: one.features for one in reversed(scores)}
    values = grouped(
        ((one.probe, one.statistic, one.subject), one.value)
        for one in scores
        if one.features == first[one.probe]
    )
    taken: dict[str, dict[str, list[float]]] = {}
    for (_, statistic, pair), shares in values.items():
        if statistic == TAKEN_FOR:
            name, _, other = pair.partition(TAKEN)
            taken.setdefault(name, {})[other] = shares
    names = dict.fromkeys(name for _, statistic, name in values if statistic == CLASS_ACCURACY)
    rows = [_class_row(values, name, taken.get(name, {})) for name in names]
    rows.sort(key=lambda row: row.probes["linear"].accuracy if "linear" in row.probes else math.inf)
    probes = [_probe_row(values, probe) for probe in BY_CLASS if any(key[0] == probe for key in values)]
    return tuple(rows), tuple(probes)


def _class_row(values: _Values, name: str, taken: Mapping[str, Sequence[float]]) -> ClassRow:
    probes = {}
    for probe in BY_CLASS:
        if accuracies := values.get((probe, CLASS_ACCURACY, name)):
            errors, bias, false = (
                values.get((probe, statistic, name)) for statistic in (CLASS_ERROR, BIAS, FALSE_POSITIVES)
            )
            error = 100 * math.hypot(*errors) / math.sqrt(len(errors)) if errors else None
            probes[probe] = ProbedClass(100 * fmean(accuracies), error, _mean(bias), _mean(false))
    # Seeds may differ in the class that is most often confused; the one of most of the errors is shown.
    other = max(taken, key=lambda each: sum(taken[each])) if taken else ""
    share = 100 * fmean(taken[other]) if other else None
    images = values.get(("linear", CLASS_IMAGES, name))
    return ClassRow(name, round(images[0]) if images else None, probes, other, share)


def _probe_row(values: _Values, probe: Probe) -> ProbeRow:
    def over(statistic: str, scale: float = 1.0) -> Estimate | None:
        return mean_of([scale * value for value in values.get((probe, statistic, ""), ())])

    mean, worst, best = (over(name, 100) for name in (MEAN_OF_CLASSES, WORST_CLASSES, BEST_CLASSES))
    return ProbeRow(probe, mean, worst, best, over(SPREAD, 100), over(BIAS_CORRELATION), over(AGREEMENT))


def _mean(values: Sequence[float] | None) -> float | None:
    return fmean(values) if values else None
