"""Features of real data and real trainings whose fault is known, and their healthy twins.

    uv run --group benchmark python benchmarks/real_cases.py FOLDER [FAMILY ...]

Trains everything from seeds on one thread, and writes one file of features per case with `truth.tsv`. Files
that exist are not made again. What is expected of a case is settled here, before any diagnosis: by what was
done, and where that is not enough by a measurement that the diagnosis does not use.

Rules were changed while the cases of `fix` and `held` were seen, so both are calibration. The cases of
`fresh` were listed before any of them was made, after the last change of a rule. They have other seeds,
strengths, depths, heads or data.
"""

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import real_classes
import real_contrastive
import real_features
import real_supervised
import torch
from real_sample import RealCase

FAMILIES: dict[str, Callable[[], Iterator[RealCase]]] = {
    "text": real_features.text_family,
    "rows": real_features.rows_family,
    "dominant": real_features.dominant_family,
    "tables": real_features.tables_family,
    "dead": real_supervised.dead_family,
    "norms": real_supervised.norms_family,
    "untrained": real_supervised.untrained_family,
    "finetune": real_supervised.finetune_family,
    "classes": real_classes.classes_family,
    "gap": real_classes.gap_family,
    "align": real_contrastive.align_family,
    "augment": real_contrastive.augment_family,
    "stack": real_contrastive.stack_family,
    "healthy": real_contrastive.healthy_family,
}
TRUTH = "truth.tsv"
_COLUMNS = ("file", "half", "expected", "level", "accepted", "measured")


def main() -> None:
    """Make the cases that do not exist yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--half", choices=("fix", "held", "fresh"), help="only this one")
    parser.add_argument("families", nargs="*", help=", ".join(FAMILIES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.families or FAMILIES:
        for case in FAMILIES[name]():
            if arguments.half in (None, case.half):
                make(case, arguments.folder)


def make(case: RealCase, folder: Path) -> None:
    """Make one case, and add its row to the truth, unless it exists."""
    path = folder / f"{case.stem}.npz"
    if path.exists():
        return
    start = time.perf_counter()
    try:
        sample = case.build()
    except ValueError as error:  # a training that diverges has no features
        print(f"{case.stem}: not made. {error}")
        return
    sample.save(path)
    truth = folder / TRUTH
    new = not truth.exists()
    with truth.open("a", newline="") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        if new:
            rows.writerow(_COLUMNS)
        causes = ",".join(sample.expected) or "healthy"
        rows.writerow(
            (path.name, case.half, causes, sample.level, ",".join(sample.accepted), sample.measured)
        )
    print(f"{case.stem}: {causes} ({sample.level}) {sample.measured} {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
