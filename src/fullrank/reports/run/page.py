"""The page of a run or study: results, pictures, and how to do it again. Torch-free."""

from collections.abc import Iterator, Mapping
from itertools import chain

import plotly.graph_objects as go

from fullrank.record import Record
from fullrank.reports.corrections import corrections_section
from fullrank.reports.denominators import baseline_rows, images_of, sample_sentences
from fullrank.reports.drawing import Arrays, distinct_styles, series_of
from fullrank.reports.layout import Page, Panel, fill, panels
from fullrank.reports.numbers import live_note
from fullrank.reports.redundancy import curves_of_record, redundancy_section
from fullrank.reports.run import figures, words
from fullrank.reports.run.alarms import training_alarms
from fullrank.reports.run.classes import class_section
from fullrank.reports.run.factors import dial_section
from fullrank.reports.run.images import example_rows
from fullrank.reports.run.rows import row_names
from fullrank.reports.run.scores import group_table, head_notes, shift_table
from fullrank.reports.run.tables import HeadRow, head_table, probed_places, score_rows, unlisted_classes
from fullrank.reports.segmentation import segmentation_section
from fullrank.reports.view_readout import readout_section, record_readout, views_of

_BATCH_NOTE = "Estimated on one batch; the table's is on the test split."
_ONLINE_NOTE = (
    "Probed while training, on augmented views of training images: not the protocol of the table, and not to "
    "be compared with it."
)
_TERM_NOTE = "The value of the term times its weight, which is added to the loss."
_PART_NOTE = "A part of the objective with its weight; the parts sum to the loss of the objective."
# The beginnings of the names of the series of a term, and of a part of the objective.
_SUMMANDS = {"loss of ": _TERM_NOTE, "objective: ": _PART_NOTE}
# For each series of `arrays.npz` its heading, axis and note, and the array of its epochs.
CURVES = {
    "loss": ("Loss", "loss", "", "epoch"),
    "positive_similarity": ("Similarity of the two views of an image", "mean cosine similarity", "", "epoch"),
    "negative_similarity": ("Similarity of views of different images", "mean cosine similarity", "", "epoch"),
    "effective_rank": ("Effective rank of h", "effective rank of h", _BATCH_NOTE, "epoch"),
    "online_linear": ("Online linear probe", "online accuracy", _ONLINE_NOTE, "online_epoch"),
    "online_nearest": ("Online nearest neighbours", "online accuracy", _ONLINE_NOTE, "online_epoch"),
}


def render(
    record: Record,
    arrays: Mapping[str, Arrays],
    missing: Mapping[str, str],
    links: Mapping[str, str],
    recipe: str = words.RECIPE_FILE,
) -> Page:
    """The page of a run or study.

    Args:
        record: What the run or study left.
        arrays: The arrays of each run, by its folder.
        missing: Why the arrays of other runs are missing, by their folders.
        links: The address of each run's own page, by its folder.
        recipe: The path of the recipe's file, as a command names it.
    """
    rows, names = head_table(record), row_names(record.runs)
    published = record.published.values if record.published else {}
    examples = [one["examples"] for one in arrays.values() if "examples" in one]
    side = next((int(each.shape[2]) for each in examples if each.ndim == 5), None)
    return fill(
        "report.html.j2",
        title=words.title(record),
        summary=words.summary(record, side),
        verdict=words.verdict(record),
        machine=words.machine_line(record),
        command=words.reproduce_command(record, recipe),
        not_repeatable=words.not_repeatable(record),
        record=record,
        alarms=training_alarms(record),
        rows=rows,
        strips=_strips(rows),
        names=names,
        apart=words.OTHER_IMAGES if len({row.against for row in rows}) > 1 else "",
        baselines=baseline_rows(record.runs),
        denominators=sample_sentences(record.runs),
        styles=distinct_styles(names.shorts),
        unmatched={head: value for head, value in published.items() if head not in names.values},
        accuracy=accuracy_panels(record),
        spectra=list(spectrum_panels(record)),
        curves=[*curve_panels(record, arrays), *_history_panels(record, arrays)],
        missing=missing,
        examples=next(filter(None, map(example_rows, examples)), []),
        places=probed_places(record),
        spectrum_places=list(dict.fromkeys(place for run in record.runs for place in run.spectrum)),
        parts=list(dict.fromkeys(part for run in record.runs for part in run.parameters)),
        scores=score_rows(record),
        unlisted=unlisted_classes(record),
        dial=dial_section(record),
        readout=readout_section(
            record_readout(record), {row: names.short(row) for row in names.values}, views_of(record)
        ),
        directions=redundancy_section(
            curves_of_record(record, {row: names.short(row) for row in names.values}),
            "draws" if len(rows) == len(record.runs) else "seeds",
            images_of(record.runs, None),
        ),
        objects=segmentation_section(record, arrays),
        groups=group_table(record),
        classes=class_section(record),
        corrections=corrections_section(record),
        shifts=shift_table(record),
        head_notes=head_notes(record),
        links=links,
    )


def accuracy_panels(record: Record) -> list[Panel]:
    """Nothing for one or two places: the results table already shows both."""
    figure = figures.accuracy_figure(record) if len(probed_places(record)) > 2 else None
    return _panels(record, figure, "Linear accuracy by place", "Linear accuracy at each place of the model")


def spectrum_panels(record: Record) -> Iterator[Panel]:
    """The spectra of h and of z."""
    for place, noun in (("h", "representation h"), ("z", "embedding z")):
        spectra = {
            head.name: [run.spectrum[place].singular_values for run in head.runs if place in run.spectrum]
            for head in figures.drawn_heads(record)
        }
        heading, what = f"Spectrum of the {noun}", f"Log singular values of the covariance of the {noun}"
        yield from _panels(record, figures.spectrum_figure(record, place), heading, what, live_note(spectra))


def curve_panels(record: Record, arrays: Mapping[str, Arrays]) -> Iterator[Panel]:
    """Each series over training; its note says which runs lack it. What the loss sums follows the loss."""
    summands = {
        name: (f"{name[0].upper()}{name[1:]}", name, note, "epoch")
        for start, note in _SUMMANDS.items()
        for name in sorted({name for one in arrays.values() for name in one if name.startswith(start)})
    }
    for series, (heading, axis, note, epochs) in ({"loss": CURVES["loss"]} | summands | CURVES).items():
        lacking = series not in summands and [
            run.folder
            for run in record.runs
            if run.folder in arrays and series_of(arrays[run.folder], epochs, series) is None
        ]
        absent = f"Not in the arrays of {', '.join(lacking)}." if lacking else ""
        if series == "loss":
            note = words.cautions(record)
        figure = figures.curve_figure(record, arrays, series, axis, epochs)
        what = f"{heading} over training, by epoch"
        yield from _panels(record, figure, heading, what, f"{note} {absent}".strip())


def _history_panels(record: Record, arrays: Mapping[str, Arrays]) -> list[Panel]:
    if len(record.runs) != 1:
        return []
    figure = figures.spectrum_history_figure(arrays.get(record.runs[0].folder, {}))
    what = "Log of the 1st, 2nd, 4th, 8th and so on singular value of the covariance of h over training"
    note = "Each line is the singular value of that rank (1 is the largest), estimated on one batch."
    return _panels(record, figure, "Spectrum of h over training", what, note)


def _panels(record: Record, figure: go.Figure | None, heading: str, what: str, note: str = "") -> list[Panel]:
    names = row_names(record.runs).shorts
    lines = f" One line for each row: {'; '.join(names)}." if len(names) > 1 else ""
    return panels(figure, heading, f"{what}.{lines}", note)


def _strips(rows: list[HeadRow]) -> dict[str, dict[str, float]]:
    """Where zero, each difference and its interval are in a cell 100 wide, on one scale for all rows."""
    marks = {}
    for row in rows:
        if row.difference:
            mean = row.difference.mean
            low, high = (mean if end is None else end for end in (row.difference.low, row.difference.high))
            marks[row.head] = {"zero": 0.0, "low": low, "mean": mean, "high": high}
    ends = [0.0, *chain.from_iterable(each.values() for each in marks.values())]
    least, width = min(ends), max(max(ends) - min(ends), 1e-9)
    # 4 to 96 leaves room for the dot at either end.
    return {
        head: {name: round(4 + 92 * (value - least) / width, 2) for name, value in each.items()}
        for head, each in marks.items()
    }
