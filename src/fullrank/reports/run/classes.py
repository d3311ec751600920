"""The section on unequal classes: a table of probes, sentences, and figures of the classes. Torch-free."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from fullrank.record import Record
from fullrank.record.comparisons import by_row
from fullrank.record.scores import Probe
from fullrank.reports import drawing
from fullrank.reports.class_words import class_sentences
from fullrank.reports.classes import MEANING, PROBE_NAMES, ClassRow, ClassTable, class_tables
from fullrank.reports.layout import Panel, panels
from fullrank.reports.run.rows import row_names
from fullrank.statistics import binomial_interval

# So many heads have figures; a study may have dozens.
MOST_DRAWN = 6
# So many classes have their names on the axis; a figure is at most as high as that.
_MOST_NAMED = 60
_ROW, _MARGINS, _LOWEST = 22, 90, 260
STYLES = dict(zip(PROBE_NAMES, drawing.distinct_styles(list(PROBE_NAMES.values())).values(), strict=True))


def class_section(record: Record) -> dict[str, Any] | None:
    """What the page of a run or study shows of its classes; None where no score is of a class."""
    names = row_names(record.runs)
    scores = {
        names.short(row): [one for run in runs for one in run.scores]
        for row, runs in by_row(record.runs).items()
    }
    if not (tables := class_tables(scores)):
        return None
    shown = _shown(tables)
    several = len(scores) > 1
    sentences = [
        f"{f'{table.head}: ' if several else ''}{' '.join(said)}"
        for table in shown
        if (said := class_sentences(table))
    ]
    figures = [panel for table in shown[:MOST_DRAWN] for panel in class_panels(table)]
    note = (
        f" The figures show the first {MOST_DRAWN} of {len(shown)} rows." if len(shown) > MOST_DRAWN else ""
    )
    return {
        "tables": tables,
        "several": several,
        "splits": len({table.split for table in tables}) > 1,
        "labels": len({table.label for table in tables}) > 1,
        "place": shown[0].title,
        "sentences": sentences,
        "panels": figures,
        "names": PROBE_NAMES,
        "meaning": f"{MEANING}{note}",
    }


def class_panels(table: ClassTable) -> list[Panel]:
    """The accuracies by class, and the bias beside them, of the three probes."""
    if not table.rows:
        return []
    where = f"{f'{table.head}, ' if table.head else ''}{table.place}"
    key = {PROBE_NAMES[row.probe]: STYLES[row.probe] for row in table.probes}
    error = any(row.images is not None for row in table.rows)
    note = (
        "Bars: 95 %, from the number of test images of a class, without the noise of training."
        if error
        else ""
    )
    order = "Classes from top to bottom, the worst of the linear probe first"
    return [
        *panels(
            accuracy_figure(table),
            f"Accuracy by class, {where}",
            f"Accuracy of each class under each probe. {order}.",
            note,
            key,
        ),
        *panels(
            bias_figure(table),
            f"Prediction bias by class, {where}",
            f"Predictions of each class over its test images, under each probe. {order}.",
            "1 is fair; a class to the right of it is predicted too often.",
            key,
        ),
    ]


def accuracy_figure(table: ClassTable) -> go.Figure:
    """The accuracy of each class in points with 95 % error bars, a row for each class, the worst on top."""
    figure = _figure(table, "accuracy (points)")
    for i, row in enumerate(table.probes):
        own = [each for each in table.rows if row.probe in each.probes]
        if own:
            values = [each.probes[row.probe].accuracy for each in own]
            bars = _error_bars(own, row.probe)
            _add(figure, table, row.probe, i, values, "%{customdata}: %{x:.1f}", error_x=bars)
    figure.update_xaxes(rangemode="tozero")
    return figure


def _error_bars(rows: Sequence[ClassRow], probe: Probe) -> dict[str, Any]:
    """Wilson's intervals, which have a width at 0 and at 100 points too; none without numbers of images."""
    ends = [
        (0.0, 0.0) if row.images is None else _distances(row.probes[probe].accuracy / 100, row.images)
        for row in rows
    ]
    below, above = zip(*ends, strict=True)
    return {"array": above, "arrayminus": below, "thickness": 1.2, "width": 0}


def _distances(share: float, images: int) -> tuple[float, float]:
    low, high = binomial_interval(min(max(share, 0.0), 1.0), images)
    return 100 * max(share - low, 0.0), 100 * max(high - share, 0.0)


def bias_figure(table: ClassTable) -> go.Figure:
    """The prediction bias of each class, rows as in `accuracy_figure`, with a line at 1."""
    figure = _figure(table, "prediction bias")
    line = {"color": drawing.INK, "dash": "dot", "width": 1.2}
    figure.add_shape(type="line", x0=1, x1=1, y0=0, y1=1, yref="paper", line=line)
    for i, row in enumerate(table.probes):
        values = [each.probes[row.probe].bias for each in table.rows if row.probe in each.probes]
        _add(figure, table, row.probe, i, values, "%{customdata}: %{x:.2f}")
    return figure


def _figure(table: ClassTable, x_title: str) -> go.Figure:
    figure, count = drawing.empty_figure(x_title, ""), len(table.rows)
    names = [drawing.plain_text(row.name) for row in table.rows] if count <= _MOST_NAMED else []
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[count - 0.4, -0.6], showgrid=bool(names)
    )
    if not names:
        figure.update_yaxes(title={"text": f"{count:,} classes, worst first"})
    figure.update_layout(height=max(_LOWEST, _MARGINS + _ROW * min(count, _MOST_NAMED)))
    return figure


def _add(
    figure: go.Figure,
    table: ClassTable,
    probe: Probe,
    number: int,
    values: Sequence[float | None],
    said: str,
    **more: Any,
) -> None:
    """Add the markers of a probe, a little above or below the middle of each row."""
    many = len(table.rows) > _MOST_NAMED
    rows = [i for i, row in enumerate(table.rows) if probe in row.probes]
    shift = 0.0 if many else 0.22 * (number - (len(table.probes) - 1) / 2)
    look: dict[str, Any] = {
        "mode": "markers",
        "marker": STYLES[probe].marker(4 if many else 7),
        "customdata": [drawing.plain_text(table.rows[i].name + _taken(table, i, probe)) for i in rows],
    }
    name = PROBE_NAMES[probe]
    drawing.add_line(figure, values, [i + shift for i in rows], name, said, "classes", **look, **more)


def _taken(table: ClassTable, number: int, probe: Probe) -> str:
    """What the linear probe takes a class for most often, for a pointer; "" for other probes."""
    row = table.rows[number]
    return f" (taken for {row.taken_for}: {row.taken:.1f})" if row.taken_for and probe == "linear" else ""


def _shown(tables: Sequence[ClassTable]) -> list[ClassTable]:
    """The table of each head that sentences and figures are about: h on test images, or else the first."""
    chosen: dict[str, ClassTable] = {}
    for table in tables:
        first = chosen.setdefault(table.head, table)
        if (table.place, table.split, table.label) == ("h", "test", "label") and first.place != "h":
            chosen[table.head] = table
    return list(chosen.values())
