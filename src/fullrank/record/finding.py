"""Finished results in folders. Torch-free."""

import os
from pathlib import Path

from fullrank.errors import DataError
from fullrank.record.schema import RECORD_FILE, Record, Result


def read_result(folder: str | Path) -> Result:
    """The result in a folder, whatever command left it, without its weights. Torch is not loaded.

    Args:
        folder: The folder of a run, a study, a reproduced table, a diagnosis, a choice or a theory run.

    Returns:
        Its path and record, with `to_frame()`.

    Raises:
        DataError: There is no readable record.
    """
    return Result(Path(folder), Record.load(Path(folder)))


def results_in(folder: Path) -> list[Result]:
    """The result in a folder, or all that lie anywhere below it, sorted by path.

    Runs that belong to a study or table which is found as well are left out. Raises DataError for none.
    """
    if (folder / RECORD_FILE).is_file():
        return [read_result(folder)]
    found = []
    for here, below, files in os.walk(folder):
        below.sort()
        if RECORD_FILE in files:
            found.append(read_result(here))
            below.clear()
    if not found:
        raise DataError(
            f"{folder} holds no {RECORD_FILE}, nor does a folder below it; name finished results."
        )
    parts = {
        (one.path / run.folder).resolve() for one in found for run in one.record.runs if run.folder != "."
    }
    return [one for one in found if one.path.resolve() not in parts]
