"""What a record says, in sentences: what was done, what came out, how to do it again. Torch-free."""

import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from fullrank.door import MAIN, imported
from fullrank.files import shown_path
from fullrank.record import Record, RunEntry
from fullrank.record.comparisons import grouped
from fullrank.reports.numbers import distance, in_points, without_path
from fullrank.reports.run.rows import row_names
from fullrank.reports.run.tables import HeadRow, head_table
from fullrank.statistics import Estimate

RECIPE_FILE = "recipe.yaml"
OTHER_IMAGES = (
    "The test images differ between rows. Each row is compared only with the first row on the same images."
)
ONE_SEED = "One seed: no interval; differences of about a point are noise."


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
    """What came out, in plain sentences computed from the results table."""
    rows = head_table(record, place)
    if len(rows) == 1:
        return _verdict_on_one(record.runs, rows[0], place)
    groups = grouped((row.against, row) for row in rows).values()
    sentences = [each for rows in groups for each in _verdict_on_rows(rows, place)]
    if not sentences:
        sentences = [f"No row shares a seed and a probe at {place} with the first row: nothing to compare."]
    return sentences + ([OTHER_IMAGES] if len(groups) > 1 else [])


def _verdict_on_rows(rows: list[HeadRow], place: str) -> list[str]:
    """What came out of the rows with the same test images; nothing where there is nothing to compare."""
    others = [(row.head, row.difference) for row in rows if row.difference]
    if not others:
        return []
    first = rows[0].head
    head, best = max(others, key=lambda pair: pair[1].mean)
    sentence = f"{head} is {distance(best.mean, ' points')} {first} on {place}"
    if best.low is None:
        return [f"{sentence}.", ONE_SEED]
    interval = f"(95 % interval {in_points(best.low)} to {in_points(best.high)})"
    sentences = [f"{sentence} {interval}{'.' if best.separated else ': not separated.'}"]
    if len(others) > 1:
        groups = {
            "Above": [name for name, d in others if d.separated and d.mean > 0],
            "Below": [name for name, d in others if d.separated and d.mean < 0],
            "Not separated from": [name for name, d in others if not d.separated],
        }
        sentences += [f"{word} {first}: {'; '.join(names)}." for word, names in groups.items() if names]
        sentences.append(f"With {len(others)} uncorrected comparisons, the largest difference is optimistic.")
    return sentences


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
    """The command line that repeats the work from the file `recipe`, which lies beside the record."""
    imports, recipe = imports_option(record), shlex.quote(recipe)
    if record.kind == "run":
        return f"fullrank train --recipe {recipe}{imports}"
    heads = ",".join(dict.fromkeys(run.head for run in record.runs))
    seeds = len({run.seed for run in record.runs})
    varied = "".join(f" --vary {shlex.quote(text)}" for text in _varied(record.runs))
    command = f"fullrank compare --recipe {recipe} --heads {shlex.quote(heads)}{varied} --seeds {seeds}"
    return f"{command}{imports}"


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


def machine_line(record: Record) -> str:
    """Versions and date, for the foot of the page."""
    machine, date = record.machine, _date(record.created)
    return f"fullrank {record.fullrank}, torch {machine.torch}, Python {machine.python}, {date}"


def _verdict_on_one(runs: list[RunEntry], row: HeadRow, place: str) -> list[str]:
    if row.linear is None:
        return [f"No probe was recorded at {place}."]
    beside = ""
    both = [run.probes for run in runs if place in run.probes and "z" in run.probes]
    if both and place != "z":
        gap = Estimate.of([100 * (probes[place].linear - probes["z"].linear) for probes in both])
        beside = f", {distance(gap.mean, ' points')} z"
    sentences = [f"The linear probe reads {in_points(row.linear.mean)} points on {place}{beside}."]
    if row.effective_rank is not None:
        width = next(len(run.spectrum[place].singular_values) for run in runs if place in run.spectrum)
        sentences.append(f"The effective rank of {place} is {in_points(row.effective_rank)} of {width}.")
    return [*sentences, ONE_SEED] if row.linear.low is None else sentences


def _plain(record: Record, key: str) -> str:
    """A recipe's value where it is a word or a number; anything nested has no place in a sentence."""
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
