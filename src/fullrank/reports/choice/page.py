"""The page of a choice without labels: what to keep, how sure that is, every candidate. Torch-free."""

from collections.abc import Mapping

from fullrank.record import ChoiceEntry, Record
from fullrank.reports.choice import figures, tables, words
from fullrank.reports.drawing import Style
from fullrank.reports.layout import Page, Panel, fill, panels
from fullrank.reports.run.words import machine_line
from fullrank.reports.text_tables import choice_table

_IN_THE_TABLE = "the table below has the numbers."


def render_choice(record: Record, entry: ChoiceEntry) -> Page:
    """The page; parts without data are left out."""
    styles = figures.run_styles(entry)
    runs = list(styles)
    of = "files of embeddings" if words.is_of_files(entry) else "runs" if len(runs) > 1 else runs[0]
    return fill(
        "choice.html.j2",
        title=f"Choice without labels: {'places of ' if len(runs) == 1 else ''}{of}",
        summary=words.summary(entry),
        machine=machine_line(record),
        record=record,
        choice=entry,
        words=words,
        styles=styles if len(styles) > 1 else {},
        shortlist=tables.shortlist_table(entry),
        scores=_score_panels(entry, styles),
        candidates=choice_table(entry),
        criteria=tables.criteria_table(entry),
        theory=tables.theory_table(entry),
    )


def _score_panels(entry: ChoiceEntry, styles: Mapping[str, Style]) -> list[Panel]:
    vetoed = any(row.score is None for row in entry.candidates)
    ends = any(row.low is not None for row in entry.candidates)
    notes = ["The line is the 95 % interval over samples of the images."] if ends else []
    notes += (
        ["A grey cross is left out by a veto and has no score; point at it for the reason."] if vetoed else []
    )
    what = f"The score of each candidate, the best at the top; {_IN_THE_TABLE}"
    shown = panels(figures.scores_figure(entry, styles), "Score of every candidate", what, " ".join(notes))
    names = words.part_names(entry)
    size = f" The larger the marker, the larger the rank of {names[2]}." if len(names) > 2 else ""
    shown += panels(
        figures.parts_figure(entry, styles),
        "Parts of the score",
        f"The parts of the score against each other, a marker for each candidate; {_IN_THE_TABLE}",
        f"Numbers mark the shortlist.{size}",
    )
    shown += panels(
        figures.map_figure(entry),
        "Score by run and place",
        f"The score of each run, a row, at each place, a column, from 0, white, to 1, dark; {_IN_THE_TABLE}",
        f"Squares mark the shortlist.{' A × is left out by a veto.' if vetoed else ''}",
    )
    return shown
