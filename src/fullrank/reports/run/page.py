"""One self-contained HTML page from what a command left: `write_page(folder)`. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import yaml

from fullrank.record import Record
from fullrank.record.comparisons import by_head
from fullrank.reports.drawing import distinct_styles
from fullrank.reports.layout import Panel, fill, panel
from fullrank.reports.run import words
from fullrank.reports.run.factors import dial_section
from fullrank.reports.run.figures import (
    Arrays,
    accuracy_figure,
    curve_figure,
    has_series,
    spectrum_figure,
    spectrum_history_figure,
)
from fullrank.reports.run.images import example_rows
from fullrank.reports.run.scores import group_table, shift_table, standardised_note
from fullrank.reports.run.tables import HeadRow, head_table, probed_places, score_rows
from fullrank.statistics import live_dimensions

PAGE_FILE = "report.html"


@dataclass(frozen=True)
class Curve:
    """A series of `arrays.npz` as the page draws it: heading, axis, a note, and the array of its epochs."""

    heading: str
    axis: str
    note: str = ""
    epochs: str = "epoch"


_ONLINE_NOTE = (
    "Probed while training, on augmented views of training images: not the protocol of the table, and not to "
    "be compared with it."
)
CURVES = {
    "loss": Curve("Loss", "loss"),
    "positive_similarity": Curve("Similarity of the two views of an image", "mean cosine similarity"),
    "negative_similarity": Curve("Similarity of views of different images", "mean cosine similarity"),
    "effective_rank": Curve(
        "Effective rank of h",
        "effective rank of h",
        "Estimated on one batch; the table's is on the test split.",
    ),
    "online_linear": Curve("Online linear probe", "online accuracy", _ONLINE_NOTE, "online_epoch"),
    "online_nearest": Curve("Online nearest neighbours", "online accuracy", _ONLINE_NOTE, "online_epoch"),
}


@dataclass(frozen=True)
class Strip:
    """A difference and its interval drawn in a table cell: positions across the cell, 0 to 100."""

    zero: float
    low: float
    mean: float
    high: float


def render(
    record: Record,
    arrays: Mapping[str, Arrays],
    missing: Mapping[str, str] | None = None,
    links: Mapping[str, str] | None = None,
) -> str:
    """The page of a run or study as text; `arrays` by the runs' folders, `missing` says why others lack."""
    rows, heads = head_table(record), list(by_head(record.runs))
    strips = _strips(rows)
    return fill(
        "report.html.j2",
        title=words.title(record),
        summary=words.summary(record, _side(arrays)),
        verdict=words.verdict(record),
        machine=words.machine_line(record),
        command=words.reproduce_command(record),
        record=record,
        rows=rows,
        strips=strips,
        styles=distinct_styles(heads),
        unmatched={
            head: value
            for head, value in (record.published.values if record.published else {}).items()
            if head not in heads
        },
        accuracy=_accuracy_panels(record),
        spectra=_spectrum_panels(record),
        curves=_curve_panels(record, arrays),
        missing=dict(missing or {}),
        examples=next(filter(None, (example_rows(one.get("examples")) for one in arrays.values())), []),
        recipe=yaml.safe_dump(record.recipe, sort_keys=False, allow_unicode=True),
        places=probed_places(record),
        spectrum_places=list(dict.fromkeys(place for run in record.runs for place in run.spectrum)),
        parts=list(dict.fromkeys(part for run in record.runs for part in run.parameters)),
        scores=score_rows(record),
        dial=dial_section(record),
        groups=group_table(record),
        shifts=shift_table(record),
        standardised=standardised_note(record),
        links=dict(links or {}),
    )


def _side(arrays: Mapping[str, Arrays]) -> int | None:
    """The side of the example images, where there are any."""
    examples = (one["examples"] for one in arrays.values() if "examples" in one)
    return next((int(each.shape[2]) for each in examples if each.ndim == 5), None)


def _accuracy_panels(record: Record) -> list[Panel]:
    """Nothing for one or two places: the results table already says all of it."""
    figure = accuracy_figure(record) if len(probed_places(record)) > 2 else None
    if figure is None:
        return []
    return [_panel(record, figure, "Linear accuracy by place", "Linear accuracy at each place of the model")]


def _spectrum_panels(record: Record) -> list[Panel]:
    panels = []
    for place, noun in (("h", "representation h"), ("z", "embedding z")):
        figure = spectrum_figure(record, place)
        if figure is not None:
            heading, what = f"Spectrum of the {noun}", f"Log singular values of the covariance of the {noun}"
            panels.append(_panel(record, figure, heading, what, _collapse_note(record, place)))
    return panels


def _collapse_note(record: Record, place: str) -> str:
    """Which heads have numerically zero singular values at the place, and how many of how many."""
    parts = []
    for head, runs in by_head(record.runs).items():
        spectra = [run.spectrum[place].singular_values for run in runs if place in run.spectrum]
        zeros = [len(values) - live_dimensions(values) for values in spectra]
        if any(zeros):
            span = str(zeros[0]) if len(set(zeros)) == 1 else f"{min(zeros)} to {max(zeros)}"
            parts.append(f"{head}: {span} of {len(spectra[0])}")
    return f"Numerically zero: {'; '.join(parts)}." if parts else ""


def _curve_panels(record: Record, arrays: Mapping[str, Arrays]) -> list[Panel]:
    panels = []
    for series, curve in CURVES.items():
        figure = curve_figure(record, arrays, series, curve.axis, curve.epochs)
        if figure is None:
            continue
        without = [run.folder for run in record.runs if run.folder in arrays]
        without = [name for name in without if not has_series(arrays[name], series, curve.epochs)]
        notes = [curve.note] if curve.note else []
        notes += [f"Not in the arrays of {', '.join(without)}."] if without else []
        what = f"{curve.heading} over training, by epoch"
        panels.append(_panel(record, figure, curve.heading, what, " ".join(notes)))
    if len(record.runs) == 1 and record.runs[0].folder in arrays:
        history = spectrum_history_figure(arrays[record.runs[0].folder])
        if history is not None:
            heading = "Spectrum of h over training"
            what = (
                "Log of the 1st, 2nd, 4th, 8th and so on singular value of the covariance of h over training"
            )
            note = "Each line is the singular value of that rank (1 is the largest), estimated on one batch."
            panels.append(_panel(record, history, heading, what, note))
    return panels


def _panel(record: Record, figure: go.Figure, heading: str, what: str, note: str = "") -> Panel:
    heads = list(by_head(record.runs))
    label = f"{what}. " + (f"One line for each head: {', '.join(heads)}." if len(heads) > 1 else "")
    return panel(figure, heading, label.strip(), note)


def _strips(rows: list[HeadRow]) -> dict[str, Strip]:
    """Where each difference and its interval stand on a common scale that includes zero."""
    found = {row.head: row.difference for row in rows if row.difference}
    ends = [0.0]
    for difference in found.values():
        ends += [end for end in (difference.low, difference.mean, difference.high) if end is not None]
    ends = [end for end in ends if np.isfinite(end)]
    low, high = min(ends), max(ends)
    span = max(high - low, 1e-9)

    def at(value: float | None, otherwise: float) -> float:
        # 4 to 96 leaves room for the dot at either end.
        return round(4 + 92 * ((otherwise if value is None else value) - low) / span, 2)

    return {
        head: Strip(at(0.0, 0.0), at(d.low, d.mean), at(d.mean, d.mean), at(d.high, d.mean))
        for head, d in found.items()
        if np.isfinite(d.mean)
    }
