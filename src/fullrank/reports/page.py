"""One self-contained HTML page from what a command left: `write_page(folder)`. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import plotly.graph_objects as go
import yaml

from fullrank.errors import DataError, FullDiskError, UsageError, disk_is_full
from fullrank.record import ARRAYS_FILE, Record, load_arrays, write_whole
from fullrank.reports import words
from fullrank.reports.diagnosis_page import render_diagnosis
from fullrank.reports.diagnosis_words import is_watched
from fullrank.reports.dial import dial_section
from fullrank.reports.drawing import distinct_styles
from fullrank.reports.figures import (
    Arrays,
    accuracy_figure,
    curve_figure,
    has_series,
    spectrum_figure,
    spectrum_history_figure,
)
from fullrank.reports.images import example_rows
from fullrank.reports.layout import Panel, fill, panel
from fullrank.reports.score_tables import group_table, shift_table, standardised_note
from fullrank.reports.table_page import render_table
from fullrank.reports.tables import (
    HeadRow,
    by_head,
    effective_dimension,
    head_table,
    probed_places,
    score_rows,
)
from fullrank.reports.theory_page import render_theory

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


def write_page(folder: Path) -> Path:
    """Write `report.html` into the folder of a finished command, whole or not at all; return its path.

    Everything shown comes from `record.json` and `arrays.npz`, those of its runs for a study. Arrays that are
    missing or damaged leave their figures out, and the page says which. Raises DataError where there is no
    readable record, UsageError for a record that holds none of a run, a diagnosis and a theory run, and
    FullDiskError where the disk has no room for the page.
    """
    folder = Path(folder)
    record = Record.load(folder)
    if record.kind == "diagnosis" and record.diagnosis is not None:
        # Only a watched training has arrays at all times; what another diagnosis lacks is not missing.
        timed = is_watched(record) or (folder / ARRAYS_FILE).exists()
        page = render_diagnosis(record, record.diagnosis, *(_arrays_of(folder) if timed else ({}, "")))
    elif record.kind == "theory" and record.theory is not None:
        page = render_theory(record, record.theory, *_arrays_of(folder))
    elif record.kind == "study" and record.table is not None:
        page = render_table(record, record.table, _links(folder, record))
    elif record.kind in ("run", "study") and record.runs:
        arrays, missing = _read_arrays(folder, record)
        page = render(record, arrays, missing, _links(folder, record))
    else:
        raise UsageError(
            f"{folder} holds an empty {record.kind} of {len(record.runs)} runs; a page is made of a "
            "diagnosis, a theory run, or a run or a study with at least one run."
        )
    path = folder / PAGE_FILE
    try:
        write_whole(path, page.encode())
    except OSError as error:
        if not disk_is_full(error):
            raise
        raise FullDiskError(
            f"The disk has no room for {path}; the record is kept, and once there is room "
            f"`fullrank report {folder}` writes the page."
        ) from None
    return path


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


def _read_arrays(folder: Path, record: Record) -> tuple[dict[str, Arrays], dict[str, str]]:
    """The arrays of each run by its folder, and for those that cannot be read, why."""
    arrays: dict[str, Arrays] = {}
    missing: dict[str, str] = {}
    for run in record.runs:
        held, why = _arrays_of(folder / run.folder)
        if why:
            missing[run.folder] = why
        else:
            arrays[run.folder] = held
    return arrays, missing


def _arrays_of(folder: Path) -> tuple[Arrays, str]:
    """The arrays in a folder, and where they cannot be read, none and why."""
    if not (folder / ARRAYS_FILE).is_file():
        return {}, f"no {ARRAYS_FILE}"
    try:
        return load_arrays(folder), ""
    except DataError as error:
        return {}, str(error).partition(";")[0]


def _links(folder: Path, record: Record) -> dict[str, str]:
    """The address of each run's own page, where it has one."""
    return {
        run.folder: f"{quote(run.folder)}/{PAGE_FILE}"
        for run in record.runs
        if run.folder != "." and (folder / run.folder / PAGE_FILE).is_file()
    }


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
        zeros = [len(values) - effective_dimension(values) for values in spectra]
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
