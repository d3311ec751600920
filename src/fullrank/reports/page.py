"""One self-contained HTML page from what a command left: `write_page(folder)`. Torch-free."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from fullrank.errors import DataError, FullDiskError, UsageError, disk_is_full
from fullrank.files import ARRAYS_FILE, load_arrays, shown_path, write_whole
from fullrank.record import Record
from fullrank.reports.choice.page import render_choice
from fullrank.reports.diagnosis.page import render_diagnosis
from fullrank.reports.diagnosis.words import is_watched
from fullrank.reports.drawing import Arrays
from fullrank.reports.export import check_formats, write_figures
from fullrank.reports.layout import Page
from fullrank.reports.reproduction.page import render_table
from fullrank.reports.run.page import render
from fullrank.reports.run.words import RECIPE_FILE
from fullrank.reports.theory.page import render_theory

PAGE_FILE = "report.html"


def write_page(folder: str | Path, figures: Sequence[str] = ()) -> Path:
    """Write `report.html` into the folder of a finished command, whole or not at all.

    It shows `record.json` and `arrays.npz`, those of its runs for a study, and says which arrays are missing
    or damaged.

    Args:
        folder: The folder of a run, a study, a reproduced table, a diagnosis, a choice or a theory run.
        figures: Formats in which each figure is also written into `figures/`: svg, pdf, png. They need the
            extra `figures` and a Chrome or Chromium browser.

    Returns:
        The path of the page.

    Raises:
        DataError: There is no readable record.
        UsageError: The record holds none of a run, a diagnosis, a choice and a theory run; an unknown
            format; no kaleido or no browser.
        FullDiskError: The disk has no room for the page.
    """
    folder = Path(folder)
    check_formats(figures)
    page = page_of(folder)
    path = save_page(page, folder, f"fullrank report {folder}")
    write_figures(page.panels, folder, figures)
    return path


def page_of(folder: Path) -> Page:
    """The page of what a command left in a folder."""
    record = Record.load(folder)
    if record.kind == "diagnosis" and record.diagnosis is not None:
        # Only a watched training always has arrays; a diagnosis without them lacks nothing.
        timed = is_watched(record) or (folder / ARRAYS_FILE).exists()
        return render_diagnosis(record, record.diagnosis, *(arrays_of(folder) if timed else ({}, "")))
    if record.kind == "choice" and record.choice is not None:
        return render_choice(record, record.choice)
    if record.kind == "theory" and record.theory is not None:
        return render_theory(record, record.theory, *arrays_of(folder))
    if record.kind == "study" and record.table is not None:
        return render_table(record, record.table, _links(folder, record))
    if record.kind in ("run", "study") and record.runs:
        read = {run.folder: arrays_of(folder / run.folder) for run in record.runs}
        arrays = {name: held for name, (held, why) in read.items() if not why}
        missing = {name: why for name, (_, why) in read.items() if why}
        recipe = shown_path(folder / RECIPE_FILE)
        return render(record, arrays, missing, _links(folder, record), recipe)
    raise UsageError(
        f"{folder} holds an empty {record.kind} of {len(record.runs)} runs; a page is made of a "
        "diagnosis, a choice, a theory run, or a run or a study with at least one run."
    )


def save_page(page: Page, folder: Path, command: str) -> Path:
    """Write a page into its folder; where the disk is full, FullDiskError names the command to repeat."""
    path = folder / PAGE_FILE
    try:
        write_whole(path, page.text.encode())
    except OSError as error:
        if not disk_is_full(error):
            raise
        raise FullDiskError(
            f"The disk has no room for {path}; the record is kept, and once there is room "
            f"`{command}` writes the page."
        ) from None
    return path


def arrays_of(folder: Path) -> tuple[Arrays, str]:
    """The arrays in a folder and "", or no arrays and the reason."""
    if not (folder / ARRAYS_FILE).is_file():
        return {}, f"no {ARRAYS_FILE}"
    try:
        return load_arrays(folder), ""
    except DataError as error:
        return {}, str(error).partition(";")[0]


def _links(folder: Path, record: Record) -> dict[str, str]:
    """The address of each run's own page, for the runs that have one."""
    return {
        run.folder: f"{quote(run.folder)}/{PAGE_FILE}"
        for run in record.runs
        if run.folder != "." and (folder / run.folder / PAGE_FILE).is_file()
    }
