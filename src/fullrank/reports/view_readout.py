"""What features say about the views, as a table of operations and places, and in sentences. Torch-free."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fullrank.errors import few_of
from fullrank.record import Record, Score
from fullrank.record.comparisons import by_row, grouped, mean_of
from fullrank.record.operations import PIXELS
from fullrank.record.scores import R2
from fullrank.reports.run.rows import row_names
from fullrank.reports.run.tables import by_depth
from fullrank.statistics import Estimate

# A fall of a score from h to z that is named.
LEAST_FALL = 0.1
MEANING = (
    "R² is the share of variance that a linear map explains, of the difference in a parameter between two "
    "views: 1 is perfect, 0 is chance. AUROC says how well a linear map of one view detects that the "
    "operation was applied to it: 1 is perfect, 0.5 is chance. A score that is high at h and low at z shows "
    "what the head discards. Compare only scores of the same views. Pixels: the views themselves, averaged "
    "down to 8 x 8."
)


@dataclass(frozen=True)
class ReadoutRow:
    """An operation, or one of its numbers: a cell for each place, mean over seeds; None where it is missing.

    `head` is the full name of the row of the study.
    """

    head: str
    operation: str
    statistic: str
    cells: tuple[Estimate | None, ...]

    @property
    def shown(self) -> str:
        """The statistic as it is written."""
        return "R²" if self.statistic == R2 else self.statistic

    @property
    def is_part(self) -> bool:
        """Whether it is one number of an operation that has several."""
        return " " in self.operation

    def at(self, place: str, places: Sequence[str]) -> float | None:
        """The score at a place, not below chance; None where it is missing."""
        cell = self.cells[places.index(place)] if place in places else None
        return None if cell is None else max(cell.mean, 0.0 if self.statistic == R2 else 0.5)


@dataclass(frozen=True)
class ReadoutTable:
    """The rows, the places from the pixels to the loss, and what the head discards, in sentences."""

    places: tuple[str, ...]
    rows: tuple[ReadoutRow, ...]
    sentences: tuple[str, ...]


def readout_section(
    table: ReadoutTable | None, heads: Mapping[str, str], about: str = ""
) -> dict[str, Any] | None:
    """What a page shows of a table; `heads` has the short name of each row of a study."""
    if table is None:
        return None
    return {"table": table, "meaning": MEANING, "text": cell_text, "heads": heads, "about": about}


def views_of(record: Record) -> str:
    """The views of a run or study, in a sentence; "" if its rows differ in them."""
    differ = any("views" in run.varied for run in record.runs)
    return "" if differ or "views" not in record.recipe else f"Views: {record.recipe['views']}."


def readout_table(scores: Iterable[Score]) -> ReadoutTable | None:
    """The table of one model's scores; None without scores of views."""
    return _table({"": list(scores)}, {"": ""})


def record_readout(record: Record) -> ReadoutTable | None:
    """The table of a run or study; None without scores of views."""
    names = row_names(record.runs)
    by_head = {row: [one for run in runs for one in run.scores] for row, runs in by_row(record.runs).items()}
    several = len(by_head) > 1
    return _table(by_head, {row: f"{names.short(row)}: " if several else "" for row in by_head})


def cell_text(estimate: Estimate | None) -> str:
    """A cell with two decimals, and half of its interval over seeds where there is one.

    >>> cell_text(Estimate(0.613)), cell_text(None)
    ('0.61', '–')
    """
    if estimate is None:
        return "–"
    return f"{estimate.mean:.2f}" + ("" if estimate.half is None else f" ± {estimate.half:.2f}")


def _table(by_head: Mapping[str, Sequence[Score]], names: Mapping[str, str]) -> ReadoutTable | None:
    cells = grouped(
        ((head, score.subject, score.statistic, score.place), score.value)
        for head, scores in by_head.items()
        for score in scores
        if score.kind.by_operation
    )
    # Pixels are no place of the encoder, and come first.
    places = by_depth(list(dict.fromkeys(place for *_, place in cells if place != PIXELS)))
    places = [PIXELS, *places] if any(key[-1] == PIXELS for key in cells) else places
    rows = [
        ReadoutRow(*key, tuple(mean_of(cells.get((*key, place), ())) for place in places))
        for key in dict.fromkeys(key[:-1] for key in cells)
    ]
    said = {
        name: _discarded([row for row in rows if row.head == head], places) for head, name in names.items()
    }
    sentences = [f"{name}{sentence}" for name, sentence in said.items() if sentence]
    return ReadoutTable(tuple(places), tuple(rows), tuple(sentences)) if rows else None


def _discarded(rows: Sequence[ReadoutRow], places: Sequence[str]) -> str:
    """Which operations h shows clearly better than z, the largest fall first; "" without h or z."""
    ends = [(row, row.at("h", places), row.at("z", places)) for row in rows if not row.is_part]
    both = [(row, h, z) for row, h, z in ends if h is not None and z is not None]
    if not both:
        return ""
    both.sort(key=lambda each: each[2] - each[1])
    fallen = [each for each in both if each[1] - each[2] >= LEAST_FALL]
    if not fallen:
        return f"No operation is read {LEAST_FALL:g} worse at z than at h."
    named = [f"{row.operation} ({row.shown} {h:.2f} at h, {z:.2f} at z)" for row, h, z in fallen]
    return f"The head discards a part of {few_of(named)}."
