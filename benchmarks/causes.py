"""How often a diagnosis names a fault that is known, and how often it names one that is not there.

    uv run python benchmarks/causes.py                                          constructed features
    uv run --group benchmark python benchmarks/causes.py --real FOLDER          real data and trainings
    uv run python benchmarks/causes.py --judge FOLDER                           the same, made before

Prints the tables of docs/causes.md. For the constructed features, thresholds were fixed on the seeds 0 to 19
(`--first 0`), and the page has the seeds 100 to 119. Of the real cases, `fix` and `held` are calibration,
and `fresh` was made and judged once, after the last change of a rule.
`--real` makes the cases that FOLDER lacks (`benchmarks/real_cases.py`).
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from constructed_cases import CASES, Case

from fullrank.diagnosis import find_causes
from fullrank.record import Finding


@dataclass(frozen=True)
class Row:
    """How often the cause of a case was named, and how often an alarm or a note named another one."""

    case: Case
    seeds: int
    named: int
    false_alarms: int
    false_notes: int

    def __str__(self) -> str:
        named = "-" if self.case.cause == "healthy" else str(self.named)
        cells = (self.case.cause, self.case.strength, named, self.false_alarms, self.false_notes)
        return f"| {' | '.join(map(str, cells))} |"


def judge(case: Case, seeds: Iterable[int], show: bool = False) -> Row:
    """Diagnose one case for every seed."""
    named = alarms = notes = count = 0
    for seed in seeds:
        findings = find_causes(case.build(seed))
        others = [finding for finding in findings if finding.cause != case.cause]
        count += 1
        named += any(finding.cause == case.cause for finding in findings)
        alarms += _any(others, "alarm")
        notes += _any(others, "note")
        for finding in others if show else ():
            print(f"{case.strength}, seed {seed}: {finding.cause}: {finding.evidence}", file=sys.stderr)
    return Row(case, count, named, alarms, notes)


def _any(findings: Iterable[Finding], level: str) -> bool:
    return any(finding.level == level for finding in findings)


def header(seeds: range) -> str:
    """The first two lines of the table."""
    return f"| cause | strength | named of {len(seeds)} | false alarms | false notes |\n|---|---|---|---|---|"


def summary(rows: list[Row], seeds: range) -> str:
    """The totals of all rows."""
    ill = [row for row in rows if row.case.cause != "healthy"]
    named, of = sum(row.named for row in ill), sum(row.seeds for row in ill)
    alarms, all_ = sum(row.false_alarms for row in rows), sum(row.seeds for row in rows)
    notes = sum(row.false_notes for row in rows)
    return (
        f"Seeds {seeds[0]} to {seeds[-1]}: named {named} of {of} ({100 * named / of:.1f} %), false alarms "
        f"{alarms} of {all_} ({100 * alarms / all_:.1f} %), false notes {notes}."
    )


def make_all(folder: Path) -> None:
    """Make the real cases that the folder lacks."""
    from real_cases import FAMILIES, make

    for family in FAMILIES.values():
        for case in family():
            make(case, folder)


def print_real(folder: Path) -> None:
    """The table of the real cases; each case with its findings goes to FOLDER/verdicts.tsv."""
    from real_judge import judge as judge_real, table, truths, write_verdicts

    judged = [judge_real(folder, truth) for truth in truths(folder)]
    write_verdicts(judged, folder / "verdicts.tsv")
    print(table(judged))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=100, help="the first seed")
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds")
    parser.add_argument("--quick", action="store_true", help="leave out the trained runs and the timm model")
    parser.add_argument("--show", action="store_true", help="print each false finding on stderr")
    parser.add_argument(
        "--cause", action="append", help="only the cases of this cause, or healthy; repeatable"
    )
    parser.add_argument(
        "--real", type=Path, metavar="FOLDER", help="make the real cases there, and judge them"
    )
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="judge the real cases that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.real is not None:
        make_all(arguments.real)
    if folder := arguments.real or arguments.judge:
        print_real(folder)
        return
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    cases = [
        case
        for case in CASES
        if not (arguments.quick and case.slow) and case.cause in (arguments.cause or [case.cause])
    ]
    rows = []
    print(header(seeds))
    for case in cases:
        rows.append(judge(case, seeds, arguments.show))
        print(rows[-1], flush=True)
    print(f"\n{summary(rows, seeds)}")


if __name__ == "__main__":
    main()
