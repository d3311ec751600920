"""What a diagnosis says, in words that need no paper: headline, cut, causes, tables. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass

from fullrank.record import DiagnosisEntry, Finding, LayerRow, Record
from fullrank.reports.numbers import distance, in_points

# What a row of the table of places calls its measures.
LAYER_FIELDS = {
    "linear": "linear",
    "nearest": "nearest",
    "recall@1": "recall_at_1",
    "effective rank": "effective_rank",
    "RankMe": "rankme",
    "rank of the gradient": "gradient_rank",
}


@dataclass(frozen=True)
class Cause:
    """The findings of one cause and level, over places, and what to try against it."""

    heading: str
    level: str
    findings: tuple[Finding, ...]
    remedies: tuple[str, ...]


def is_watched(record: Record) -> bool:
    """Whether the diagnosis is what SpectrumMonitor saw of a training: its recipe is the monitor's."""
    return "monitor" in record.recipe


def title(record: Record, diagnosis: DiagnosisEntry) -> str:
    """What was looked at, and how."""
    return f"{'Watched training' if is_watched(record) else 'Diagnosis'} of {diagnosis.target}"


def headline(record: Record, diagnosis: DiagnosisEntry) -> str:
    """The answer in one to three words; an alert of a training may have passed, so it is not called more."""
    if is_watched(record):
        return "Alert" if diagnosis.findings else "No alert"
    return "Collapsed" if diagnosis.collapsed else "No collapse found"


def summary(record: Record, diagnosis: DiagnosisEntry) -> str:
    """One sentence: how much was looked at, and where."""
    places = diagnosis.places
    if len(places) > 1:
        where = f"{len(places)} places, from {places[0]} to {places[-1]}"
    else:
        where = f"one place, {''.join(places)}"
    rows = "1 row" if diagnosis.rows == 1 else f"{diagnosis.rows:,} rows"
    machine = record.machine
    looked = f"At the last look {rows}" if is_watched(record) else rows
    return f"{looked}, read at {where}; computed on {machine.device} ({machine.processor})."


def causes(findings: Sequence[Finding]) -> list[Cause]:
    """Findings of one cause and level together, alarms first, each else in the order of the record.

    A cause whose findings have no title is called by its own name.
    """
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: finding.level != "alarm"):
        groups.setdefault((finding.cause, finding.level), []).append(finding)
    return [
        Cause(
            group[0].title or cause.replace("-", " ").capitalize(),
            level,
            tuple(group),
            tuple(dict.fromkeys(finding.remedy for finding in group)),
        )
        for (cause, level), group in groups.items()
    ]


def side(finding: Finding) -> str:
    """On which side of its threshold a value lies: `above`, `below` or `at`."""
    if finding.value == finding.threshold:
        return "at"
    return "above" if finding.value > finding.threshold else "below"


def cut_sentence(diagnosis: DiagnosisEntry) -> str:
    """Which place to keep, and by how much it leads h and z; empty where labels do not say."""
    if diagnosis.cut is None:
        return ""
    linear = {row.place: 100 * row.linear for row in diagnosis.layers if row.linear is not None}
    if diagnosis.cut not in linear:
        return f"Where to cut: keep {diagnosis.cut}."
    best = linear[diagnosis.cut]
    others = [
        f"{distance(best - linear[place])} {place}"
        for place in ("h", "z")
        if place in linear and place != diagnosis.cut
    ]
    beside = f", {' and '.join(others)}" if others else ""
    return f"Where to cut: keep {diagnosis.cut}. Its linear accuracy is {in_points(best)} points{beside}."


def recipe_of(record: Record) -> str:
    """What the record's recipe is the recipe of."""
    return "Settings of the monitor" if is_watched(record) else "Of the run that was diagnosed"


def not_drawn(names: Sequence[str], missing: str) -> str:
    """Why the pictures over time lack: `missing` says why there are no arrays, `names` what they lack.

    >>> not_drawn(["encoder"], ""), not_drawn([], "no arrays.npz"), not_drawn([], "")
    ('Not shown over time, for arrays.npz holds nothing to draw: encoder.', 'Not shown: no arrays.npz.', '')
    """
    if missing:
        return f"Not shown: {missing}."
    return f"Not shown over time, for arrays.npz holds nothing to draw: {', '.join(names)}." if names else ""


def measure_table(diagnosis: DiagnosisEntry) -> tuple[list[str], dict[str, list[float | None]]]:
    """Places, and for each measure its value at each of them; None where it was not taken."""
    held = {(measure.name, measure.place): measure.value for measure in diagnosis.measures}
    order = {place: position for position, place in enumerate(diagnosis.places)}
    places = sorted({place for _, place in held}, key=lambda place: (order.get(place, len(order)), place))
    names = dict.fromkeys(name for name, _ in held)
    return places, {name: [held.get((name, place)) for place in places] for name in names}


def layer_columns(rows: Sequence[LayerRow]) -> dict[str, list[str]]:
    """The columns of the table of places that hold anything, as text; accuracies in points."""
    columns = {"width": [str(row.width) for row in rows]}
    for name, field in LAYER_FIELDS.items():
        scale = 100 if field in ("linear", "nearest", "recall_at_1") else 1
        values = [getattr(row, field) for row in rows]
        if any(value is not None for value in values):
            columns[name] = [in_points(value and scale * value) for value in values]
    return columns
