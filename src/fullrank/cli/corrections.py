"""Corrections of features against cues in the terminal: accuracies, and the channels that differ most."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from rich.console import Console
from rich.markup import escape

from fullrank.cli.tables import plain_table
from fullrank.record import CorrectionTable, Score
from fullrank.record.comparisons import grouped
from fullrank.record.scores import CORRECTED, CUE_READ, GROUP_STATISTICS
from fullrank.reports.numbers import in_points, signed

# Channels that a table shows.
MOST_CHANNELS = 5
_MEANING = (
    "Points on the test images, of a linear probe on features that are corrected against all cues. "
    "mean-difference needs the cues of the test images. The last columns say how well a linear probe reads "
    "each cue within a class; chance of a cue with two values is 50."
)
_CHANNELS = (
    "Mean of the correction vectors w in each group, in units of the features, for the channels in which it "
    "differs most between groups: above 0 a bonus, below 0 a penalty. The last row is the mean of |w| over "
    "groups."
)


def print_corrections(scores: Sequence[Score], tables: Sequence[CorrectionTable]) -> None:
    """The accuracies under each correction, and what `correct` does to channels; nothing without scores."""
    cues = list(dict.fromkeys(score.subject for score in scores if score.statistic == CUE_READ))
    if not cues:
        return
    console = Console(highlight=False)
    values = grouped(((each.place, each.probe, each.statistic, each.subject), each.value) for each in scores)
    columns = [*((name, "") for name in GROUP_STATISTICS), *((CUE_READ, cue) for cue in cues)]
    table = plain_table(["place", "correction"], ["worst", "mean", "weighted", *cues])
    for place in dict.fromkeys(score.place for score in scores if score.statistic == CUE_READ):
        for probe in ("linear", *CORRECTED):
            cells = [in_points(100 * fmean(values[place, probe, *column])) for column in columns]
            table.add_row(escape(place), "none" if probe == "linear" else probe, *cells)
    console.print(table)
    console.print(_MEANING)
    for effect in tables:
        _print_channels(console, effect)


def _print_channels(console: Console, effect: CorrectionTable) -> None:
    shown = slice(0, MOST_CHANNELS)
    table = plain_table([f"{effect.label} at {effect.place}"], map(str, effect.channels[shown]))
    for value, means in zip(effect.values, effect.mean, strict=True):
        table.add_row(escape(value), *(signed(mean, 3) for mean in means[shown]))
    sizes = np.array(effect.size).mean(0)[shown]
    table.add_row("mean size", *(f"{size:.3f}" for size in sizes.tolist()))
    console.print(table)
    console.print(_CHANNELS)
