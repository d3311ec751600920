"""The verdict of two targets side by side: one word, a sentence with its figures, and the reasons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

from fullrank.record import Finding, LostDirection, MeasureChange, PairedScore, PlacePair
from fullrank.record.beside import LEAST_CHANGE, Verdict

MIN_OVERLAP = 0.6
# Distances relative to the spread of the rows. A smaller one is rounding: float16, bfloat16, 8-bit integers.
ROUNDING = 0.05
# Larger distances are not told apart.
_FAR = 10.0
# A collapse leaves less than this share of the effective rank, a linear map of what is left explains less
# than this share of the variance that was there, and less than this share of what is left is new.
_LEFT, _KEPT, _NEW = 0.5, 0.5, 0.5
# The effective ranks of two sets are unlike if they differ by this share and their intervals do not overlap.
_DRIFT = 0.1
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
) -> Conclusion:
    """Conclude from everything that was compared. The word is that of h, or else of the last place.

    The first of these that holds is the word:

    - `same`: the rows differ by less than rounding, 5 % of their spread.
    - `collapsed`: there is a new alarm, fewer than 60 % of nearest rows agree, and something was lost:
      effective rank, a score, or half of the variance. Or the effective rank fell below half, a linear map
      finds less than half of the variance that was there, and most of what is left was there. Labels that are
      read as well as before exclude both.
    - `better`, `worse`: scores differ beyond chance, by half a point or more, and all in one direction.
    - `rotated`: the rows differ by less than rounding after the best rotation, shift and scale.
    - `drifted`: fewer than 60 % of nearest rows agree; of two sets whose rows were not matched, the
      effective ranks differ beyond chance, by a tenth or more.
    - `not told apart`: none of these.

    Args:
        pairs: How alike the places are; empty for two sets whose rows were not matched.
        scores: The scores of both.
        measures: The measures of both.
        matched: How rows were matched.
        new_alarms: The alarms of this target that the other does not have.
        lost: The directions that this target lost.

    >>> pair = PlacePair(place="h", against="h", rows=500, widths=(8, 8), cka=1.0, overlap=1.0, distance=1.4,
    ...                  rotated_distance=0.0)
    >>> conclude([pair], [], [], matched="order").sentence
    'The same up to a rotation at h: after the best one the rows differ by 0.0 % of their spread; ...'
    """
    case = _Case(pairs, scores, measures, matched, new_alarms, lost)
    return Conclusion(case.word, _sentence(case.word, case), list(_reasons(case)), case.worse)


@dataclass(frozen=True)
class _Case:
    pairs: Sequence[PlacePair]
    scores: Sequence[PairedScore]
    measures: Sequence[MeasureChange]
    matched: str
    new_alarms: Sequence[Finding]
    lost: Sequence[LostDirection]

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

    @cached_property
    def against(self) -> str:
        """The place of the other target that the word is about."""
        several = [(one.place, one.against) for one in (self.pairs or self.scores or self.measures)]
        return dict(several).get(self.place, self.place)

    def here(self, several: Sequence[_Placed]) -> list[_Placed]:
        """Those of the places that the word is about."""
        return [one for one in several if (one.place, getattr(one, "against", self.against)) == self._places]

    @property
    def _places(self) -> tuple[str, str]:
        return self.place, self.against

    @property
    def here_alarms(self) -> list[str]:
        """The causes of the new alarms at the place."""
        return [alarm.cause for alarm in self.new_alarms if alarm.place == self.place]

    @cached_property
    def fell(self) -> list[PairedScore]:
        return [score for score in self.scores if score.apart and score.difference <= -LEAST_CHANGE]

    @cached_property
    def rose(self) -> list[PairedScore]:
        return [score for score in self.scores if score.apart and score.difference >= LEAST_CHANGE]

    @cached_property
    def word(self) -> Verdict:
        fell, rose = self.here(self.fell), self.here(self.rose)
        if self.pair is not None and _below(self.pair.distance, ROUNDING) and not self.is_apart:
            return "same"
        if (self.alarm_counts or self.rank_fell) and not self.reads_as_well:
            return "collapsed"
        if bool(fell) != bool(rose):
            return "better" if rose else "worse"
        if self.is_apart:
            return "drifted"
        rotated = self.pair is not None and _below(self.pair.rotated_distance, ROUNDING)
        return "rotated" if rotated else "not told apart"

    @property
    def alarm_counts(self) -> bool:
        """Whether a new alarm at the place comes with something that was lost."""
        if not self.here_alarms:
            return False
        if self.pair is not None and self.pair.overlap is not None and not self.is_apart:
            return False
        unexplained = self.pair is not None and (self.pair.kept is None or self.pair.kept < _KEPT)
        rank_rose = self.rank is not None and self.rank.apart and not self.rank_is_lower
        return unexplained or self.rank_is_lower or (bool(self.here(self.fell)) and not rank_rose)

    @property
    def rank_is_lower(self) -> bool:
        rank = self.rank
        return rank is not None and rank.apart and (rank.now or 0.0) < (rank.before or 0.0)

    @cached_property
    def rank_fell(self) -> bool:
        rank, pair = self.rank, self.pair
        if rank is None or not self.rank_is_lower or not (rank.now or 0.0) < _LEFT * (rank.before or 0.0):
            return False
        return pair is None or (_below(pair.kept, _KEPT) and _below(pair.added, _NEW))

    @property
    def reads_as_well(self) -> bool:
        scores = self.here(self.scores)
        if not scores or self.here(self.fell):
            return False
        return bool(self.here(self.rose)) or min(score.low for score in scores) > -_LOSS

    @property
    def is_apart(self) -> bool:
        """Whether the features changed: neighbours, or the effective rank of two sets."""
        if self.pair is None:
            rank = self.rank
            if rank is None or rank.now is None or rank.before is None:
                return False
            return rank.apart and abs(rank.now - rank.before) >= _DRIFT * rank.before
        return _below(self.pair.overlap, MIN_OVERLAP)

    @property
    def worse(self) -> bool:
        word = self.word
        alarms = [
            one for one in self.new_alarms if word not in ("same", "rotated") or one.place != self.place
        ]
        return word == "collapsed" or bool(alarms) or bool(self.fell)


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


def _sentence(word: Verdict, case: _Case) -> str:
    at = f" at {case.place}" if case.place != "embedding" else ""
    beginnings = {"same": "The same", "rotated": "The same up to a rotation"}
    return f"{beginnings.get(word, word.capitalize())}{at}: {'; '.join(list(_figures(word, case))[:2])}."


def _figures(word: Verdict, case: _Case) -> Iterator[str]:
    """What the word rests on, the most telling first."""
    pair, rank = case.pair, case.rank
    if word == "same" and pair is not None:
        yield f"the rows differ by {_percent(pair.distance)} of their spread"
    if word == "rotated" and pair is not None:
        yield f"after the best one the rows differ by {_percent(pair.rotated_distance)} of their spread"
    if word == "collapsed":
        if rank is not None and case.rank_is_lower:
            yield _of_rank(rank)
        if pair is not None and _below(pair.kept, _KEPT):
            yield f"a linear map finds {_part(pair.kept)} of the variance that was there"
        if alarms := case.here_alarms:
            yield f"new alarm: {', '.join(alarms)}"
    if word in ("better", "worse"):
        largest = sorted(case.here(case.rose or case.fell), key=lambda score: -abs(score.difference))
        changes = [f"{_name(score)} {_change(score)}" for score in largest]
        yield from changes[:1]
        if pair is not None and _below(pair.rotated_distance, ROUNDING):
            yield "a rotation, a shift and a scale explain all of it"
        yield from changes[1:]
    if pair is not None:
        yield _agree(pair)
    elif word == "drifted" and rank is not None:
        yield f"{_of_rank(rank)}, and the 95 % intervals do not overlap"
    if word not in ("better", "worse", "collapsed"):
        yield _of_scores(case)
    if pair is None and rank is not None:
        yield _of_rank(rank)


def _of_scores(case: _Case) -> str:
    """What all scores say together, where they do not decide."""
    scores = case.here(case.scores)
    if rose := case.here(case.rose):
        return f"of {len(scores)} scores {len(rose)} rose and {len(case.here(case.fell))} fell"
    if any(score.apart for score in scores):
        return "no score differs by half a point beyond chance"
    return f"none of {len(scores)} scores differs beyond chance" if scores else "no accuracies were compared"


def _reasons(case: _Case) -> Iterator[str]:
    if case.pair is not None:
        yield from _likeness(case.pair)
    elif case.matched == "none":
        yield "Rows were not matched, so both are compared as two sets."
    if case.rank is not None:
        yield _with_capital(f"{_of_rank(case.rank)}{_intervals(case.rank)}.")
    for score in case.scores:
        main = (score.place, score.against) == (case.place, case.against)
        if main or score.apart:
            beside = "" if score.place == score.against else f" beside {score.against}"
            at = "" if main else f" at {score.place}{beside}"
            chance = "beyond chance" if score.apart else "within chance for all scores together"
            yield _with_capital(f"{_name(score)}{at} {_change(score)}, {chance}.")
    if case.here(case.rose) and case.here(case.fell):
        names = [" and ".join(map(_name, case.here(side))) for side in (case.rose, case.fell)]
        yield f"Scores contradict each other: {names[0]} rose, and {names[1]} fell."
    for alarm in case.new_alarms:
        yield f"New alarm: {alarm.cause} at {alarm.place}."
    if lost := case.here(case.lost):
        yield _of_lost(lost)


def _likeness(pair: PlacePair) -> Iterator[str]:
    if pair.rotated_distance is not None:
        as_they_are = "" if pair.distance is None else f", and by {_percent(pair.distance)} as they are"
        best = f"{_percent(pair.rotated_distance)} of their spread after the best rotation, shift and scale"
        yield f"The rows differ by {best}{as_they_are}."
    if pair.overlap is not None:
        side = "below" if pair.overlap < MIN_OVERLAP else "not below"
        chance = "" if pair.by_chance is None else f"; by chance it would be {_percent(pair.by_chance)}"
        limit = f"{side} the limit of {_percent(MIN_OVERLAP)}"
        yield _with_capital(f"{_agree(pair)}, {limit}{chance}.")
    if pair.cka is not None:
        yield f"Linear CKA is {pair.cka:.3f}."
    if pair.kept is not None and pair.added is not None:
        new = f"{_part(pair.added)} of the variance is new"
        yield f"A linear map finds {_part(pair.kept)} of the variance that was there; {new}."
    if pair.cka is None and pair.rotated_distance is None:
        yield "All rows of one side are equal but for rounding, so distances and CKA say nothing."


def _of_lost(lost: Sequence[LostDirection]) -> str:
    """The lost directions: how many, and the largest with the classes that it separated."""
    first = max(lost, key=lambda direction: direction.variance)
    share = _percent(sum(direction.variance for direction in lost))
    several = "A lost direction" if len(lost) == 1 else f"The {len(lost)} largest lost directions"
    kept = f"a linear map finds {_percent(first.kept)} of it"
    largest = f"number {first.number} held {_percent(first.variance)}, and {kept}"
    apart = f" It separated {first.classes[0]} from {first.classes[1]} most." if first.classes else ""
    return f"{several} held {share} of the variance that was there: {largest}.{apart}"


def _agree(pair: PlacePair) -> str:
    if pair.overlap is None:
        return "no neighbours were compared"
    return f"{_percent(pair.overlap)} of nearest rows agree"


def _of_rank(rank: MeasureChange) -> str:
    return f"the effective rank is {rank.now:.1f}, against {rank.before:.1f}"


def _intervals(rank: MeasureChange) -> str:
    if None in (rank.now_low, rank.before_low):
        return ""
    return f"; the 95 % intervals {'do not overlap' if rank.apart else 'overlap'}"


def _name(score: PairedScore) -> str:
    return NAMES.get(score.name, score.name)


def _change(score: PairedScore) -> str:
    values = f"is {_percent(score.now)}, against {_percent(score.before)}"
    low, high = (f"{round(100 * share, 1) + 0.0:+.1f}".replace("-", "−") for share in (score.low, score.high))
    return f"{values} (change: {low} to {high} points)"


def _percent(share: float | None) -> str:
    """A share in percent. Where the other side hardly varies, a distance is any large number."""
    if share is None:
        return "-"
    return f"{100 * share:.1f} %" if share <= _FAR else f"more than {100 * _FAR:,.0f} %"


def _part(share: float | None) -> str:
    """A share of a variance in percent. Estimates from few rows may lie below 0 or above 1."""
    return _percent(None if share is None else min(max(share, 0.0), 1.0))


def _with_capital(text: str) -> str:
    return text[:1].upper() + text[1:]
