"""Two targets side by side on the same rows: what a record says of their likeness and of what changed."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from fullrank.record.spectra import Spectrum

Verdict = Literal["same", "rotated", "collapsed", "worse", "better", "drifted", "not told apart"]

# A smaller change of a score is neither better nor worse, however sure it is: average precisions move by less
# in every copy of a file.
LEAST_CHANGE = 0.005


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PlacePair(_Part):
    """How alike the features at a place are to those of the other target at `against`, on the same rows.

    `cka` is linear CKA without bias. `overlap` is the share of each row's `neighbours` nearest rows that both
    agree on, among `compared` rows, with its 95 % interval; `by_chance` is that of unrelated features.
    `angles` are the angles in degrees between the leading components (99 % of the variance) of both.
    `distance` is that of the rows over the spread of the other target, None for unlike widths, and
    `rotated_distance` what is left of it after the best rotation, shift and scale. `kept` is the share of the
    other target's variance that a linear map of this one explains, and `added` the share of this one's
    variance that a linear map of the other does not explain. None: not measured, or nothing varies.
    """

    place: str
    against: str
    rows: int
    widths: tuple[int, int]
    cka: float | None
    overlap: float | None
    overlap_low: float | None = None
    overlap_high: float | None = None
    by_chance: float | None = None
    neighbours: int = 0
    compared: int = 0
    angles: list[float] = []
    distance: float | None = None
    rotated_distance: float | None = None
    kept: float | None = None
    added: float | None = None


class PairedScore(_Part):
    """An accuracy of both targets on the same test rows, 0 to 1, and their difference.

    `low` and `high` bound the 95 % interval of the difference, now less before, by a bootstrap over test rows
    that is paired where `paired`. `apart` says whether the interval that holds for all scores together leaves
    out zero.
    """

    place: str
    against: str
    name: str
    now: float
    before: float
    difference: float
    low: float
    high: float
    tested: int
    paired: bool = True
    apart: bool = False


class MeasureChange(_Part):
    """A measure at a place of both targets; the intervals are those of each alone, where it has one."""

    place: str
    against: str
    name: str
    now: float | None
    before: float | None
    now_low: float | None = None
    now_high: float | None = None
    before_low: float | None = None
    before_high: float | None = None
    apart: bool = False


class LostDirection(_Part):
    """A principal direction of the other target that this one has lost.

    `number` counts from 1, the largest. `variance` is its share of the variance, and `kept` the share of it
    that a linear map of this target explains. `classes` names the two labels that it separates most, where
    there are labels.
    """

    place: str
    number: int
    variance: float
    kept: float
    classes: list[str] = []


class SimilarityMap(_Part):
    """Linear CKA without bias of every place of one net with every place of another.

    `values` has a list for each of `places` with a number for each of `against`; None where nothing varies.
    `target` names the other net: the one compared with, or the untrained one.
    """

    target: str
    places: list[str]
    against: list[str]
    values: list[list[float | None]]
    rows: int


class SideBySide(_Part):
    """A diagnosis beside another target, row by row.

    `target` is the other target and `matched` how rows were matched: by id, by their order, or not at all,
    where both are compared as two sets. `rows` are the matched rows, `only_here` and `only_there` counts of
    the rows that have no partner; `about` has sentences on how rows were matched. `verdict` is one word,
    `sentence` says it with its figures and `reasons` has a sentence for each. `worse` is whether anything got
    worse. `not_compared` has a sentence for everything that could not be compared. `spectrum` has the spectra
    of the other target, by its own places.
    """

    target: str
    matched: Literal["id", "order", "none"]
    rows: int
    only_here: int = 0
    only_there: int = 0
    about: list[str] = []
    verdict: Verdict
    sentence: str
    reasons: list[str]
    worse: bool = False
    pairs: list[PlacePair]
    scores: list[PairedScore] = []
    measures: list[MeasureChange] = []
    lost: list[LostDirection] = []
    new_alarms: list[str] = []
    maps: list[SimilarityMap] = []
    not_compared: list[str] = []
    spectrum: dict[str, Spectrum] = {}

    @property
    def main_places(self) -> tuple[str, str]:
        """The place that the verdict is about and that of the other target: h, else the last one."""
        places = [(each.place, each.against) for each in (self.pairs or self.scores or self.measures)]
        of_h = [pair for pair in places if pair[0] == "h"]
        return (of_h or places or [("", "")])[-1]

    @property
    def main(self) -> PlacePair | None:
        """The likeness at the main place; None where rows were not matched."""
        return next((pair for pair in self.pairs if pair.place == self.main_places[0]), None)
