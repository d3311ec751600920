"""The sentences of a page: what was done, what came out, how to repeat it. Torch-free."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from statistics import fmean

from fullrank.door import MAIN, imported
from fullrank.files import shown_path
from fullrank.record import Record, RunEntry
from fullrank.record.comparisons import grouped
from fullrank.record.scores import MEAN_AUROC
from fullrank.reports.numbers import distance, in_points, signed, without_path
from fullrank.reports.run.rows import row_names
from fullrank.reports.run.tables import HeadRow, head_table
from fullrank.statistics import Estimate

RECIPE_FILE = "recipe.yaml"
OTHER_IMAGES = (
    "The test images differ between rows. Each row is compared only with the first row on the same images."
)


def title(record: Record) -> str:
    """The page's title: what was compared, and the data."""
    rows = row_names(record.runs)
    data = "" if "data" in rows.keys else without_path(_plain(record, "data"))
    return f"{rows.counted()} on {data}" if data else rows.counted()


def summary(record: Record, pixels: int | None = None) -> str:
    """One sentence: what was trained, on what, how long, on which machine."""
    runs, rows = record.runs, row_names(record.runs)
    seeds = sorted({run.seed for run in runs})
    if len(runs) == 1:
        parts = [f"One run of the head {runs[0].head}, seed {seeds[0]}"]
    else:
        what = f"{rows.counted()} ({len(rows.values)} rows)" if len(rows.keys) > 1 else rows.counted()
        what = what if len(rows.values) > 1 else f"the head {runs[0].head}"
        shared = [] if "head" in rows.keys or len(rows.values) == 1 else [f"head {runs[0].head}"]
        parts = [f"A {record.kind} of {what}, {_count(len(seeds), 'seed')} each", *shared]
    shown = [key for key in ("encoder", "data") if key not in rows.keys]
    parts += [f"{key} {without_path(value)}" for key in shown if (value := _plain(record, key))]
    if "image_size" not in rows.keys and (size := _plain(record, "image_size") or pixels):
        parts.append(f"images of {size} by {size} pixels")
    epochs = sorted({run.epochs for run in runs})
    parts.append(" or ".join(map(str, epochs)) + (" epoch" if epochs == [1] else " epochs"))
    machine = record.machine
    where = f"{machine.device} ({machine.processor}, {_count(machine.threads, 'thread')})"
    return f"{', '.join(parts)}; {_duration(sum(run.seconds for run in runs))} of training on {where}."


def verdict(record: Record, place: str = "h") -> list[str]:
    """What came out, in sentences computed from the results table.

    A row is called above or below the first one only where its interval over seeds separates them, or for one
    seed where the difference exceeds the sampling error of the test images.
    """
    rows = head_table(record, place)
    if len(rows) == 1:
        return _verdict_on_one(record.runs, rows[0], place)
    groups = _on_same_images(rows)
    sentences = [each for group in groups for each in _verdict_on_rows(group, place)]
    if not sentences:
        sentences = [f"No row shares a seed and a probe at {place} with the first row: nothing to compare."]
    return sentences + ([OTHER_IMAGES] if len(groups) > 1 else [])


def _on_same_images(rows: Sequence[HeadRow]) -> list[list[HeadRow]]:
    """The rows with the same test images, the first of which the others are compared with."""
    return list(grouped((row.against, row) for row in rows).values())


def _verdict_on_rows(rows: Sequence[HeadRow], place: str) -> list[str]:
    """What came out of the rows with the same test images; nothing where there is nothing to compare."""
    first, *rest = rows
    others = [row for row in rest if row.difference]
    if not others:
        return []
    sentences = [_headline(first, others, place)]
    judged = first.tested is not None or any(
        row.difference and row.difference.low is not None for row in others
    )
    if len(others) > 1 and judged:
        groups = {
            f"Above {first.head}": [row.head for row in others if row.side(first) == "above"],
            f"Below {first.head}": [row.head for row in others if row.side(first) == "below"],
            f"Not separated from {first.head}": [row.head for row in others if row.side(first) == "level"],
        }
        listed = {what: names for what, names in groups.items() if names}
        if list(listed) != [f"Not separated from {first.head}"]:  # else the headline has said it
            sentences += [f"{what}: {'; '.join(names)}." for what, names in listed.items()]
    sentences.append(_sampling_note(rows))
    if len(others) > 1:
        sentences.append(f"With {len(others)} uncorrected comparisons, the largest difference is optimistic.")
    return [sentence for sentence in sentences if sentence]


def _headline(first: HeadRow, others: list[HeadRow], place: str) -> str:
    """The best row where it is separated from the first one, or else that it is not."""
    gaps = {row.head: row.difference for row in others if row.difference}
    best = max(others, key=lambda row: gaps[row.head].mean)
    gap, sides = gaps[best.head], {row.side(first) for row in others}
    interval = "" if gap.low is None else f" (95 % interval {in_points(gap.low)} to {in_points(gap.high)})"
    if gap.low is None and first.tested is None:
        return f"{best.head} minus {first.head} on {place}: {signed(gap.mean)} points."
    if best.side(first) == "above" or (sides == {"below"} and len(others) == 1):
        return f"{best.head} is {distance(gap.mean, ' points')} {first.head} on {place}{interval}."
    if sides == {"below"}:
        ahead = distance(-gap.mean, " points")
        return f"{first.head} is above every other row on {place}. It is {ahead} {best.head}{interval}."
    if len(others) == 1:
        pair = f"{best.head} and {first.head}"
        size = f"{signed(gap.mean)} points{interval}"
        return f"{pair} are statistically indistinguishable on {place}. The difference is {size}."
    if sides == {"level"}:
        widest = max(gaps, key=lambda head: abs(gaps[head].mean))
        size = f"The largest difference is {signed(gaps[widest].mean)} points, of {widest}."
        return f"Every row is statistically indistinguishable from {first.head} on {place}. {size}"
    return f"No row is separated above {first.head} on {place}."


def sampling_notes(rows: Sequence[HeadRow]) -> list[str]:
    """How large a difference to the first row the sampling of the test images explains, in sentences."""
    return list(filter(None, map(_sampling_note, _on_same_images(rows))))


def _sampling_note(rows: Sequence[HeadRow]) -> str:
    """How large a difference to the first row the sampling of the test images explains.

    With several seeds it is said only where a separated difference is smaller: its interval is that of
    training, on one fixed set of test images. It is "" where this adds nothing.
    """
    first, *rest = rows
    gaps = [(row.difference, row.noise(first)) for row in rest if row.difference]
    noises = [noise for _, noise in gaps if noise is not None]
    if not gaps:
        return ""
    if all(gap.low is None for gap, _ in gaps):
        return _one_seed(max(noises, default=None), first.tested)
    if not any(gap.separated and noise is not None and abs(gap.mean) < noise for gap, noise in gaps):
        return ""
    return (
        f"The intervals are over seeds, on one set of {first.tested:,} test images. On other test images, "
        f"differences below {in_points(max(noises))} points may vanish."
    )


def _one_seed(noise: float | None, tested: int | None) -> str:
    if noise is None or tested is None:
        return "One seed: no interval, and the number of test images is not recorded."
    return (
        f"One seed: differences below {in_points(noise)} points are within the sampling error of {tested:,} "
        "test images. Training noise comes on top and is not measured."
    )


def not_repeatable(record: Record) -> str:
    """Why no command repeats the work, as a sentence; empty where one does."""
    optimizer = record.recipe.get("optimizer")
    name = optimizer.get("name", "") if isinstance(optimizer, dict) else ""
    given = {
        "its images were": _plain(record, "data").startswith("given:"),
        "its optimizer was": ":" in name,
        "one of its parts was": any(module in MAIN for module in _modules(record)),
    }
    reasons = [what for what, here in given.items() if here]
    return f"No command repeats this: {reasons[0]} given in Python. Call it there again." if reasons else ""


def reproduce_command(record: Record, recipe: str = RECIPE_FILE) -> str:
    """The command line that repeats the work from the file `recipe`, which is beside the record."""
    more, recipe = f" --threads {record.machine.threads}{imports_option(record)}", shlex.quote(recipe)
    if record.kind == "run":
        return f"fullrank train --recipe {recipe}{more}"
    heads = ",".join(dict.fromkeys(run.head for run in record.runs))
    seeds = len({run.seed for run in record.runs})
    varied = "".join(f" --vary {shlex.quote(text)}" for text in _varied(record.runs))
    command = f"fullrank compare --recipe {recipe} --heads {shlex.quote(heads)}{varied} --seeds {seeds}"
    return f"{command}{more}"


def imports_option(record: Record) -> str:
    """The options `--import` that a command line needs to do the work of a record again."""
    files = {module: imported[module].path for module in _modules(record) if module in imported}
    paths = [shown_path(files.get(module) or Path(module)) for module in _modules(record)]
    return "".join(f" --import {shlex.quote(path)}" for path in paths)


def _varied(runs: Sequence[RunEntry]) -> list[str]:
    """Each varied key with its values, as `--vary` takes them."""
    values: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in run.varied.items():
            values.setdefault(key, {})[value] = None
    return [f"{key}={','.join(each)}" for key, each in values.items()]


def _modules(record: Record) -> list[str]:
    """The modules of others' parts that a command must import: those of installed packages are found."""
    return [each["module"] for each in record.recipe.get("imports", ()) if not each.get("distribution")]


def cautions(record: Record) -> str:
    """What the losses cannot see, with the effective rank of the place that each of them saw."""
    said = dict.fromkeys(run.caution for run in record.runs if run.caution)
    if not said:
        return ""
    seen = [run.spectrum["z"] for run in record.runs if run.caution and "z" in run.spectrum]
    ranks = sorted(each.effective_rank for each in seen)
    if not ranks:
        return " ".join(said)
    between = f"{ranks[0]:.1f}" if len(ranks) == 1 else f"{ranks[0]:.1f} to {ranks[-1]:.1f}"
    return f"{' '.join(said)} The effective rank of z is {between} of {len(seen[0].singular_values)}."


def machine_line(record: Record) -> str:
    """Versions and date, for the foot of the page."""
    machine, date = record.machine, _date(record.created)
    return f"fullrank {record.fullrank}, torch {machine.torch}, Python {machine.python}, {date}"


def _verdict_on_one(runs: list[RunEntry], row: HeadRow, place: str) -> list[str]:
    if row.linear is None:
        areas = [s.value for run in runs for s in run.scores if (s.place, s.statistic) == (place, MEAN_AUROC)]
        if not areas:
            return [f"No probe was recorded at {place}."]
        mean = in_points(100 * fmean(areas))
        scored = f"linear probes of them at {place} have a mean AUROC of {mean}"
        return [f"Each image has several labels; {scored}, where chance is 50."]
    both = [run.probes for run in runs if place in run.probes and "z" in run.probes and place != "z"]
    gap = (
        Estimate.of([100 * (probes[place].linear - probes["z"].linear) for probes in both]) if both else None
    )
    apart, z = replace(row, difference=gap), replace(row, linear=row.linear_z)
    beside = ""
    if gap is not None and apart.side(z) != "level":
        beside = f", {distance(gap.mean, ' points')} z"
    elif gap is not None and row.linear_z is not None and (gap.low is not None or row.tested is not None):
        beside = f", statistically indistinguishable from the {in_points(row.linear_z.mean)} on z"
    sentences = [f"The linear accuracy on {place} is {in_points(row.linear.mean)} points{beside}."]
    if row.effective_rank is not None:
        width = next(len(run.spectrum[place].singular_values) for run in runs if place in run.spectrum)
        sentences.append(f"The effective rank of {place} is {in_points(row.effective_rank)} of {width}.")
    one_seed = row.linear.low is None and gap is not None
    return [*sentences, _one_seed(apart.noise(z), row.tested)] if one_seed else sentences


def _plain(record: Record, key: str) -> str:
    """A recipe's value where it is a word or a number, and "" where it is nested."""
    value = record.recipe.get(key)
    return str(value) if isinstance(value, (str, int, float)) else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _duration(seconds: float) -> str:
    unit, length = ("h", 3600) if seconds >= 3600 else ("min", 60) if seconds >= 60 else ("s", 1)
    return f"{seconds / length:.1f} {unit}"


def _date(created: str) -> str:
    try:
        return datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return created
