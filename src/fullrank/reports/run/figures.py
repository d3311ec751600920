"""Record data -> plotly figures; pure functions, no file is read and nothing is drawn. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import plotly.graph_objects as go

from fullrank.record import Record, RunEntry
from fullrank.record.comparisons import by_row
from fullrank.reports import drawing
from fullrank.reports.drawing import Arrays, Style, add_line, plain_text, series_of
from fullrank.reports.run.rows import row_names
from fullrank.reports.run.tables import accuracy, base_place, probed_places


@dataclass(frozen=True)
class DrawnHead:
    """A row of a study as every figure draws it: `key` is its number in the key of the page."""

    key: int
    name: str
    style: Style
    runs: list[RunEntry]


def drawn_heads(record: Record) -> list[DrawnHead]:
    """The rows of a record in its order, each with its style and runs."""
    names = row_names(record.runs).shorts
    styles = drawing.distinct_styles(names)
    rows = zip(names, by_row(record.runs).values(), strict=True)
    return [DrawnHead(key, name, styles[name], runs) for key, (name, runs) in enumerate(rows)]


def spectrum_figure(record: Record, place: str) -> go.Figure | None:
    """Log singular values of the covariance at `place`, sorted: a bold line a head, thin lines its seeds."""
    heads = drawn_heads(record)
    spectra = [[run.spectrum[place] for run in head.runs if place in run.spectrum] for head in heads]
    logs = [[drawing.log_or_nan(np.array(each.singular_values)) for each in seeds] for seeds in spectra]
    lines = list(chain.from_iterable(logs))
    if not lines:
        return None
    alive = np.concatenate([line[np.isfinite(line)] for line in lines])
    low, high = (alive.min(), alive.max()) if alive.size else (0.0, 0.0)
    gap = 0.04 * max(high - low, 1.0)
    y_title = f"ln singular value of cov({plain_text(place)})"
    figure = drawing.empty_figure("index of the singular value, largest first", y_title)
    figure.update_xaxes(range=[0, 1.02 * max(line.size for line in lines) + 0.5])
    crosses_at = low - 2 * gap
    for head, seeds in zip(heads, logs, strict=True):
        index = [np.arange(1, line.size + 1) for line in seeds]
        _add_seeds(figure, head, index, seeds, "index %{x}: %{y:.2f}")
        lost = np.unique([i for line in seeds for i in 1 + np.flatnonzero(np.isnan(line))])
        if lost.size:
            marker = {"symbol": "x-thin", "size": 6, "line": {"color": head.style.color, "width": 1.5}}
            heights, look = np.full(lost.size, crosses_at), {"mode": "markers", "marker": marker}
            add_line(figure, lost, heights, head.name, "index %{x}: not live", "lost", head.key, **look)
            crosses_at -= gap
    if alive.size < sum(line.size for line in lines):
        at = {"x": 0.02, "xref": "paper", "y": low - 2 * gap, "showarrow": False, "xanchor": "left"}
        figure.add_annotation(text="× not live", **at)
    return figure


def accuracy_figure(record: Record) -> go.Figure | None:
    """Linear accuracy at each place, mean over seeds with its 95 % interval; slices are lone markers."""
    places, heads = probed_places(record), drawn_heads(record)
    if not places:
        return None
    x_title = "place, from the image towards the loss"
    figure = drawing.figure_by_place(places, x_title, "linear accuracy (points)")
    step = min(0.08, 0.6 / len(heads))
    for head in heads:
        shift = (head.key - (len(heads) - 1) / 2) * step
        for sliced in (False, True):
            points = [
                (i + shift, plain_text(place), estimate)
                for i, place in enumerate(places)
                if (place != base_place(place)) is sliced
                and (estimate := accuracy(head.runs, place, "linear")) is not None
            ]
            if not points:
                continue
            x, names, estimates = zip(*points, strict=True)
            role, mode = ("slice", "markers") if sliced else ("mean", "lines+markers")
            look = {
                "mode": mode,
                "error_y": drawing.error_bars(estimates),
                "line": head.style.line(1.2, 0.55),
                "marker": head.style.marker(7, hollow=sliced),
                "customdata": names,
            }
            means, said = [estimate.mean for estimate in estimates], "%{customdata}: %{y:.1f}"
            add_line(figure, x, means, head.name, said, role, head.key, **look)
    return figure


def curve_figure(
    record: Record, arrays: Mapping[str, Arrays], series: str, label: str, epochs: str = "epoch"
) -> go.Figure | None:
    """A series over training, by epoch: a bold line a head (mean over seeds), thin lines its seeds."""
    figure, last = drawing.empty_figure("epoch", label), 0.0
    for head in drawn_heads(record):
        pairs = [series_of(arrays.get(run.folder, {}), epochs, series) for run in head.runs]
        curves = [[each.astype(float) for each in pair] for pair in pairs if pair is not None]
        every = max((drawing.stride(len(x)) for x, _ in curves), default=1)
        x, y = [x[::every] for x, _ in curves], [y[::every] for _, y in curves]
        _add_seeds(figure, head, x, y, "epoch %{x:.1f}: %{y:.3g}")
        last = max([last, *(float(each.max(initial=0)) for each in x)])
    if not figure.data:
        return None
    ends = drawing.span(np.array([0.0, last]))
    figure.update_xaxes(range=ends)
    for name, value in _levels(record, series):
        line = {"color": drawing.INK, "dash": "dot", "width": 1.2}
        add_line(figure, ends, [value, value], name, "", name, line=line)
        at = {"x": ends[1], "y": value, "xanchor": "right", "yshift": -10, "showarrow": False}
        figure.add_annotation(text=f"{name} {value:.2f}", **at)
    return figure


def _levels(record: Record, series: str) -> list[tuple[str, float]]:
    """The names and values of the lines that a series is compared with, each once."""
    named = [(name, value) for run in record.runs for name, value in run.levels.get(series, {}).items()]
    if series == "loss":
        named += [("chance", run.chance) for run in record.runs if run.chance is not None]
    return sorted({(name, round(value, 9)) for name, value in named})


def spectrum_history_figure(arrays: Arrays) -> go.Figure | None:
    """The spectrum of h over the training of one run: ln of the 1st, 2nd, 4th, 8th, ... singular value."""
    if (spectra := series_of(arrays, "spectrum_step", "spectrum_h", 2)) is None:
        return None
    steps, values = spectra
    epochs = series_of(arrays, "step", "epoch")
    times, unit = (steps.astype(float), "step") if epochs is None else (np.interp(steps, *epochs), "epoch")
    return drawing.values_over_time(times, values, unit, "ln singular value of cov(h)")


def _add_seeds(
    figure: go.Figure, head: DrawnHead, x: Sequence[np.ndarray], y: Sequence[np.ndarray], said: str
) -> None:
    """Add the seeds of a head as one thin trace with gaps between them, and their mean as a bold one."""
    if not x:
        return
    alike = all(each.shape == x[0].shape and np.allclose(each, x[0]) for each in x)
    if len(x) > 1 or not alike:
        gap = np.array([np.nan])
        all_x, all_y = (np.concatenate([part for line in each for part in (line, gap)]) for each in (x, y))
        line = {"color": drawing.faint(head.style.color, 0.3), "width": 0.8}
        add_line(figure, all_x, all_y, head.name, "", "seeds", head.key, line=line)
    if alike:
        # It is missing where any seed is: a mean of survivors would rise where seeds collapse.
        line = head.style.line(2)
        add_line(figure, x[0], np.mean(y, axis=0), head.name, said, "mean", head.key, line=line)
