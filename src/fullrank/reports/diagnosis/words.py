"""The text of a diagnosis, without reference to papers: headline, cut, causes, tables. Torch-free."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fullrank.errors import count_of
from fullrank.record import Compared, DiagnosisEntry, Finding, LayerRow, Record
from fullrank.record.comparisons import grouped
from fullrank.record.measures import MEASURES, MeasureText
from fullrank.record.offending import ROWS_FILE
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
from fullrank.reports.view_readout import ReadoutTable, readout_table
from fullrank.specs import split_outside_quotes
from fullrank.statistics import one_error_below

# So many places of a cause, or rows of a finding, are named.
MOST_PLACES = 4
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
    """Whether the diagnosis is of a watched training: its recipe is then the settings of the watch."""
    return "monitor" in record.recipe


def gradient_note(record: Record) -> str:
    """Which loss the rank of the gradient is of, where the run was trained on a sum of several; or ""."""
    objective, *terms = split_outside_quotes(str(record.recipe.get("objective", "")), r" \+ ")
    if not terms:
        return ""
    left_out = f"{'the term' if len(terms) == 1 else 'the terms'} {' and '.join(terms)}"
    return f" The rank of the gradient is that of {objective} alone, without {left_out}."


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
    kept, best = linear[diagnosis.cut], max(linear, key=lambda place: linear[place])
    if in_points(linear[best]) == in_points(kept):  # as the table shows them
        best = diagnosis.cut
    tested = None if diagnosis.images is None else diagnosis.images.test
    others = [place for place in ("h", "z") if place in linear and place not in (diagnosis.cut, best)]
    beside = [_lead(kept, linear[place], place, tested) for place in others]
    if best != diagnosis.cut:
        beside.insert(0, _behind(kept, linear[best], best, tested))
    leads = f", {' and '.join(beside)}" if beside else ""
    return f"Where to cut: keep {diagnosis.cut}. Its linear accuracy is {in_points(kept)} points{leads}."


def _behind(kept: float, best: float, place: str, tested: int | None) -> str:
    """How far an accuracy in points is below that of the best place; near it only within a standard error."""
    size = f"{place} ({in_points(best)})"
    if tested is not None and kept >= 100 * one_error_below(best / 100, tested):
        return f"within one standard error of the best, {size}"
    return f"{distance(kept - best)} the best, {size}"


def what_to_try(diagnosis: DiagnosisEntry) -> dict[str, str]:
    """The remedies of the alarms, each once, with the causes that they are for."""
    alarms = [finding for finding in diagnosis.findings if finding.level == "alarm"]
    remedies = grouped((finding.remedy, finding.cause) for finding in alarms)
    return {remedy: ", ".join(dict.fromkeys(names)) for remedy, names in remedies.items()}


def rows_sentence(finding: Finding) -> str:
    """How many rows a finding names, the first of them, and where the others are; "" if it names none."""
    if not finding.row_count:
        return ""
    names = finding.ids or [str(row) for row in finding.rows]
    shown = ", ".join(names[:MOST_PLACES])
    counted = f"{finding.row_count:,} row{'' if finding.row_count == 1 else 's'}"
    if finding.row_count <= MOST_PLACES:
        return f"{counted}: {shown}; also in {ROWS_FILE}."
    return f"{counted}; the first: {shown}; all in {ROWS_FILE}."


def places_and_values(findings: Sequence[Finding]) -> str:
    """The places of findings with their values: up to four, and how many more there are."""
    shown = [f"{each.place} ({each.value:.3g})" for each in findings[:MOST_PLACES]]
    more = findings[MOST_PLACES:]
    if more:
        low, high = min(each.value for each in more), max(each.value for each in more)
        shown.append(f"{len(more)} more ({low:.3g} to {high:.3g})")
    return ", ".join(shown)


def measure_notes(diagnosis: DiagnosisEntry) -> dict[str, tuple[str, str, str]]:
    """By measure: its title, with which settings it was measured, and what it cannot see."""
    notes = {}
    for name in measure_table(diagnosis)[1]:
        text = MEASURES.get(name, MeasureText(name.replace("_", " "), ""))
        hows = grouped(
            (each.how, each.place) for each in diagnosis.measures if each.name == name and each.how
        )
        how = next(iter(hows), "")
        if len(hows) > 1:
            how = "; ".join(f"{', '.join(places)}: {each}" for each, places in hows.items())
        notes[name] = (text.title, how, text.blind)
    return notes


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


def readout(diagnosis: DiagnosisEntry) -> ReadoutTable | None:
    """What the features know of the views, as a table; None where it was not measured."""
    return None if diagnosis.view_readout is None else readout_table(diagnosis.view_readout.scores)


def readout_limits(diagnosis: DiagnosisEntry) -> str:
    """Which views were read, how many, and which operations have no score; "" where none was measured."""
    return "" if diagnosis.view_readout is None else " ".join(diagnosis.view_readout.about)


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
