"""The text of a diagnosis, without reference to papers: headline, cut, causes, tables. Torch-free."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fullrank.errors import count_of
from fullrank.record import Compared, DiagnosisEntry, Finding, LayerRow, Record
from fullrank.record.comparisons import grouped
from fullrank.record.operations import PIXELS, moved_and_cost, operation_costs
from fullrank.reports.denominators import (
    TITLES,
    baseline_row,
    baseline_sentences,
    error_sentence,
    images_sentence,
    standard_error,
    within_noise,
)
from fullrank.reports.numbers import distance, in_points, signed

# What a row of the table of places calls its measures.
LAYER_FIELDS = {
    "linear": "linear",
    "nearest": "nearest",
    "recall@1": "recall_at_1",
    "effective rank": "effective_rank",
    "RankMe": "rankme",
    "rank of the gradient": "gradient_rank",
}
# Those of them that baselines have too.
BASELINE_FIELDS = ("linear", "nearest")

# What stands under the table of operations.
OPERATION_NOTE = (
    "Moves: the share in the change between two views, each operation alone. Costs: how many points a linear "
    "probe of views gains when the operation is off and all others stay as drawn; in parentheses its paired "
    "standard error. A linear probe of pixels cannot follow a shape that moves, so crops cost more there."
)


@dataclass(frozen=True)
class Cause:
    """The findings of one cause and level, over places."""

    heading: str
    level: str
    findings: list[Finding]


def is_watched(record: Record) -> bool:
    """Whether the diagnosis comes from SpectrumMonitor: its recipe is then the monitor's."""
    return "monitor" in record.recipe


def headline(record: Record, diagnosis: DiagnosisEntry) -> str:
    """The answer in one to three words. An alert during training may have passed, so it is only an alert."""
    if is_watched(record):
        return "Alert" if diagnosis.findings else "No alert"
    return "Collapsed" if diagnosis.collapsed else "No collapse found"


def summary(record: Record, diagnosis: DiagnosisEntry) -> str:
    """One sentence: how many rows were used, and where."""
    places, machine = diagnosis.places, record.machine
    several = f"{len(places)} places, from {places[0]} to {places[-1]}" if len(places) > 1 else ""
    where = several or f"one place, {''.join(places)}"
    rows = "1 row" if diagnosis.rows == 1 else f"{diagnosis.rows:,} rows"
    looked = f"At the last look {rows}" if is_watched(record) else rows
    return f"{looked} at {where}; computed on {machine.device} ({machine.processor})."


def causes(findings: Sequence[Finding]) -> list[Cause]:
    """Findings grouped by cause and level: alarms first, otherwise in the order of the record."""
    alarms_first = sorted(findings, key=lambda finding: finding.level != "alarm")
    groups = grouped(((finding.cause, finding.level), finding) for finding in alarms_first)
    return [
        Cause(group[0].title or cause.replace("-", " ").capitalize(), level, group)
        for (cause, level), group in groups.items()
    ]


def side(finding: Finding) -> str:
    """Whether a value is `above`, `below` or `at` its threshold."""
    above, below = finding.value > finding.threshold, finding.value < finding.threshold
    return "above" if above else "below" if below else "at"


def cut_sentence(diagnosis: DiagnosisEntry) -> str:
    """The place to keep, and how far its accuracy is from those of h and z; empty without labels."""
    if diagnosis.cut is None:
        return ""
    linear = {row.place: 100 * row.linear for row in diagnosis.layers if row.linear is not None}
    if diagnosis.cut not in linear:
        return f"Where to cut: keep {diagnosis.cut}."
    best = linear[diagnosis.cut]
    others = [place for place in ("h", "z") if place in linear and place != diagnosis.cut]
    tested = None if diagnosis.images is None else diagnosis.images.test
    leads = " and ".join(_lead(best, linear[place], place, tested) for place in others)
    beside = f", {leads}" if leads else ""
    return f"Where to cut: keep {diagnosis.cut}. Its linear accuracy is {in_points(best)} points{beside}."


def compared_sentences(diagnosis: DiagnosisEntry) -> list[str]:
    """What got worse than in the baseline, a line each, and what was not compared."""
    if (compared := diagnosis.compared) is None:
        return []
    numbers = [number for number in compared.numbers if number.before is not None]
    of = f"the baseline of {compared.created[:10]} ({compared.target})"
    if diagnosis.worse:
        sentences = [f"Worse than {of}:", *(f"- {_worse(number)}" for number in diagnosis.worse)]
    else:
        inside = f"{count_of(len(numbers), 'number')} compared, none below its interval there"
        sentences = [f"Not worse than {of}: {inside}, and no new alarm."]
    return [*sentences, *(f"Not compared: {limit}" for limit in compared.not_compared)]


def _worse(number: Compared) -> str:
    """A number that got worse, now and before, with intervals; accuracies in points."""
    if number.before is None:
        return f"a new alarm at {number.place}: {number.name} ({number.now:.3g})"
    scale = 100 if number.name in BASELINE_FIELDS else 1

    def with_interval(value: float, low: float | None, high: float | None) -> str:
        interval = "" if low is None or high is None else f" ({scale * low:.1f} to {scale * high:.1f})"
        return f"{scale * value:.1f}{interval}"

    now = with_interval(number.now, number.now_low, number.now_high)
    before = with_interval(number.before, number.low, number.high)
    return f"{number.name.replace('_', ' ')} at {number.place}: {now}, before {before}"


def _lead(best: float, other: float, place: str, tested: int | None) -> str:
    """How far an accuracy in points is from that of a place, where the test images separate the two."""
    if tested is not None and abs(best - other) <= within_noise(best, other, tested):
        return f"statistically indistinguishable from {place} ({signed(best - other)})"
    return f"{distance(best - other)} {place}"


def operation_sentence(diagnosis: DiagnosisEntry) -> str:
    """What costs the labels, and what moves the features of h, or of the last place without h; or ""."""
    places = [share.place for share in diagnosis.augmentation]
    place = "h" if "h" in places else places[-1] if places else "h"
    return moved_and_cost(diagnosis.augmentation, diagnosis.probed_again, place)


def operation_table(diagnosis: DiagnosisEntry) -> tuple[list[str], dict[str, list[str]]]:
    """Titles, and for each operation its share and its costs; those that moves most come first.

    A cost has its standard error in parentheses. The table is empty if labels were not probed on views.
    """
    costs = operation_costs(diagnosis.probed_again)
    if not costs:
        return [], {}
    shares = {share.operation: share.share for share in diagnosis.augmentation if share.place == "h"}
    points = {
        (cost.operation, cost.place): f"{in_points(cost.points)} ({in_points(cost.error)})" for cost in costs
    }
    operations = sorted(
        dict.fromkeys(cost.operation for cost in costs), key=lambda name: -shares.get(name, 0)
    )
    titles = [] if not shares else ["moves h (%)"]
    titles += ["costs on pixels", "costs at h"]
    return titles, {
        name: [
            *([in_points(100 * shares[name]) if name in shares else "–"] if shares else []),
            *(points.get((name, place), "–") for place in (PIXELS, "h")),
        ]
        for name in operations
    }


def not_drawn(names: Sequence[str], missing: str) -> str:
    """Why figures over time are missing: `missing` says why there are no arrays, `names` what they lack."""
    if missing:
        return f"Not shown: {missing}."
    return f"Not shown over time, because arrays.npz has no data: {', '.join(names)}." if names else ""


def measure_table(diagnosis: DiagnosisEntry) -> tuple[list[str], dict[str, list[float | None]]]:
    """The places, and the value of each measure at each place. None where it was not measured."""
    held = {(measure.name, measure.place): measure.value for measure in diagnosis.measures}
    places = in_order(diagnosis, sorted({place for _, place in held}))
    names = dict.fromkeys(name for name, _ in held)
    return places, {name: [held.get((name, place)) for place in places] for name in names}


def in_order(diagnosis: DiagnosisEntry, places: Iterable[str]) -> list[str]:
    """Places from the image to z. Those that the diagnosis does not list come last."""
    order = {place: position for position, place in enumerate(diagnosis.places)}
    return sorted(places, key=lambda place: order.get(place, len(order)))


def layer_columns(rows: Sequence[LayerRow], tested: int | None = None) -> dict[str, list[str]]:
    """The columns of the table of places that hold anything, as text; accuracies in points.

    With the number of images `tested`, linear and nearest accuracy have their standard error in parentheses.
    """
    columns = {"width": [str(row.width) for row in rows]}
    for name, field in LAYER_FIELDS.items():
        scale = 100 if field in ("linear", "nearest", "recall_at_1") else 1
        values = [getattr(row, field) for row in rows]
        if any(value is not None for value in values):
            columns[name] = [in_points(value and scale * value) for value in values]
        if name in columns and field in BASELINE_FIELDS and tested is not None:
            columns[name] = [_with_error(value, tested) for value in values]
    return columns


def _with_error(accuracy: float | None, tested: int) -> str:
    if accuracy is None:
        return in_points(None)
    return f"{in_points(100 * accuracy)} ({in_points(standard_error(100 * accuracy, tested))})"


def baseline_cells(diagnosis: DiagnosisEntry, columns: Iterable[str]) -> dict[str, list[str]]:
    """The measured baselines as rows under the table of places: the cells of `columns`, by title."""
    cells = {}
    for each in diagnosis.baselines:
        if each.linear is not None and each.nearest is not None:
            values = {"linear": in_points(100 * each.linear), "nearest": in_points(100 * each.nearest)}
            cells[TITLES[each.features]] = [values.get(name, "–") for name in columns]
    return cells


def denominators(diagnosis: DiagnosisEntry) -> list[str]:
    """The sentences under the table of places: images, standard errors, baselines; none without labels."""
    linear = [100 * row.linear for row in diagnosis.layers if row.linear is not None]
    if diagnosis.images is None or not linear:
        return []
    rows = [baseline_row(TITLES[each.features], [each]) for each in diagnosis.baselines]
    images = diagnosis.images
    return [images_sentence(images), error_sentence(linear, images.test), *baseline_sentences(rows)]
