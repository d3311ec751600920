"""The page of a reproduced table: the paper's numbers beside ours, the outcome, figures. Torch-free."""

import shlex
from collections.abc import Iterator, Mapping

import plotly.graph_objects as go

from fullrank.record import Record, TableEntry, TableRow
from fullrank.record.comparisons import by_row
from fullrank.reports.denominators import baseline_rows
from fullrank.reports.drawing import add_line, distinct_styles, empty_figure, error_bars, faint, plain_text
from fullrank.reports.layout import Page, Panel, fill, panels
from fullrank.reports.reproduction import predictors, words
from fullrank.reports.run.figures import spectrum_figure
from fullrank.reports.run.scores import head_notes
from fullrank.reports.run.words import imports_option, machine_line


def render_table(record: Record, table: TableEntry, links: Mapping[str, str]) -> Page:
    """The page; `links` are the addresses of the runs' own pages, by their folders."""
    return fill(
        "table.html.j2",
        title=table.title,
        summary=_summary(table),
        words=words,
        predictors=predictors.predictors(table),
        predictors_meaning=predictors.MEANING.format(predictors.DRAWS),
        machine=machine_line(record),
        device=record.machine.device if record.machine.device != "cpu" else record.machine.processor,
        record=record,
        table=table,
        first=table.rows[0].title if table.alike and len(table.rows) > 1 else None,
        baselines=baseline_rows(record.runs),
        judged=any(row.expected is not None for row in table.rows),
        head_notes=head_notes(record),
        panels=[*_sweep_panels(table), *_spectrum_panels(record, table)],
        links=links,
        command=_command(record, table),
    )


def _summary(table: TableEntry) -> str:
    """The question of a table, where it comes from, and its scale."""
    origin = f"{table.source}; {table.name}, scale {table.scale}"
    return f"{table.question} ({origin})" if table.question else f"{origin[0].upper()}{origin[1:]}."


def _command(record: Record, table: TableEntry) -> str:
    """The command line that makes the table again; your own table is a file beside the record."""
    name = shlex.quote(table.file or table.name)
    seeds = max(len(row.seeds) for row in table.rows)
    return f"fullrank reproduce {name} --scale {table.scale} --seeds {seeds}{imports_option(record)}"


def sweep_figure(table: TableEntry, unit: str) -> go.Figure | None:
    """The columns of a unit against x, means with 95 % intervals; rows without x are flat lines."""
    placed = sorted((row for row in table.rows if row.x is not None), key=lambda row: row.x or 0.0)
    columns = _columns_of(table, unit)
    if len(placed) < 2 or not columns:
        return None
    figure = empty_figure(plain_text(table.x or "x"), "points" if unit == "points" else "")
    x = [row.x for row in placed]
    if table.log_x:
        figure.update_xaxes(type="log", tickvals=x, ticktext=[f"{each:g}" for each in x])
    styles = distinct_styles(list(columns.values()))
    for column, title in columns.items():
        style, cells = styles[title], [words.cell(row, column) for row in placed]
        bars = error_bars(cells) | {"width": 3, "visible": True}
        y, marker = [each.mean for each in cells], {"size": 7, "symbol": style.symbol}
        said, line = "%{x:g}: %{y:.1f}", style.line(1.8)
        add_line(figure, x, y, title, said, "mean", line=line, marker=marker, error_y=bars)
        for number, row in enumerate(_flat(table)):
            figure.add_hline(
                y=words.cell(row, column).mean,
                line={"color": faint(style.color, 0.7), "dash": "dot", "width": 1.4},
                annotation={"text": plain_text(row.title), "font": {"color": style.color, "size": 11}},
                # Names of neighbouring levels are on opposite sides of their lines.
                annotation_position="bottom right" if number % 2 else "top right",
            )
    return figure


def _sweep_panels(table: TableEntry) -> Iterator[Panel]:
    note = f"Dotted: {', '.join(row.title for row in _flat(table))}, in the colour of the column."
    for unit, what in (("points", "Accuracy"), ("number", "Spectrum")):
        names = list(_columns_of(table, unit).values())
        label = f"{', '.join(names)} against {table.x}, mean over seeds with 95 % intervals."
        heading, key = f"{what} against {table.x}", distinct_styles(names)
        yield from panels(sweep_figure(table, unit), heading, label, note if _flat(table) else "", key)


def _columns_of(table: TableEntry, unit: str) -> dict[int, str]:
    """The columns of a unit that are not differences, by their numbers."""
    columns = enumerate(zip(table.columns, table.units, strict=True))
    return {i: title for i, (title, each) in columns if each == unit and i not in table.differences}


def _flat(table: TableEntry) -> list[TableRow]:
    """The rows without a position on the axis of the sweep."""
    return [row for row in table.rows if row.x is None]


def _spectrum_panels(record: Record, table: TableEntry) -> Iterator[Panel]:
    """The spectra of the rows, under the titles of the rows."""
    titles = {f"../runs/{run}": row.title for row in table.rows for run in row.runs}
    named = [run.model_copy(update={"head": titles.get(run.folder, run.head)}) for run in record.runs]
    names = list(by_row(named))
    for place in table.spectrum:
        figure = spectrum_figure(record.model_copy(update={"runs": named}), place)
        label = (
            f"Log singular values of the covariance at {place}. One line for each row: {', '.join(names)}."
        )
        yield from panels(figure, f"Spectrum at {place}", label, key=distinct_styles(names))
