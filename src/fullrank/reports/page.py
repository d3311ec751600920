"""One self-contained HTML page from what a command left: `write_page(folder)`. Torch-free."""

import shlex
from pathlib import Path
from urllib.parse import quote

from fullrank.errors import DataError, FullDiskError, UsageError, disk_is_full
from fullrank.files import ARRAYS_FILE, load_arrays, shown_path, write_whole
from fullrank.record import Record
from fullrank.reports.diagnosis.page import render_diagnosis
from fullrank.reports.diagnosis.words import is_watched
from fullrank.reports.drawing import Arrays
from fullrank.reports.reproduction.page import render_table
from fullrank.reports.run.page import render
from fullrank.reports.run.words import RECIPE_FILE
from fullrank.reports.theory.page import render_theory

PAGE_FILE = "report.html"


def write_page(folder: Path) -> Path:
    """Write `report.html` into the folder of a finished command, whole or not at all; return its path.

    It shows `record.json` and `arrays.npz`, those of its runs for a study, and says which arrays are missing
    or damaged. Raises DataError where there is no readable record, UsageError for a record that holds none of
    a run, a diagnosis and a theory run, and FullDiskError where the disk has no room for the page.
    """
    folder = Path(folder)
    record = Record.load(folder)
    if record.kind == "diagnosis" and record.diagnosis is not None:
        # Only a watched training has arrays at all times; what another diagnosis lacks is not missing.
        timed = is_watched(record) or (folder / ARRAYS_FILE).exists()
        page = render_diagnosis(record, record.diagnosis, *(_arrays_of(folder) if timed else ({}, "")))
    elif record.kind == "theory" and record.theory is not None:
        page = render_theory(record, record.theory, *_arrays_of(folder))
    elif record.kind == "study" and record.table is not None:
        page = render_table(record, record.table, _links(folder, record))
    elif record.kind in ("run", "study") and record.runs:
        read = {run.folder: _arrays_of(folder / run.folder) for run in record.runs}
        arrays = {name: held for name, (held, why) in read.items() if not why}
        missing = {name: why for name, (_, why) in read.items() if why}
        recipe = shown_path(folder / RECIPE_FILE)
        page = render(record, arrays, missing, _links(folder, record), recipe)
    else:
        raise UsageError(
            f"{folder} holds an empty {record.kind} of {len(record.runs)} runs; a page is made of a "
            "diagnosis, a theory run, or a run or a study with at least one run."
        )
    path = folder / PAGE_FILE
    try:
        write_whole(path, page.encode())
    except OSError as error:
        if not disk_is_full(error):
            raise
        raise FullDiskError(
            f"The disk has no room for {path}; the record is kept, and once there is room "
            f"`fullrank report {shlex.quote(str(folder))}` writes the page."
        ) from None
    return path


def _arrays_of(folder: Path) -> tuple[Arrays, str]:
    """The arrays in a folder, and where they cannot be read, none and why."""
    if not (folder / ARRAYS_FILE).is_file():
        return {}, f"no {ARRAYS_FILE}"
    try:
        return load_arrays(folder), ""
    except DataError as error:
        return {}, str(error).partition(";")[0]


def _links(folder: Path, record: Record) -> dict[str, str]:
    """The address of each run's own page, where it has one."""
    return {
        run.folder: f"{quote(run.folder)}/{PAGE_FILE}"
        for run in record.runs
        if run.folder != "." and (folder / run.folder / PAGE_FILE).is_file()
    }
