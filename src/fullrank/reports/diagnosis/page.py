"""The page of a diagnosis: verdict, findings, pictures by place, tables. Torch-free."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from fullrank.record import DiagnosisEntry, Record, SideBySide
from fullrank.reports.diagnosis import beside as comparison, beside_figures, figures, map as maps, words
from fullrank.reports.diagnosis.similarity import similarity_panels
from fullrank.reports.drawing import Arrays, Style
from fullrank.reports.layout import Page, Panel, fill, panels
from fullrank.reports.numbers import live_note, without_path
from fullrank.reports.redundancy import curves_of_diagnosis, redundancy_section
from fullrank.reports.run.words import machine_line
from fullrank.reports.view_readout import readout_section

_IN_THE_TABLE = "the table below has the numbers."


def render_diagnosis(record: Record, diagnosis: DiagnosisEntry, arrays: Arrays, missing: str) -> Page:
    """The page; parts without data are left out. `missing` says why there are no `arrays`."""
    measured, measures = words.measure_table(diagnosis)
    held = {key.rpartition("/")[0] for key in arrays}
    timed = [place for place in diagnosis.places if f"spectrum/{place}" in held]
    curves = curves_of_diagnosis(diagnosis)
    places = [*words.in_order(diagnosis, diagnosis.spectrum), *(each.place for each in curves), *timed]
    styles = figures.place_styles(list(dict.fromkeys(places)))
    over_time, undrawn = _time_panels(arrays, timed, styles)
    watched = words.is_watched(record)
    section = None if diagnosis.map is None else maps.map_section(diagnosis.map, arrays)
    if watched:
        undrawn += [place for place in diagnosis.places if place not in timed]
    return fill(
        "diagnosis.html.j2",
        title=f"{'Watched training' if watched else 'Diagnosis'} of {without_path(diagnosis.target)}",
        watched=watched,
        summary=words.summary(record, diagnosis),
        machine=machine_line(record),
        diagnosis=diagnosis,
        record=record,
        words=words,
        styles=styles,
        spectra=_spectrum_panels(diagnosis, styles),
        timed=timed,
        over_time=over_time,
        not_drawn=words.not_drawn(undrawn, missing),
        layers=[*_layer_panels(record, diagnosis), *_untrained_panels(diagnosis)],
        augmentation=panels(
            figures.augmentation_figure(diagnosis),
            "Augmentation shares by place",
            f"Share of each operation in the change between two views; {_IN_THE_TABLE}",
            key=figures.operation_styles(diagnosis),
        ),
        dimensions=redundancy_section(
            curves, "draws", [] if diagnosis.images is None else [diagnosis.images]
        ),
        alignment=_alignment_panels(diagnosis),
        readout=readout_section(words.readout(diagnosis), {"": ""}, words.readout_limits(diagnosis)),
        map_section=section,
        map_panels=[] if section is None else [section.panel],
        words_of_map=maps,
        measured=measured,
        measures=measures,
        beside=diagnosis.beside,
        against=None if diagnosis.beside is None else _against(diagnosis, diagnosis.beside),
    )


def _against(diagnosis: DiagnosisEntry, beside: SideBySide) -> dict[str, Any]:
    """What the section of another target shows besides the sentences of the record."""
    return {
        "heading": comparison.heading(beside),
        "headline": comparison.headline(beside),
        "tone": comparison.tone(beside),
        "rows": comparison.rows_sentence(diagnosis, beside),
        "lost": comparison.lost_sentences(beside),
        "tables": comparison.tables(diagnosis, beside),
        "panels": _against_panels(diagnosis, beside),
    }


def _against_panels(diagnosis: DiagnosisEntry, beside: SideBySide) -> list[Panel]:
    """The differences of accuracies, and the spectra of both in one figure."""
    shown = panels(
        beside_figures.differences_figure(diagnosis, beside),
        "Differences of accuracies",
        "Each difference of accuracies with its 95 % interval, around zero; the table has the numbers.",
        "Filled: beyond chance, all differences together.",
        beside_figures.score_styles(beside),
    )
    figure, styles = beside_figures.sides_figure(diagnosis, beside)
    place, against = beside.main_places
    at = place if place == against else f"{place} and {against}"
    what = f"Log singular values of the covariance of the features of both at {at}."
    note = "Relative to the largest of each. A cross: dimensions after it are not live."
    shown += panels(figure, f"Spectra of both at {at}", what, note, styles)
    return shown + [panel for each in beside.maps for panel in similarity_panels(each)]


def _spectrum_panels(diagnosis: DiagnosisEntry, styles: Mapping[str, Style]) -> list[Panel]:
    places = words.in_order(diagnosis, diagnosis.spectrum)
    what = f"Log singular values of the covariance of the features, a line for each of: {', '.join(places)}."
    live = live_note({place: [diagnosis.spectrum[place].singular_values] for place in places})
    note = f"{live} A line ends in a cross after the last of them." if live else ""
    return panels(figures.spectra_figure(diagnosis, styles), "Log spectrum", what, note)


def _time_panels(
    arrays: Arrays, names: Sequence[str], styles: Mapping[str, Style]
) -> tuple[list[Panel], list[str]]:
    """Ranks of all names over time and the spectrum of each, and the names whose spectrum cannot be drawn."""
    figure = figures.ranks_over_time_figure(arrays, names, styles)
    what = f"Effective rank and live dimensions over training, by step, of: {', '.join(names)}."
    note = "Compare the ranks of a module only with its own at other steps; they are not a quality score."
    note += " A gap: not finite, or no variance at all." if _has_gaps(figure) else ""
    shown, undrawn = panels(figure, "Ranks over time", what, note, figures.TIME_STYLES), []
    figure = figures.loss_over_time_figure(arrays) if names else None
    note = "Each point is the mean over the steps since the point before."
    note += " A gap: not finite." if _has_gaps(figure) else ""
    shown += panels(figure, "Loss over time", "The training loss, by step.", note)
    for name in names:
        figure = figures.spectrum_over_time_figure(arrays, name)
        undrawn += [name] if figure is None else []
        what = f"Log of the 1st, 2nd, 4th, 8th and so on singular value of {name} over training, by step."
        note = "Each line is the singular value of that rank (1 is the largest)."
        note += " A gap: not finite, or not live." if _has_gaps(figure) else ""
        shown += panels(figure, f"Spectrum over time: {name}", what, note)
    return shown, undrawn


def _has_gaps(figure: go.Figure | None) -> bool:
    return figure is not None and any(np.isnan(trace.y).any() for trace in figure.data)


def _layer_panels(record: Record, diagnosis: DiagnosisEntry) -> list[Panel]:
    band = " The band is the place to keep." if diagnosis.cut else ""
    accuracies = f"On test images. Recall@1: the nearest other image has the same label.{band}"
    ranks = (
        "How many directions the features use. Compare ranks only within one model that is trained in one "
        f"way; across different heads a rank is not a quality score.{words.gradient_note(record)}"
    )
    shown: list[Panel] = []
    for what, figure, styles, note in (
        ("Accuracy", figures.accuracies_figure(diagnosis), figures.ACCURACIES, accuracies),
        ("Ranks", figures.ranks_figure(diagnosis), figures.RANKS, ranks),
    ):
        key = {trace.name: styles[trace.name] for trace in figure.data} if figure else {}
        label = f"{what} at each place, from the image at the top to the loss; the table has the numbers."
        shown += panels(figure, f"{what} by place", label, note, key)
    return shown


def _untrained_panels(diagnosis: DiagnosisEntry) -> list[Panel]:
    return [] if diagnosis.untrained is None else similarity_panels(diagnosis.untrained)


def _alignment_panels(diagnosis: DiagnosisEntry) -> list[Panel]:
    rows, columns = len(diagnosis.alignment), len(next(iter(diagnosis.alignment), []))
    maps, most = "of two stacked linear maps", figures.MOST_DIRECTIONS
    what = f"Alignment matrix {maps}, {rows} by {columns} cosines from 0, white, to 1, dark."
    note = f"The leading {most} directions of {rows} by {columns}." if max(rows, columns) > most else ""
    return panels(figures.alignment_figure(diagnosis), f"Alignment {maps}", what, note)
