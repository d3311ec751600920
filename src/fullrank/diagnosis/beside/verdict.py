"""The verdict of two targets side by side: one word, a sentence with its figures, and the reasons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

from fullrank.record import Finding, LostDirection, MeasureChange, PairedScore, PlacePair
from fullrank.record.beside import Verdict

MIN_OVERLAP = 0.6
# Distances relative to the spread of the rows. A smaller one is rounding: float16, bfloat16, 8-bit integers.
ROUNDING = 0.05
# A collapse leaves less than this share of the effective rank, a linear map of what is left explains less
# than this share of the variance that was there, and less than this share of what is left is new.
_LEFT, _KEPT, _NEW = 0.5, 0.5, 0.5
# Labels are read as well as before if every interval ends above this loss of accuracy.
_LOSS = 0.05

RANK = "effective_rank"
NAMES = {
    "linear": "linear accuracy",
    "nearest": "nearest-neighbour accuracy",
    "recall_at_1": "recall at 1",
    "mean_average_precision": "mean average precision",
}

_Placed = TypeVar("_Placed", MeasureChange, PairedScore, LostDirection)


@dataclass(frozen=True)
class Conclusion:
    """The verdict of `conclude`: the keys of the same names in `SideBySide`.

    Attributes:
        verdict: One word.
        sentence: The word with its two most telling figures.
        reasons: A sentence for each.
        worse: Whether anything got worse: a collapse, a score, or a new alarm.
    """

    verdict: Verdict
    sentence: str
    reasons: list[str]
    worse: bool


def conclude(
    pairs: Sequence[PlacePair],
    scores: Sequence[PairedScore],
    measures: Sequence[MeasureChange],
    *,
    matched: Literal["id", "order", "none"],
    new_alarms: Sequence[Finding] = (),
    lost: Sequence[LostDirection] = (),
    min_overlap: float = MIN_OVERLAP,
) -> Conclusion:
    """Conclude from everything that was compared. The word is that of h, or else of the last place.

    The first of these that holds is the word:

    - `same`: the rows differ by less than rounding.
    - `rotated`: they do so after the best rotation, shift and scale.
    - `collapsed`: there is a new alarm, or the effective rank fell and a linear map finds little of what was
      there and nothing new. Labels that are read as well as before exclude it.
    - `better`, `worse`: all scores that differ beyond chance do so in one direction.
    - `drifted`: fewer nearest rows agree than `min_overlap`; of two sets whose rows were not matched, the
      effective ranks differ beyond chance.
    - `not told apart`: none of these.

    Args:
        pairs: How alike the places are; empty for two sets whose rows were not matched.
        scores: The scores of both.
        measures: The measures of both.
        matched: How rows were matched.
        new_alarms: The alarms of this target that the other does not have.
        lost: The directions that this target lost.
        min_overlap: The least share of nearest rows that agree, 0 to 1.

    >>> pair = PlacePair(place="h", against="h", rows=500, widths=(8, 8), cka=1.0, overlap=1.0, distance=1.4,
    ...                  rotated_distance=0.0)
    >>> conclude([pair], [], [], matched="order").sentence
    'The same up to a rotation at h: after the best one the rows differ by 0.0 % of their spread; 100 % of ...'
    """
    case = _Case(pairs, scores, measures, matched, new_alarms, lost, min_overlap)
    word = case.word
    worse = word == "collapsed" or bool(new_alarms) or bool(case.fell)
    return Conclusion(word, _sentence(word, case), list(_reasons(case)), worse)


@dataclass(frozen=True)
class _Case:
    pairs: Sequence[PlacePair]
    scores: Sequence[PairedScore]
    measures: Sequence[MeasureChange]
    matched: str
    new_alarms: Sequence[Finding]
    lost: Sequence[LostDirection]
    min_overlap: float

    @cached_property
    def place(self) -> str:
        """The place that the word is about."""
        places = [one.place for one in (self.pairs or self.scores or self.measures)]
        return "h" if "h" in places else places[-1] if places else "embedding"

    @cached_property
    def pair(self) -> PlacePair | None:
        pairs = [] if self.matched == "none" else [pair for pair in self.pairs if pair.place == self.place]
        return pairs[-1] if pairs else None

    @cached_property
    def rank(self) -> MeasureChange | None:
        changes = [one for one in self.here(self.measures) if one.name == RANK]
        return next((one for one in changes if None not in (one.now, one.before)), None)

    def here(self, several: Sequence[_Placed]) -> list[_Placed]:
        """Those of the place that the word is about."""
        return [one for one in several if one.place == self.place]

    @cached_property
    def fell(self) -> list[PairedScore]:
        return [score for score in self.scores if score.apart and score.difference < 0]

    @cached_property
    def rose(self) -> list[PairedScore]:
        return [score for score in self.scores if score.apart and score.difference > 0]

    @cached_property
    def word(self) -> Verdict:
        fell, rose = self.here(self.fell), self.here(self.rose)
        if self.pair is not None and _below(self.pair.distance, ROUNDING):
            return "same"
        if self.pair is not None and _below(self.pair.rotated_distance, ROUNDING):
            return "rotated"
        if self.is_collapsed and not self.reads_as_well:
            return "collapsed"
        if bool(fell) != bool(rose):
            return "better" if rose else "worse"
        return "drifted" if self.is_apart else "not told apart"

    @property
    def is_collapsed(self) -> bool:
        return any(alarm.place == self.place for alarm in self.new_alarms) or self.rank_fell

    @cached_property
    def rank_fell(self) -> bool:
        rank, pair = self.rank, self.pair
        if rank is None or not rank.apart or not (rank.now or 0) < _LEFT * (rank.before or 0):
            return False
        return pair is None or (_below(pair.kept, _KEPT) and _below(pair.added, _NEW))

    @property
    def reads_as_well(self) -> bool:
        scores = self.here(self.scores)
        return bool(scores) and not self.here(self.fell) and min(score.low for score in scores) > -_LOSS

    @property
    def is_apart(self) -> bool:
        if self.pair is None:
            return self.rank is not None and self.rank.apart
        return _below(self.pair.overlap, self.min_overlap)


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


def _sentence(word: Verdict, case: _Case) -> str:
    pair, scores = case.pair, case.here(case.scores)
    at = f" at {case.place}" if case.place != "embedding" else ""
    if word == "same" and pair is not None:
        return f"The same{at}: the rows differ by {_percent(pair.distance)} of their spread; {_agree(pair)}."
    if word == "rotated" and pair is not None:
        left = f"after the best one the rows differ by {_percent(pair.rotated_distance)} of their spread"
        return f"The same up to a rotation{at}: {left}; {_agree(pair)}."
    if word == "collapsed":
        figures = [_rank(case.rank)] if case.rank is not None else []
        alarms = [alarm.cause for alarm in case.new_alarms if alarm.place == case.place]
        figures += [f"new alarm: {', '.join(alarms)}"] if alarms else []
        if not alarms and pair is not None:
            figures.append(f"a linear map finds {_percent(pair.kept)} of the variance that was there")
        return f"Collapsed{at}: {'; '.join(figures)}."
    if word in ("better", "worse"):
        largest = sorted(case.here(case.rose or case.fell), key=lambda score: -abs(score.difference))
        figures = [f"{NAMES.get(one.name, one.name)} {_change(one)}" for one in largest[:2]]
        return f"{word.capitalize()}{at}: {', and '.join(figures)}."
    none = f"none of {len(scores)} scores differs beyond chance" if scores else "there are no scores"
    if case.here(case.rose) and case.here(case.fell):
        none = "some scores rose and some fell"
    likeness = (
        _agree(pair) if pair is not None else _rank(case.rank) if case.rank else "rows were not matched"
    )
    return f"{word.capitalize()}{at}: {likeness}; {none}."


def _reasons(case: _Case) -> Iterator[str]:
    if case.pair is not None:
        yield from _likeness(case.pair, case.min_overlap)
    elif case.matched == "none":
        yield "Rows were not matched, so both are compared as two sets."
    if case.rank is not None:
        apart = "do not overlap" if case.rank.apart else "overlap, or there are none"
        yield f"{_first_large(_rank(case.rank))}; the 95 % intervals {apart}."
    for score in case.scores:
        if score.place == case.place or score.apart:
            chance = "beyond chance" if score.apart else "within chance, all scores together"
            name = NAMES.get(score.name, score.name)
            at = "" if score.place == case.place else f" at {score.place}"
            yield f"{_first_large(name)}{at}: {_change(score)}, {chance}."
    if case.here(case.rose) and case.here(case.fell):
        yield "Scores contradict each other: some rose and some fell beyond chance."
    for alarm in case.new_alarms:
        yield f"New alarm: {alarm.cause} at {alarm.place}."
    if lost := case.here(case.lost):
        share = _percent(sum(direction.variance for direction in lost))
        yield f"Of the largest directions, {len(lost)} with {share} of the variance are lost."


def _likeness(pair: PlacePair, min_overlap: float) -> Iterator[str]:
    if pair.rotated_distance is not None:
        as_they_are = f"{_percent(pair.distance)} as they are and " if pair.distance is not None else ""
        best = f"{_percent(pair.rotated_distance)} after the best rotation, shift and scale"
        yield f"The rows differ by {as_they_are}{best}, relative to their spread."
    if pair.overlap is not None:
        side = "below" if pair.overlap < min_overlap else "not below"
        yield f"{_first_large(_agree(pair))}, which is {side} the limit of {100 * min_overlap:.0f} %."
    if pair.cka is not None:
        yield f"Linear CKA is {pair.cka:.3f}."
    if pair.kept is not None and pair.added is not None:
        new = f"{_percent(pair.added)} of the variance is new"
        yield f"A linear map finds {_percent(pair.kept)} of the variance that was there; {new}."


def _agree(pair: PlacePair) -> str:
    return (
        "no neighbours were compared"
        if pair.overlap is None
        else f"{100 * pair.overlap:.0f} % of nearest rows agree"
    )


def _rank(rank: MeasureChange) -> str:
    return f"the effective rank is {rank.now:.1f}, against {rank.before:.1f}"


def _change(score: PairedScore) -> str:
    interval = f"{100 * score.low:+.1f} to {100 * score.high:+.1f}"
    values = f"{100 * score.before:.1f} to {100 * score.now:.1f} %"
    return f"{100 * score.difference:+.1f} points ({interval}), {values}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _first_large(text: str) -> str:
    return text[:1].upper() + text[1:]
