"""The page of a diagnosis: verdict, findings, pictures by place, tables. Torch-free."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import yaml

from fullrank.record import DiagnosisEntry, Record
from fullrank.reports.diagnosis import words
from fullrank.reports.diagnosis.figures import (
    ACCURACIES,
    CURVE_DASHES,
    MOST_DIRECTIONS,
    RANKS,
    TIME_DASHES,
    accuracies_figure,
    alignment_figure,
    augmentation_figure,
    dimensions_figure,
    operation_styles,
    place_styles,
    ranks_figure,
    ranks_over_time_figure,
    spectra_figure,
    spectrum_over_time_figure,
    spectrum_places,
)
from fullrank.reports.drawing import Style
from fullrank.reports.layout import Panel, fill, panel
from fullrank.reports.run.figures import Arrays
from fullrank.reports.run.words import machine_line


def render_diagnosis(
    record: Record, diagnosis: DiagnosisEntry, arrays: Arrays | None = None, missing: str = ""
) -> str:
    """The page as text; parts without data are left out. `missing` says why there are no `arrays`."""
    arrays = arrays or {}
    measured, measures = words.measure_table(diagnosis)
    keyed = spectrum_places(diagnosis)
    keyed += [curve.place for curve in diagnosis.dimensions]
    timed = [
        place for place in diagnosis.places if any(key.startswith(f"spectrum/{place}/") for key in arrays)
    ]
    styles = place_styles(list(dict.fromkeys([*keyed, *timed])))
    over_time, undrawn = _time_panels(arrays, timed, styles)
    if words.is_watched(record):
        undrawn += [place for place in diagnosis.places if place not in timed]
    return fill(
        "diagnosis.html.j2",
        title=words.title(record, diagnosis),
        summary=words.summary(record, diagnosis),
        machine=machine_line(record),
        diagnosis=diagnosis,
        headline=words.headline(record, diagnosis),
        cut=words.cut_sentence(diagnosis),
        causes=words.causes(diagnosis.findings),
        side=words.side,
        styles=styles,
        spectra=_spectrum_panels(diagnosis, styles),
        timed=timed,
        over_time=over_time,
        not_drawn=words.not_drawn(undrawn, missing),
        layers=_layer_panels(diagnosis),
        columns=words.layer_columns(diagnosis.layers),
        augmentation=_augmentation_panels(diagnosis),
        dimensions=_dimension_panels(diagnosis, styles),
        alignment=_alignment_panels(diagnosis),
        measured=measured,
        measures=measures,
        recipe=yaml.safe_dump(record.recipe, sort_keys=False, allow_unicode=True) if record.recipe else "",
        recipe_of=words.recipe_of(record),
    )


def _spectrum_panels(diagnosis: DiagnosisEntry, styles: Mapping[str, Style]) -> list[Panel]:
    figure = spectra_figure(diagnosis, styles)
    if figure is None:
        return []
    places = spectrum_places(diagnosis)
    what = f"Log singular values of the covariance of the features, a line for each of: {', '.join(places)}."
    return [panel(figure, "Log spectrum", what, words.zero_note(diagnosis, places))]


def _time_panels(
    arrays: Arrays, names: Sequence[str], styles: Mapping[str, Style]
) -> tuple[list[Panel], list[str]]:
    """Ranks of all names over time and the spectrum of each, and the names whose spectrum cannot be drawn."""
    panels, undrawn = [], []
    figure = ranks_over_time_figure(arrays, names, styles)
    if figure is not None:
        what = f"Effective rank and live dimensions over training, by step, of: {', '.join(names)}."
        note = "Ranks compare a module with itself at other steps; they are no score of quality."
        note += " A gap: not finite, or no variance at all." if _has_gaps(figure) else ""
        kinds = {kind: Style("#666666", dash, "circle") for kind, dash in TIME_DASHES.items()}
        panels.append(panel(figure, "Ranks over time", what, note, kinds))
    for name in names:
        figure = spectrum_over_time_figure(arrays, name)
        if figure is None:
            undrawn.append(name)
            continue
        what = f"Log of the 1st, 2nd, 4th, 8th and so on singular value of {name} over training, by step."
        note = "Each line is the singular value of that rank (1 is the largest)."
        note += " A gap: numerically zero, or not finite." if _has_gaps(figure) else ""
        panels.append(panel(figure, f"Spectrum over time: {name}", what, note))
    return panels, undrawn


def _has_gaps(figure: go.Figure) -> bool:
    return any(np.isnan(trace.y).any() for trace in figure.data)


def _layer_panels(diagnosis: DiagnosisEntry) -> list[Panel]:
    panels = []
    figure = accuracies_figure(diagnosis)
    if figure is not None:
        what = (
            "Accuracy at each place, from the image at the top to the loss; the table below has the numbers."
        )
        note = "On test images. Recall@1: the nearest other image has the same label."
        note += " The band is the place to keep." if diagnosis.cut else ""
        panels.append(panel(figure, "Accuracy by place", what, note, _drawn(figure, ACCURACIES)))
    figure = ranks_figure(diagnosis)
    if figure is not None:
        what = "Ranks at each place, from the image at the top to the loss; the table below has the numbers."
        note = (
            "How many directions the features use. Comparable within one model trained one way; across "
            "different heads a rank is no score of quality."
        )
        panels.append(panel(figure, "Ranks by place", what, note, _drawn(figure, RANKS)))
    return panels


def _augmentation_panels(diagnosis: DiagnosisEntry) -> list[Panel]:
    figure = augmentation_figure(diagnosis)
    if figure is None:
        return []
    what = "Share of each operation in the change between two views; the table below has the numbers."
    return [panel(figure, "Augmentation shares by place", what, "", operation_styles(diagnosis))]


def _dimension_panels(diagnosis: DiagnosisEntry, styles: Mapping[str, Style]) -> list[Panel]:
    figure = dimensions_figure(diagnosis, styles)
    if figure is None:
        return []
    what = "Linear accuracy against the number of dimensions kept; the table below has the numbers."
    kinds = {kind: Style("#666666", dash, "circle") for kind, dash in CURVE_DASHES.items()}
    return [panel(figure, "Accuracy from some of the dimensions", what, "", kinds)]


def _alignment_panels(diagnosis: DiagnosisEntry) -> list[Panel]:
    figure = alignment_figure(diagnosis)
    if figure is None:
        return []
    rows, columns = len(diagnosis.alignment), len(diagnosis.alignment[0])
    what = (
        f"Alignment matrix of two stacked linear maps, {rows} by {columns} cosines from 0, white, to 1, dark."
    )
    cropped = max(rows, columns) > MOST_DIRECTIONS
    note = f"The leading {MOST_DIRECTIONS} directions of {rows} by {columns}." if cropped else ""
    return [panel(figure, "Alignment of two stacked linear maps", what, note)]


def _drawn(figure: go.Figure, styles: Mapping[str, Style]) -> dict[str, Style]:
    """The styles of the measures that the figure really holds."""
    return {trace.name: styles[trace.name] for trace in figure.data}
