"""Scores of groups and of shifts as rows of a table, means over seeds, in points. Torch-free."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fullrank.record import Record, Score
from fullrank.record.comparisons import by_head
from fullrank.statistics import Estimate

_GROUP_MEASURE = re.compile(r"gap .*|.*, (worst group|mean over groups|weighted by training groups)")
# Heads that scale the channels of h one by one: standardising undoes them.
_DIAGONAL = re.compile(r"none,norm=|diagonal\b|reweight\b")


@dataclass(frozen=True)
class GroupRow:
    """One head at one place: an estimate for each of the table's measures, None where there is none."""

    head: str
    place: str
    label: str
    features: str
    cells: tuple[Estimate | None, ...]


@dataclass(frozen=True)
class GroupTable:
    """Measures by group, and a row for each head, place, label and treatment of features."""

    measures: tuple[str, ...]
    rows: tuple[GroupRow, ...]


@dataclass(frozen=True)
class ShiftedScore:
    """An accuracy under a shift, 0 to 1, and `inside`, that on the test images of the same classes.

    `shift` is the spec of the shifted images; `fewer` says that they have some of the run's classes only.
    `inside` is None where there is none.
    """

    place: str
    label: str
    features: str
    probe: str
    shift: str
    shifted: float
    inside: float | None
    fewer: bool


@dataclass(frozen=True)
class ShiftRow:
    """One head's `ShiftedScore`s of one kind, in points, means over seeds; differences are paired by seed."""

    head: str
    kind: ShiftedScore
    inside: Estimate | None
    shifted: Estimate
    difference: Estimate | None


def group_table(record: Record) -> GroupTable | None:
    """The scores by group of a run or study; None where it has none."""
    found = [score for run in record.runs for score in run.scores if is_group_measure(score.measure)]
    measures = tuple(dict.fromkeys(score.measure for score in found))
    rows = []
    for head, entries in by_head(record.runs).items():
        values: dict[tuple[str, str, str], dict[str, list[float]]] = {}
        for score in (score for entry in entries for score in entry.scores):
            if is_group_measure(score.measure):
                kinds = values.setdefault((score.place, score.label, score.features), {})
                kinds.setdefault(score.measure, []).append(100 * score.value)
        rows += [
            GroupRow(head, *key, tuple(_estimate(kinds.get(measure, [])) for measure in measures))
            for key, kinds in values.items()
        ]
    return GroupTable(measures, tuple(rows)) if rows else None


def is_group_measure(measure: str) -> bool:
    """Whether a score of that name is one of a probe by group.

    >>> is_group_measure("linear, worst group"), is_group_measure("linear, worst class")
    (True, False)
    """
    return _GROUP_MEASURE.fullmatch(measure) is not None


def shift_table(record: Record) -> list[ShiftRow]:
    """Every accuracy under a shift of a run or study, beside that on the test images of the same classes."""
    rows = []
    for head, entries in by_head(record.runs).items():
        kinds: dict[tuple[str, ...], list[ShiftedScore]] = {}
        for one in (one for entry in entries for one in shifted_scores(entry.scores)):
            kinds.setdefault((one.place, one.label, one.features, one.probe, one.shift), []).append(one)
        for seeds in kinds.values():
            known = [(one.shifted, one.inside) for one in seeds if one.inside is not None]
            rows.append(
                ShiftRow(
                    head,
                    seeds[0],
                    inside=_estimate([100 * inside for _, inside in known]),
                    shifted=Estimate.of([100 * one.shifted for one in seeds]),
                    difference=_estimate([100 * (shifted - inside) for shifted, inside in known]),
                )
            )
    return rows


def shifted_scores(scores: Sequence[Score]) -> list[ShiftedScore]:
    """The accuracies under a shift among tidy scores, each with its partner in distribution."""
    values = {
        (score.place, score.label, score.features, score.split, score.measure): score.value
        for score in scores
    }
    found = []
    for (place, label, features, split, probe), shifted in values.items():
        if is_shifted(split, probe):
            narrow = values.get((place, label, features, "test", f"{probe}, classes of {split}"))
            whole = values.get((place, label, features, "test", probe))
            inside = whole if narrow is None else narrow
            one = ShiftedScore(place, label, features, probe, split, shifted, inside, narrow is not None)
            found.append(one)
    return found


def is_shifted(split: str, measure: str) -> bool:
    """Whether a score of that split and measure is an accuracy of the default probes under a shift."""
    return split not in ("train", "test") and measure in ("linear", "nearest")


def standardised_note(record: Record) -> str:
    """A warning where h and z of a diagonal head stand side by side; else nothing."""
    heads = [
        run.head
        for run in record.runs
        if _DIAGONAL.match(run.head) and {"h", "z"} <= {score.place for score in run.scores}
    ]
    if not heads:
        return ""
    return (
        f"z of {', '.join(dict.fromkeys(heads))} is h with its channels scaled, so a probe on standardised "
        "features, as P2's authors use, reads both alike by construction, up to channels that are 0 in its "
        "arithmetic; compare raw features, as the tables here do, or l2."
    )


def _estimate(values: Sequence[float]) -> Estimate | None:
    return Estimate.of(values) if values else None
