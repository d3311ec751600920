"""Scores of groups and of shifts as rows of a table, means over seeds, in points. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass

from fullrank.record import Record, Score
from fullrank.record.comparisons import by_head
from fullrank.record.scores import AMONG_CLASSES
from fullrank.statistics import Estimate

_Kind = tuple[str, str, str, str]  # place, label, features, probe


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
    found = [score for run in record.runs for score in run.scores if score.kind.by_group]
    measures = tuple(dict.fromkeys(score.measure for score in found))
    rows = []
    for head, entries in by_head(record.runs).items():
        values: dict[tuple[str, str, str], dict[str, list[float]]] = {}
        for score in (score for entry in entries for score in entry.scores if score.kind.by_group):
            kinds = values.setdefault((score.place, score.label, score.features), {})
            kinds.setdefault(score.measure, []).append(100 * score.value)
        rows += [
            GroupRow(head, *key, tuple(_estimate(kinds.get(measure, [])) for measure in measures))
            for key, kinds in values.items()
        ]
    return GroupTable(measures, tuple(rows)) if rows else None


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
    whole: dict[_Kind, float] = {}
    narrow: dict[tuple[_Kind, str], float] = {}
    shifted: dict[tuple[_Kind, str], float] = {}
    for score in scores:
        key = score.place, score.label, score.features, score.probe
        if is_shifted(score):
            shifted[key, score.split] = score.value
        elif score.statistic == AMONG_CLASSES:
            narrow[key, score.subject] = score.value
        elif score.kind.by_default and score.shots is None and score.split == "test":
            whole[key] = score.value
    return [
        ShiftedScore(*key, shift, value, narrow.get((key, shift), whole.get(key)), (key, shift) in narrow)
        for (key, shift), value in shifted.items()
    ]


def is_shifted(score: Score) -> bool:
    """Whether a score is an accuracy of the default protocol under a shift."""
    return score.split not in ("train", "test") and score.kind.by_default and score.shots is None


def standardised_note(record: Record) -> str:
    """A warning where h and z of a head that only scales channels stand side by side; else nothing."""
    heads = [
        run.head
        for run in record.runs
        if run.scales_channels and {"h", "z"} <= {score.place for score in run.scores}
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
