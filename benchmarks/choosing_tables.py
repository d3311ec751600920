"""The tables of benchmarks/choosing.py, in Markdown, from the cases that it judged.

    python benchmarks/choosing_tables.py OUT/judged.json

A case has a name, the group of cases that share its runs, and `ways`. For each way to choose these are the
regret in points of its first candidate, that of its best of three, and Spearman's correlation. A way that
gives one candidate has None for the best of three.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fullrank.choosing.judging import median_interval

WITHIN = 0.5
TITLES = {
    "runs": "All runs and places",
    "heads": "h of all runs",
    "places": "The places of one run",
}


def summary(judged: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Medians of the regrets with intervals over groups, shares within half a point, mean correlation."""
    table = {}
    for name in dict.fromkeys(name for each in judged for name in each["ways"]):
        rows = [each for each in judged if name in each["ways"]]
        groups = [each["group"] for each in rows]
        correlations = [each["ways"][name][2] for each in rows]
        known = [each for each in correlations if each is not None and math.isfinite(each)]
        entry: dict[str, float] = {"cases": len(rows)}
        entry["correlation"] = float(np.mean(known)) if known else math.nan
        for column, key in enumerate(("first", "shortlist")):
            found = [each["ways"][name][column] for each in rows]
            if None in found:
                continue
            median, low, high = median_interval(found, groups)
            entry |= {key: median, f"{key}_low": low, f"{key}_high": high}
            entry |= {f"mean_{key}": float(np.mean(found)), f"worst_{key}": float(np.max(found))}
            entry |= {f"within_{key}": float(np.mean(np.array(found) <= WITHIN))}
        table[name] = entry
    return table


def regret_table(judged: Sequence[dict[str, Any]]) -> list[str]:
    """Each way to choose, the one with the least median of the first candidate on top."""
    lines = [
        "| way to choose | cases | first | within 0.5 | best of three | within 0.5 | Spearman |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in sorted(summary(judged).items(), key=lambda item: item[1]["first"]):
        cells = [f"**{name}**" if name == "rule" else name.replace("_", " "), f"{each['cases']}"]
        for key in ("first", "shortlist"):
            if key in each:
                cells += [_interval(each[key], each[f"{key}_low"], each[f"{key}_high"])]
                cells += [f"{100 * each[f'within_{key}']:.0f} %"]
            else:
                cells += ["", ""]
        cells.append(
            f"{round(each['correlation'], 2) + 0.0:.2f}" if math.isfinite(each["correlation"]) else ""
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def paired_table(judged: Sequence[dict[str, Any]]) -> list[str]:
    """Points that the rule loses, less those of another way, by case; below 0 the rule is ahead."""
    lines = [
        "| other way | first less first | best of three less first | best of three less best of three |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(name for each in judged for name in each["ways"] if name != "rule"):
        rows = [each for each in judged if name in each["ways"]]
        groups = [each["group"] for each in rows]
        cells = [name.replace("_", " ")]
        for own, other in ((0, 0), (1, 0), (1, 1)):
            pairs = [(each["ways"]["rule"][own], each["ways"][name][other]) for each in rows]
            if any(theirs is None for _, theirs in pairs):
                cells.append("")
            else:
                cells.append(_interval(*median_interval([ours - theirs for ours, theirs in pairs], groups)))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def kind_table(judged: Sequence[dict[str, Any]]) -> list[str]:
    """What the rule loses by the data and the label of a case: medians, means and the worst case."""
    lines = [
        "| data and label | cases | first: median, mean, worst | best of three: median, mean, worst |",
        "|---|---|---|---|",
    ]
    kinds: dict[str, list[dict[str, Any]]] = {}
    for each in judged:
        label = each["case"].removeprefix(each["group"]).removeprefix(", ")
        data = each["group"].partition(",")[0]
        kinds.setdefault(f"{data}, {label}" if label else data, []).append(each)
    for kind, some in sorted(kinds.items()):
        cells = [kind, f"{len(some)}"]
        for column in (0, 1):
            found = [each["ways"]["rule"][column] for each in some]
            shown = (
                round(float(each), 2) + 0.0 for each in (np.median(found), np.mean(found), np.max(found))
            )
            cells.append(", ".join(f"{each:.2f}" for each in shown))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def report(cases: dict[str, list[dict[str, Any]]]) -> str:
    """All tables of all kinds of cases."""
    parts = []
    for kind, judged in cases.items():
        if not judged:
            continue
        counts = [each["candidates"] for each in judged]
        groups = len({each["group"] for each in judged})
        parts += [f"### {TITLES[kind]}"]
        parts += [
            f"{len(judged)} cases in {groups} groups, of {min(counts)} to {max(counts)} candidates.",
            "",
        ]
        parts += [*regret_table(judged), "", *kind_table(judged), "", *paired_table(judged), ""]
    return "\n".join(parts)


def _interval(median: float, low: float, high: float) -> str:
    # Zero has no sign in a table.
    shown = [f"{round(each, 2) + 0.0:.2f}" for each in (median, low, high)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def main() -> None:
    """Print the tables of a file of cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", type=Path, help="judged.json or made.json of benchmarks/choosing.py")
    print(report(json.loads(parser.parse_args().cases.read_text())))


if __name__ == "__main__":
    main()
