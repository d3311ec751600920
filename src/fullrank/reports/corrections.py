"""What corrections do to each channel, by group: heat maps and sentences. Torch-free."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from fullrank.record import CorrectionTable, Record
from fullrank.record.comparisons import by_row
from fullrank.reports import drawing
from fullrank.reports.layout import Panel, panels
from fullrank.reports.run.rows import row_names

# Channels that a heat map shows.
MOST_SHOWN = 24
# Pixels of a row of a heat map.
_ROW = 26
# Blue is below 0, white 0, orange above.
DIVERGING = [[0, "#0072b2"], [0.5, "#ffffff"], [1, "#d55e00"]]
HEAD = "head"
MEANING = (
    "A correction adds a vector w to the features. Each entry of w is a bonus (above 0) or a penalty (below "
    "0) for one channel. The maps show its mean over the test images of each value, for the channels in "
    "which it differs most. What is equal in every row does not bring the values closer."
)
OF_HEAD = (
    "The correction of a head is trained with the encoder, which may change h itself. So a small w does not "
    "mean that little was changed."
)


def corrections_section(record: Record) -> dict[str, Any] | None:
    """What the page of a run or study shows; of each row the first run with corrections; None without any."""
    names, rows = row_names(record.runs), by_row(record.runs)
    shown: list[Panel] = []
    for row, runs in rows.items():
        for run in [run for run in runs if run.corrections][:1]:
            prefix = f"{names.short(row)}, seed {run.seed}: " if len(rows) > 1 else ""
            shown += [panel for table in run.corrections for panel in correction_panels(table, prefix)]
    heads = any(table.method == HEAD for run in record.runs for table in run.corrections)
    return {"panels": shown, "meaning": f"{MEANING} {OF_HEAD}" if heads else MEANING} if shown else None


def correction_panels(table: CorrectionTable, prefix: str = "") -> list[Panel]:
    """The heat map of one table, with its sentence; `prefix` comes before the heading."""
    what = "Correction" if table.method == HEAD else f"Correction of frozen features at {table.place},"
    alternative = f"Mean correction of channels of {table.place}, by value of {table.label}."
    heading = f"{prefix}{what} by {table.label}"
    return panels(correction_figure(table), heading, alternative, correction_sentence(table))


def correction_figure(table: CorrectionTable) -> go.Figure | None:
    """The mean correction of a channel (column) at a value of the label (row), white 0."""
    if not table.channels or not table.values:
        return None
    channels = [str(channel) for channel in table.channels[:MOST_SHOWN]]
    mean, size = (np.array(each)[:, :MOST_SHOWN] for each in (table.mean, table.size))
    names = [drawing.plain_text(value) for value in table.values]
    most = float(np.abs(mean).max()) or 1.0
    figure = drawing.empty_figure(
        f"channel of {drawing.plain_text(table.place)}, the largest difference first", ""
    )
    figure.add_heatmap(
        z=mean.tolist(),
        customdata=[
            [[name, channel, each] for channel, each in zip(channels, row, strict=True)]
            for name, row in zip(names, size.tolist(), strict=True)
        ],
        zmin=-most,
        zmax=most,
        colorscale=DIVERGING,
        colorbar={"thickness": 10, "outlinewidth": 0, "nticks": 3, "len": 0.9},
        hovertemplate="%{customdata[0]}, channel %{customdata[1]}: mean %{z:.3g}, mean size "
        "%{customdata[2]:.3g}<extra></extra>",
        xgap=1,
        ygap=1,
        meta={"role": "correction"},
    )
    axis: Mapping[str, Any] = {"showgrid": False, "ticks": ""}
    figure.update_xaxes(**axis, tickvals=list(range(len(channels))), ticktext=channels)
    figure.update_yaxes(
        **axis, tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5]
    )
    return figure.update_layout(height=110 + _ROW * max(len(names), 3), margin={"l": 10, "t": 10})


def correction_sentence(table: CorrectionTable) -> str:
    """How large the corrections are, how far they differ between values, and in which channel most.

    >>> table = {"values": ["lines", "clouds"], "counts": [30, 20], "channels": [7], "width": 96}
    >>> table |= {"mean": [[0.5], [-0.25]], "size": [[0.5], [0.3]], "common": 0.2, "between": 0.5}
    >>> correction_sentence(CorrectionTable(method="head", label="background", **table))[-91:]
    'differs most: the mean of w is +0.5 for lines (30 images) and −0.25 for clouds (20 images).'
    """
    mean = np.array(table.mean)
    if not table.common + table.between and not np.array(table.size).any():
        return f"w is 0 in all {table.width} channels: nothing is corrected."
    share = ""
    if table.share is not None:
        share = f"On average, |w| is {100 * table.share:.1f} % of the standard deviation of a channel. "
    rest = max(0.0, 1 - table.common - table.between)
    common, between, within = (f"{100 * part:.1f} %" for part in (table.common, table.between, rest))
    sentence = (
        f"{share}Of the mean square of w, {common} is equal for all images, {between} differs between the "
        f"values of {table.label}, and {within} varies within them."
    )
    if len(mean) < 2:
        return f"{sentence} All images have one value: {table.values[0]}."
    ends = [
        f"{_signed(mean[row, 0])} for {table.values[row]} ({table.counts[row]:,} images)"
        for row in (mean[:, 0].argmax(), mean[:, 0].argmin())
    ]
    channel = table.channels[0]
    return f"{sentence} Channel {channel} differs most: the mean of w is {ends[0]} and {ends[1]}."


def _signed(value: float) -> str:
    return f"{value:+.2g}".replace("-", "−")
