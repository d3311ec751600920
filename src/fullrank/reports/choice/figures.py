"""A choice without labels -> plotly figures; pure functions, nothing is read or drawn. Torch-free."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from fullrank.record.choice import CandidateRow, ChoiceEntry
from fullrank.reports import drawing
from fullrank.reports.choice import words
from fullrank.reports.diagnosis.figures import SEQUENTIAL, short_place
from fullrank.reports.drawing import Style

# Pixels of a row, and the longest label beside it: on a phone, half of the width is left for the points.
_ROW, _LABEL = 19, 22
_SMALLEST, _LARGEST = 6.0, 18.0
# Ranks go from 0 to 1, and a little room for the markers.
_RANKS = (-0.06, 1.06)
# So many cells of the map have room for their numbers.
_MOST_COLUMNS = 8


def run_styles(entry: ChoiceEntry) -> dict[str, Style]:
    """A style for each run; none is grey, which is for what is left out."""
    runs = list(dict.fromkeys(each.run for each in entry.candidates))
    styles = list(drawing.distinct_styles(["", *runs]).values())[1:]
    return dict(zip(runs, styles, strict=True))


def scores_figure(entry: ChoiceEntry, styles: Mapping[str, Style]) -> go.Figure | None:
    """The score of each candidate with its interval, the best at the top; a grey cross where it has none."""
    rows = words.in_order(entry)
    if not any(row.score is not None for row in rows):
        return None
    figure = drawing.empty_figure("score (mean rank, 0 worst to 1 best)", "")
    height = {(row.run, row.place): number for number, row in enumerate(rows)}
    for key, (run, style) in enumerate(styles.items()):
        here = [row for row in rows if row.run == run and row.score is not None]
        scores = [row.score for row in here if row.score is not None]
        lows = [score if row.low is None else row.low for row, score in zip(here, scores, strict=True)]
        highs = [score if row.high is None else row.high for row, score in zip(here, scores, strict=True)]
        bars: dict[str, Any] = {
            "type": "data",
            "symmetric": False,
            "array": [max(high - score, 0.0) for high, score in zip(highs, scores, strict=True)],
            "arrayminus": [max(score - low, 0.0) for low, score in zip(lows, scores, strict=True)],
            "thickness": 1.3,
            "width": 0,
            "color": style.color,
        }
        if here:
            drawing.add_line(
                figure,
                scores,
                [height[row.run, row.place] for row in here],
                run,
                "%{customdata}",
                "score",
                key,
                mode="markers",
                marker=style.marker(8),
                error_x=bars,
                customdata=[_said(row) for row in here],
            )
    vetoed = [row for row in rows if row.score is None]
    if vetoed:
        figure.add_scatter(
            x=[0.0] * len(vetoed),
            y=[height[row.run, row.place] for row in vetoed],
            mode="markers",
            marker={"symbol": "x-thin", "size": 7, "line": {"color": drawing.INK, "width": 1.5}},
            customdata=[_said(row) for row in vetoed],
            hovertemplate="%{customdata}<extra></extra>",
            meta={"role": "left out"},
        )
    labels = words.short_names([_name(entry, row) for row in rows], _LABEL)
    ticks = [drawing.plain_text(labels[_name(entry, row)]) for row in rows]
    figure.update_xaxes(range=_RANKS, tickvals=[0, 0.25, 0.5, 0.75, 1])
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=ticks, range=[len(rows) - 0.5, -0.5])
    return figure.update_layout(height=100 + _ROW * max(len(rows), 4), margin={"l": 10, "t": 10})


def parts_figure(entry: ChoiceEntry, styles: Mapping[str, Style]) -> go.Figure | None:
    """One part of the scores against another; the area of a marker is the third, if there is one."""
    names = words.part_names(entry)
    rows = [row for row in words.in_order(entry) if len(row.parts) == len(names)]
    if len(names) < 2 or not rows:
        return None
    x, y, *sizes = names
    figure = drawing.empty_figure(f"{x} (rank)", f"{y} (rank)")
    for key, (run, style) in enumerate(styles.items()):
        here = [row for row in rows if row.run == run]
        if here:
            drawing.add_line(
                figure,
                [row.parts[x] for row in here],
                [row.parts[y] for row in here],
                run,
                "%{customdata}",
                "parts",
                key,
                mode="markers",
                marker={
                    "symbol": style.symbol,
                    "color": drawing.faint(style.color, 0.6),
                    "size": [_size(row.parts[sizes[0]]) if sizes else 9 for row in here],
                    "line": {"color": style.color, "width": 1},
                },
                customdata=[_said(row) for row in here],
            )
    listed = [row for row in rows if words.status(entry, row)]
    for row in listed:
        side = row.parts[x] > 0.5
        figure.add_annotation(
            x=row.parts[x],
            y=row.parts[y],
            text=f"<b>{words.status(entry, row)}</b>",
            showarrow=False,
            xshift=-15 if side else 15,
            font={"size": 13, "color": drawing.INK},
        )
    figure.update_xaxes(range=_RANKS)
    figure.update_yaxes(range=_RANKS)
    return figure


def map_figure(entry: ChoiceEntry) -> go.Figure | None:
    """The score of each run and place as a heat map, white 0 and dark 1; None for one run or one place."""
    runs = list(dict.fromkeys(each.run for each in entry.candidates))
    places = merged_places([[row.place for row in entry.candidates if row.run == run] for run in runs])
    if min(len(runs), len(places)) < 2:
        return None
    rows = {(row.run, row.place): row for row in entry.candidates}
    cells = [[rows.get((run, place)) for place in places] for run in runs]
    figure = drawing.empty_figure("place", "")
    figure.add_heatmap(
        z=[[None if row is None else row.score for row in line] for line in cells],
        text=[[_cell(row) for row in line] for line in cells],
        texttemplate="%{text}" if len(places) <= _MOST_COLUMNS else "",
        textfont={"size": 11},
        customdata=[[_said(row) if row is not None else "" for row in line] for line in cells],
        zmin=0,
        zmax=1,
        colorscale=SEQUENTIAL,
        colorbar={"thickness": 10, "outlinewidth": 0, "tickvals": [0, 0.5, 1], "len": 0.9},
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
        meta={"role": "map"},
    )
    best = [(runs.index(each.run), places.index(each.place)) for each in entry.shortlist]
    figure.add_scatter(
        x=[column for _, column in best],
        y=[row for row, _ in best],
        mode="markers",
        marker={"symbol": "square-open", "size": 22, "color": "#d55e00", "line": {"width": 2}},
        hoverinfo="skip",
        meta={"role": "shortlist"},
    )
    labels = words.short_names(runs, _LABEL)
    axis = {"showgrid": False, "ticks": ""}
    figure.update_xaxes(
        **axis,
        tickvals=list(range(len(places))),
        ticktext=[short_place(place) for place in places],
        range=[-0.5, len(places) - 0.5],
        tickangle=-45,
    )
    figure.update_yaxes(
        **axis,
        tickvals=list(range(len(runs))),
        ticktext=[drawing.plain_text(labels[run]) for run in runs],
        range=[len(runs) - 0.5, -0.5],
    )
    return figure.update_layout(height=150 + 28 * max(len(runs), 4), margin={"l": 10, "t": 10})


def merged_places(each_run: Sequence[Sequence[str]]) -> list[str]:
    """The places of all runs in one order that keeps the order of each run as far as it can.

    >>> merged_places([["h", "z"], ["stem", "h", "head.1", "z"]])
    ['stem', 'h', 'head.1', 'z']
    """
    merged: list[str] = []
    for places in each_run:
        position = 0
        for place in places:
            if place in merged:
                position = merged.index(place) + 1
            else:
                merged.insert(position, place)
                position += 1
    return merged


def _name(entry: ChoiceEntry, row: CandidateRow) -> str:
    """A candidate on an axis: its place alone where there is one run."""
    several = len({each.run for each in entry.candidates}) > 1
    return row.name if several or row.place == "embedding" else row.place


def _said(row: CandidateRow) -> str:
    """What a pointer shows of a candidate."""
    lines = [row.name]
    if row.score is not None:
        ends = "" if row.low is None else f" [{words.interval(row.low, row.high)}]"
        lines.append(f"score {row.score:.2f}{ends}")
        lines += [f"{name} {value:.2f}" for name, value in row.parts.items()]
    lines += row.vetoes
    return "<br>".join(drawing.plain_text(line) for line in lines)


def _cell(row: CandidateRow | None) -> str:
    if row is None:
        return ""
    return "×" if row.score is None else f"{row.score:.2f}"


def _size(rank: float) -> float:
    """The diameter of a marker whose area grows with a rank."""
    return math.sqrt(_SMALLEST**2 + rank * (_LARGEST**2 - _SMALLEST**2))
