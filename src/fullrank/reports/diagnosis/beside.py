"""The words and tables of two targets side by side. Torch-free."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from fullrank.errors import few_of, one_line
from fullrank.record import (
    Compared,
    DiagnosisEntry,
    LostDirection,
    MeasureChange,
    PairedScore,
    PlacePair,
    SideBySide,
)
from fullrank.record.beside import Verdict
from fullrank.record.measures import MEASURES
from fullrank.reports.numbers import decimals, signed, without_path
from fullrank.reports.text_tables import TextTable

# The word of each verdict as a headline, and the colour of its box on the page.
VERDICTS: dict[Verdict, tuple[str, str]] = {
    "same": ("The same", "fine"),
    "rotated": ("The same up to a rotation", "fine"),
    "better": ("Better", "fine"),
    "drifted": ("Drifted", ""),
    "not told apart": ("Not told apart", ""),
    "worse": ("Worse", "alarm"),
    "collapsed": ("Collapsed", "alarm"),
}
SCORES = {"recall_at_1": "recall@1", "mean_average_precision": "average precision"}
# What both are called where their names are long or alike.
THIS, OTHER = "this", "other"
# A name of at most so many letters is a title of a table, so that it fits a terminal.
_LONGEST = 16
# So many lost directions are named in a terminal.
MOST_NAMED = 3

Column = tuple[str, Sequence[str]]


@dataclass(frozen=True)
class Names:
    """What tables and sentences call the diagnosed target and the other one."""

    now: str
    before: str


def names_of(entry: DiagnosisEntry, beside: SideBySide) -> Names:
    """The last parts of both names where they are short and differ, else "this" and "other"."""
    now, before = (one_line(without_path(target)) for target in (entry.target, beside.target))
    if now == before or max(len(now), len(before)) > _LONGEST:
        return Names(THIS, OTHER)
    return Names(now, before)


def headline(beside: SideBySide) -> str:
    """The verdict in one to five words."""
    return VERDICTS[beside.verdict][0]


def tone(beside: SideBySide) -> str:
    """How the box of the verdict is coloured: alarm, fine, or "" for neither."""
    return VERDICTS[beside.verdict][1]


def heading(beside: SideBySide) -> str:
    """The title of the section: what the target is compared with."""
    return f"Against {one_line(without_path(beside.target))}"


def rows_sentence(entry: DiagnosisEntry, beside: SideBySide) -> str:
    """What is compared with what, how rows were matched, and how many have no partner."""
    if beside.about:
        return f"Compared with {one_line(beside.target)}. {' '.join(map(one_line, beside.about))}"
    if beside.matched == "none":
        return f"Compared with {one_line(beside.target)} as two sets, since rows could not be matched."
    how = {"id": "id", "order": "their order"}[beside.matched]
    text = f"Compared with {one_line(beside.target)}: {beside.rows:,} rows matched by {how}."
    names = names_of(entry, beside)
    this = names.now if names.now != THIS else "this one"
    that = names.before if names.before != OTHER else "the other"
    only = [(beside.only_here, this), (beside.only_there, that)]
    if left_out := [f"{count:,} only in {name}" for count, name in only if count]:
        text += f" Left out: {' and '.join(left_out)}."
    return text


def tables(entry: DiagnosisEntry, beside: SideBySide) -> list[TextTable]:
    """The tables of the page that hold anything: accuracies, likeness by place, measures."""
    made = score_table(entry, beside), likeness_table(beside), measure_table(entry, beside)
    return [table for table in made if table is not None]


def score_table(entry: DiagnosisEntry, beside: SideBySide) -> TextTable | None:
    """The accuracies of both in points and their difference; None without labels on both sides."""
    scores = beside.scores
    if not scores:
        return None
    names = names_of(entry, beside)
    texts: list[Column] = [
        *_place_columns([(each.place, each.against) for each in scores], always=False),
        ("accuracy", [score_title(each.name) for each in scores]),
    ]
    return _table("Accuracies of both", texts, _score_columns(names, scores), _score_note(scores))


def _score_columns(names: Names, scores: Sequence[PairedScore]) -> list[Column]:
    return [
        (names.before, [decimals(100 * each.before, 1) for each in scores]),
        (names.now, [decimals(100 * each.now, 1) for each in scores]),
        ("difference", [_difference(each) for each in scores]),
    ]


def _score_note(scores: Sequence[PairedScore]) -> str:
    """On which rows scores were measured, and what their intervals and the star mean."""
    tested = sorted({each.tested for each in scores})
    on = " to ".join(f"{count:,}" for count in dict.fromkeys((tested[0], tested[-1])))
    paired = "paired difference" if all(each.paired for each in scores) else "difference of two samples"
    together = f", all {len(scores)} differences together" if len(scores) > 1 else ""
    return (
        f"Accuracies in points on {on} test rows, with the 95 % interval of their {paired}. "
        f"* Beyond chance{together}."
    )


def main_scores(entry: DiagnosisEntry, beside: SideBySide) -> TextTable | None:
    """The accuracies of both at the main place; None without labels on both sides."""
    place, against = beside.main_places
    scores = [each for each in beside.scores if (each.place, each.against) == (place, against)]
    if not scores:
        return None
    columns = _score_columns(names_of(entry, beside), scores)
    names: Column = (f"at {one_line(place)}", [score_title(each.name) for each in scores])
    return _table("Accuracies of both", [names], columns, _score_note(beside.scores))


def changed_sentences(beside: SideBySide) -> list[str]:
    """A sentence for each measure of the main place whose intervals lie apart."""
    place, _ = beside.main_places
    return [
        f"Changed at {one_line(place)}: {measure_title(each.name)} "
        f"{_measured(each.now, each.now_low, each.now_high)}, against "
        f"{_measured(each.before, each.before_low, each.before_high)}."
        for each in beside.measures
        if each.place == place and each.apart
    ]


def likeness_table(beside: SideBySide) -> TextTable | None:
    """How alike the features of both are at each pair of places; None where rows were not matched."""
    if not beside.pairs:
        return None
    columns = _likeness_columns(beside.pairs)
    return _table(
        "Likeness by place", _pair_columns(beside), columns, " ".join(_notes(beside.pairs, columns))
    )


def overview_table(beside: SideBySide) -> TextTable | None:
    """The likeness and the change of the linear accuracy at each pair of places; None for fewer than two."""
    if len(beside.pairs) < 2:
        return None
    linear = {(score.place, score.against): score for score in beside.scores if score.name == "linear"}
    changes = [linear.get((pair.place, pair.against)) for pair in beside.pairs]
    shown = ("CKA", "overlap", "angles", "rotated", "kept")
    columns = [column for column in _likeness_columns(beside.pairs) if column[0] in shown]
    columns.append(("linear", [_starred(change) for change in changes]))
    caption = (
        "Rotated: the distance after the best rotation."
        if any(each.rotated_distance is not None for each in beside.pairs)
        else ""
    )
    caption += " Linear: the change of its accuracy in points." if linear else ""
    return _table("Places of both", _pair_columns(beside), columns, caption)


def _pair_columns(beside: SideBySide) -> list[Column]:
    return _place_columns([(pair.place, pair.against) for pair in beside.pairs], always=True)


def _likeness_columns(pairs: Sequence[PlacePair]) -> list[Column]:
    return [
        ("CKA", [decimals(pair.cka, 3) for pair in pairs]),
        ("overlap", [_interval(pair.overlap, pair.overlap_low, pair.overlap_high, 2) for pair in pairs]),
        ("angles", [_angles(pair.angles) for pair in pairs]),
        ("distance", [_far(pair.distance) for pair in pairs]),
        ("rotated", [decimals(pair.rotated_distance, 2) for pair in pairs]),
        ("kept", [_part(pair.kept) for pair in pairs]),
        ("added", [_part(pair.added) for pair in pairs]),
    ]


def _notes(pairs: Sequence[PlacePair], columns: Sequence[Column]) -> Iterator[str]:
    """What the columns of the table of likeness mean; a column without values has no note."""
    nearest = _span([pair.neighbours for pair in pairs if pair.overlap is not None], 0)
    chance = _span([pair.by_chance for pair in pairs if pair.by_chance is not None], 3)
    by_chance = f" By chance it is {chance}." if chance else ""
    notes = {
        "CKA": "CKA: 1 up to a rotation, shift and scale; about 0 for unrelated features.",
        "overlap": f"Overlap: the share of each row's {nearest} nearest rows on which both agree.{by_chance}",
        "angles": "Angles between the leading components of both: their median and the largest.",
        "distance": "Distance: that of the rows, relative to the spread of the other target.",
        "rotated": "Rotated: what is left of it after the best rotation, shift and scale, 0 to 1.",
        "kept": "Kept: the share of the other target's variance that a linear map of this one explains.",
        "added": "Added: the share of this one's variance that a linear map of the other does not explain.",
    }
    for name, cells in columns:
        if name in notes and any(cell != "–" for cell in cells):
            yield notes[name]


def likeness_sentence(pair: PlacePair) -> str:
    """How alike the features of both are at a place, in words with their figures."""
    parts = []
    if pair.cka is not None:
        parts.append(f"CKA {decimals(pair.cka, 3)}")
    if pair.overlap is not None:
        overlap = _interval(pair.overlap, pair.overlap_low, pair.overlap_high, 2)
        chance = "" if pair.by_chance is None else f", by chance {decimals(pair.by_chance, 3)}"
        nearest = "nearest row" if pair.neighbours == 1 else f"{pair.neighbours} nearest rows"
        parts.append(f"overlap {overlap} of the {nearest}{chance}")
    if pair.angles:
        middle, largest = median(pair.angles), max(pair.angles)
        parts.append(f"angles of the leading components {middle:.0f}° (median) to {largest:.0f}°")
    if pair.rotated_distance is not None:
        parts.append(f"distance after the best rotation {decimals(pair.rotated_distance, 2)} of the spread")
    if pair.kept is not None:
        parts.append(f"{_part(pair.kept)} of the variance kept")
    if pair.added is not None:
        parts.append(f"{_part(pair.added)} new")
    against = "" if pair.place == pair.against else f" (against {one_line(pair.against)})"
    return f"Likeness at {one_line(pair.place)}{against}: {'; '.join(parts) or 'nothing could be measured'}."


def measure_table(entry: DiagnosisEntry, beside: SideBySide) -> TextTable | None:
    """Measures of both with their 95 % intervals, and whether the intervals lie apart; None for none."""
    changes = beside.measures
    if not changes:
        return None
    names = names_of(entry, beside)
    texts: list[Column] = [
        *_place_columns([(each.place, each.against) for each in changes], always=False),
        ("measure", [measure_title(each.name) for each in changes]),
    ]
    numbers: list[Column] = [
        (names.before, [_measured(each.before, each.before_low, each.before_high) for each in changes]),
        (names.now, [_measured(each.now, each.now_low, each.now_high) for each in changes]),
        ("apart", [_apart(each) for each in changes]),
    ]
    bracketed = any(each.now_low is not None or each.before_low is not None for each in changes)
    caption = "In brackets: the 95 % interval of each alone. Apart: the two intervals do not overlap."
    return _table("Measures of both", texts, numbers, caption if bracketed else "")


def lost_sentences(beside: SideBySide, place: str | None = None) -> list[str]:
    """A sentence for each direction that was lost at a place, by default at any."""
    return [_lost(each) for each in beside.lost if place in (None, each.place)]


def _lost(lost: LostDirection) -> str:
    at = "" if lost.place == "embedding" else f" at {one_line(lost.place)}"
    classes = f", separates {' from '.join(map(one_line, lost.classes))} most" if lost.classes else ""
    held = f"{_percent(lost.variance)} of the variance ({_percent(lost.kept)} kept)"
    return f"Lost{at}: direction {lost.number}, {held}{classes}."


def alarms_sentence(beside: SideBySide) -> str:
    """The alarms that only this target has; "" without any."""
    return f"New alarms: {few_of(list(map(one_line, beside.new_alarms)))}." if beside.new_alarms else ""


def overlap_shortfall(beside: SideBySide, least: float) -> str:
    """A sentence if the overlap at the main place is below `least`, or was not measured; else ""."""
    pair = beside.main
    if pair is None or pair.overlap is None:
        return f"no overlap was measured, so it is not known to be {least:g} or more"
    if pair.overlap >= least:
        return ""
    return f"the overlap at {one_line(pair.place)} is {pair.overlap:.3g}, below --min-overlap {least:g}"


def what_got_worse(entry: DiagnosisEntry) -> str:
    """What is worse than in the other target, in a few words; "" if nothing is."""
    return few_of([_worse(each) for each in entry.worse_beside])


def _worse(each: PairedScore | MeasureChange | Compared) -> str:
    where = f"at {one_line(each.place)}"
    if isinstance(each, PairedScore):
        where = f"at {pair_title(each.place, each.against)}"
        return f"{score_title(each.name)} {where} ({signed(100 * each.difference)} points)"
    if isinstance(each, MeasureChange):
        values = f"{decimals(each.now, 1)}, against {decimals(each.before, 1)}"
        return f"{measure_title(each.name)} {where} ({values})"
    return f"a new alarm {where} ({one_line(each.name)})"


def pair_title(place: str, against: str) -> str:
    """What figures and the terminal call a pair of places."""
    return one_line(place if place == against else f"{place} / {against}")


def score_title(name: str) -> str:
    """What pages and the terminal call an accuracy."""
    return SCORES.get(name, one_line(name.replace("_", " ")))


def measure_title(name: str) -> str:
    """What pages and the terminal call a measure."""
    return MEASURES[name].title if name in MEASURES else one_line(name.replace("_", " "))


def _place_columns(places: Sequence[tuple[str, str]], *, always: bool) -> list[Column]:
    """The columns that name the place, unless there is one only, and that of the other where it differs."""
    columns: list[Column] = []
    if always or len(set(places)) > 1:
        columns.append(("place", [one_line(place) for place, _ in places]))
    if any(place != against for place, against in places):
        columns.append(("against", [one_line(against) for _, against in places]))
    return columns


def _table(title: str, texts: Sequence[Column], numbers: Sequence[Column], caption: str) -> TextTable:
    """A table without the columns of numbers that hold nothing."""
    numbers = [column for column in numbers if any(cell != "–" for cell in column[1])]
    columns = [*texts, *numbers]
    rows = tuple(zip(*(cells for _, cells in columns), strict=True))
    return TextTable(title, tuple(name for name, _ in columns), rows, caption, texts=len(texts))


def _difference(score: PairedScore) -> str:
    low, high = (signed(100 * share) for share in (score.low, score.high))
    return f"{_starred(score)} [{low}, {high}]"


def _interval(value: float | None, low: float | None, high: float | None, digits: int) -> str:
    text = decimals(value, digits)
    return (
        text if low is None or high is None else f"{text} [{decimals(low, digits)}, {decimals(high, digits)}]"
    )


def _measured(value: float | None, low: float | None, high: float | None) -> str:
    """A measure in four digits with its interval."""
    if value is None:
        return "–"
    text = _four(value)
    return text if low is None or high is None else f"{text} [{_four(low)}, {_four(high)}]"


def _four(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _apart(change: MeasureChange) -> str:
    ends = (change.now_low, change.now_high, change.before_low, change.before_high)
    return "yes" if change.apart else "–" if None in ends else "no"


def _span(values: Sequence[float], digits: int) -> str:
    """The smallest and the largest of some numbers, or the only one; "" without any."""
    ends = (decimals(min(values), digits), decimals(max(values), digits)) if values else ()
    return " to ".join(dict.fromkeys(ends))


def _starred(change: PairedScore | None) -> str:
    return "–" if change is None else f"{signed(100 * change.difference)}{'*' if change.apart else ''}"


def _angles(degrees: Sequence[float]) -> str:
    return f"{median(degrees):.0f}° {max(degrees):.0f}°" if degrees else "–"


def _far(distance: float | None) -> str:
    """A distance over the spread of the other target; that is any large number where this hardly varies."""
    return "> 10" if distance is not None and distance > 10 else decimals(distance, 2)


def _part(share: float | None) -> str:
    """A share of a variance. Estimates from few rows may lie below 0 or above 1."""
    return _percent(None if share is None else min(max(share, 0.0), 1.0))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{decimals(100 * share, 0)} %"
