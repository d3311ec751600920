"""Scores of groups and of shifts as rows of a table, means over seeds, in points. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass

from fullrank.record import Record, Score
from fullrank.record.comparisons import by_row, grouped, mean_of
from fullrank.record.scores import AMONG_CLASSES
from fullrank.reports.run.tables import scores_by_head
from fullrank.statistics import Estimate


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
    """An accuracy under a shift, 0 to 1, and `inside`, that on the test images of the same classes."""

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
    cells = grouped(
        ((head, score.place, score.label, score.features, score.measure), 100 * score.value)
        for head, score in scores_by_head(record)
        if score.kind.by_group
    )
    measures = tuple(dict.fromkeys(measure for *_, measure in cells))
    rows = [
        GroupRow(*key, tuple(mean_of(cells.get((*key, measure), ())) for measure in measures))
        for key in dict.fromkeys(key[:-1] for key in cells)
    ]
    return GroupTable(measures, tuple(rows)) if rows else None


def shift_table(record: Record) -> list[ShiftRow]:
    """Every accuracy under a shift of a run or study, beside that on the test images of the same classes."""
    kinds = grouped(
        ((head, one.place, one.label, one.features, one.probe, one.shift), one)
        for head, entries in by_row(record.runs).items()
        for entry in entries
        for one in shifted_scores(entry.scores)
    )
    rows = []
    for (head, *_), seeds in kinds.items():
        pairs = [(one.shifted, one.inside) for one in seeds if one.inside is not None]
        inside = mean_of([100 * inside for _, inside in pairs])
        shifted = Estimate.of([100 * one.shifted for one in seeds])
        difference = mean_of([100 * (shifted - inside) for shifted, inside in pairs])
        rows.append(ShiftRow(head, seeds[0], inside, shifted, difference))
    return rows


def shifted_scores(scores: Sequence[Score]) -> list[ShiftedScore]:
    """The accuracies under a shift among tidy scores, each with its partner in distribution."""
    accuracies, narrow = {}, {}
    for score in scores:
        kind = score.place, score.label, score.features, score.probe
        if score.statistic == AMONG_CLASSES:
            narrow[kind, score.subject] = score.value
        elif score.kind.by_default and score.shots is None and score.split != "train":
            accuracies[kind, score.split] = score.value
    rows = []
    for (kind, shift), value in accuracies.items():
        if shift != "test":
            inside = narrow.get((kind, shift), accuracies.get((kind, "test")))
            rows.append(ShiftedScore(*kind, shift, value, inside, fewer=(kind, shift) in narrow))
    return rows


def head_notes(record: Record) -> list[str]:
    """What to know of the heads of a record when their z is read."""
    return [note for note in (standardised_note(record), conditioned_note(record)) if note]


def conditioned_note(record: Record) -> str:
    """How z was measured where a head takes the parameters of the views; else nothing."""
    heads = dict.fromkeys(run.head for run in record.runs if run.conditioned)
    if not heads:
        return ""
    return (
        f"In training, {', '.join(heads)} was given the parameters of each view. Here z is measured on whole "
        "images, with the parameters of a view to which nothing was applied."
    )


def standardised_note(record: Record) -> str:
    """A warning where h and z of a head that only scales channels are side by side; else nothing."""
    scaled = [run for run in record.runs if run.scales_channels]
    heads = [run.head for run in scaled if {"h", "z"} <= {score.place for score in run.scores}]
    if not heads:
        return ""
    return (
        f"z of {', '.join(dict.fromkeys(heads))} is h with its channels scaled, so a probe on standardised "
        "features, as P2's authors use, has the same accuracy at both by construction, up to channels that "
        "underflow to 0. Compare raw features, as the tables here do, or l2."
    )
