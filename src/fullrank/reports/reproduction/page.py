"""The page of a reproduced table: the paper's numbers beside ours, what came out, its figures. Torch-free."""

from collections.abc import Mapping

import plotly.graph_objects as go

from fullrank.record import Record, TableEntry
from fullrank.reports.drawing import distinct_styles, empty_figure, faint, plain_text
from fullrank.reports.layout import Panel, fill, panel
from fullrank.reports.reproduction.words import (
    cell,
    difference,
    outcome,
    paper_number,
    shown,
    verdict,
    with_paper,
)
from fullrank.reports.run.figures import spectrum_figure
from fullrank.reports.run.scores import standardised_note
from fullrank.reports.run.words import machine_line


def render_table(record: Record, table: TableEntry, links: Mapping[str, str]) -> str:
    """The page as text; `links` are the addresses of the runs' own pages, by their folders."""
    first = table.rows[0]
    rows = [
        {
            "title": row.title,
            "paper": [paper_number(row, column, unit) for column, unit in enumerate(table.units)],
            "ours": [
                shown(cell(row, column), unit, column in table.differences)
                for column, unit in enumerate(table.units)
            ],
            "against": difference(row, first, 0) if table.alike and row is not first else None,
            "chosen": row.chosen,
            "expected": row.expected,
            "theory": row.theory,
            "outcomes": [outcome(row, column) for column in table.differences],
        }
        for row in table.rows
    ]
    return fill(
        "table.html.j2",
        title=table.title,
        summary=f"{table.question} ({table.source}; {table.name}, scale {table.scale})",
        verdict=verdict(table),
        machine=machine_line(record),
        device=record.machine.device if record.machine.device != "cpu" else record.machine.processor,
        record=record,
        table=table,
        rows=rows,
        first=first.title if table.alike and len(rows) > 1 else None,
        judged=any(row.expected is not None for row in table.rows),
        with_paper=[with_paper(table, column) for column in range(len(table.columns))],
        shown=lambda estimate: shown(estimate, "points", sign=True),
        standardised=standardised_note(record),
        panels=[*_sweep_panels(table), *_spectrum_panels(record, table)],
        links=dict(links),
        command=f"fullrank reproduce {table.name} --scale {table.scale}",
    )


def sweep_figure(table: TableEntry, unit: str) -> go.Figure | None:
    """The columns of a unit against x, mean over seeds with its 95 % interval; rows without x are flat lines.

    Returns None where fewer than two rows have an x, or no column has that unit.
    """
    placed = sorted((row for row in table.rows if row.x is not None), key=lambda row: row.x or 0.0)
    columns = [i for i, each in enumerate(table.units) if each == unit and i not in table.differences]
    if len(placed) < 2 or not columns:
        return None
    figure = empty_figure(plain_text(table.x or "x"), "points" if unit == "points" else "")
    if table.log_x:
        figure.update_xaxes(
            type="log", tickvals=[row.x for row in placed], ticktext=[f"{r.x:g}" for r in placed]
        )
    styles = distinct_styles([table.columns[i] for i in columns])
    for column in columns:
        title, style = table.columns[column], styles[table.columns[column]]
        found = [cell(row, column) for row in placed]
        figure.add_scatter(
            x=[row.x for row in placed],
            y=[estimate.mean for estimate in found],
            error_y={"array": [estimate.half or 0 for estimate in found], "thickness": 1.2, "width": 3},
            mode="lines+markers",
            name=plain_text(title),
            line={"color": style.color, "dash": style.dash, "width": 1.8},
            marker={"size": 7, "symbol": style.symbol},
            hovertemplate=f"{plain_text(title)}<br>%{{x:g}}: %{{y:.1f}}<extra></extra>",
        )
        flat = [row for row in table.rows if row.x is None]
        for number, row in enumerate(flat):
            figure.add_hline(
                y=cell(row, column).mean,
                line={"color": faint(style.color, 0.7), "dash": "dot", "width": 1.4},
                annotation={"text": plain_text(row.title), "font": {"color": style.color, "size": 11}},
                # Neighbouring levels are told apart by the side of the line on which their names stand.
                annotation_position="bottom right" if number % 2 else "top right",
            )
    return figure


def _sweep_panels(table: TableEntry) -> list[Panel]:
    panels = []
    for unit, heading in (
        ("points", f"Accuracy against {table.x}"),
        ("number", f"Spectrum against {table.x}"),
    ):
        figure = sweep_figure(table, unit)
        if figure is None:
            continue
        names = [
            table.columns[i] for i, u in enumerate(table.units) if u == unit and i not in table.differences
        ]
        flat = [row.title for row in table.rows if row.x is None]
        label = f"{', '.join(names)} against {table.x}, mean over seeds with 95 % intervals."
        note = f"Dotted: {', '.join(flat)}, in the colour of the column." if flat else ""
        panels.append(panel(figure, heading, label, note, distinct_styles(names)))
    return panels


def _spectrum_panels(record: Record, table: TableEntry) -> list[Panel]:
    """The spectra of the rows: they are drawn as heads are, under the rows' titles."""
    titles = {f"../runs/{run}": row.title for row in table.rows for run in row.runs}
    named = [run.model_copy(update={"head": titles.get(run.folder, run.head)}) for run in record.runs]
    renamed = record.model_copy(update={"runs": named})
    panels = []
    for place in table.spectrum:
        figure = spectrum_figure(renamed, place)
        if figure is not None:
            names = list(dict.fromkeys(titles.get(run.folder, run.head) for run in record.runs))
            label = f"Log singular values of the covariance at {place}. One line a row: {', '.join(names)}."
            panels.append(panel(figure, f"Spectrum at {place}", label, "", distinct_styles(names)))
    return panels
