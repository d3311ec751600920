"""Several runs and studies on one page and in one paired table. Torch-free."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fullrank.record import Record, Result
from fullrank.record.combining import Combination, check_combinable, combine
from fullrank.record.comparisons import by_row
from fullrank.record.finding import read_result
from fullrank.reports.drawing import Arrays, distinct_styles
from fullrank.reports.export import check_formats, write_figures
from fullrank.reports.formats import html
from fullrank.reports.layout import Page, fill
from fullrank.reports.page import PAGE_FILE, arrays_of, save_page
from fullrank.reports.run import words
from fullrank.reports.run.page import accuracy_panels, curve_panels, spectrum_panels
from fullrank.reports.text_tables import short_data, study_table


@dataclass(frozen=True)
class Source:
    """A run or study of the page: its folder, what was done, its own page and its command."""

    folder: Path
    summary: str
    page: str | None
    command: str


def write_report(folders: Sequence[str | Path], out: str | Path, figures: Sequence[str] = ()) -> Path:
    """Write one page on several runs and studies, with one table paired by seed.

    Rows are named by their head and by the keys in which the recipes differ. Differences are computed only
    between rows that were tested on the same images, over the seeds that both have. The page names rows
    without a difference.

    Args:
        folders: The folders of finished runs and studies.
        out: Where `report.html` goes; made if it is missing.
        figures: Formats in which each figure is also written into `figures/`: svg, pdf, png.

    Returns:
        The path of the page.

    Raises:
        DataError: A folder has no readable record.
        UsageError: A folder holds neither a run nor a study; an unknown format; no kaleido or no browser.
        FullDiskError: The disk has no room for the page.
    """
    check_formats(figures)
    out = Path(out)
    results = [read_result(folder) for folder in folders]
    check_combinable(results)
    page = render_combination(results, out)
    out.mkdir(parents=True, exist_ok=True)
    path = save_page(page, out, f"fullrank report {' '.join(map(str, folders))} --out {out}")
    write_figures(page.panels, out, figures)
    return path


def render_combination(results: Sequence[Result], out: Path) -> Page:
    """The page of several runs and studies; links are written as seen from `out`."""
    combination = combine(results)
    # The figures show all rows together, even those whose difference is not computed.
    whole = combination.records[0].model_copy(update={"runs": combination.runs, "published": None})
    read = {run.folder: arrays_of(Path(run.folder)) for run in whole.runs}
    arrays: Mapping[str, Arrays] = {name: held for name, (held, why) in read.items() if not why}
    rows = list(by_row(whole.runs))
    data = list(dict.fromkeys(map(short_data, combination.tested)))
    return fill(
        "combined.html.j2",
        title=f"{len(rows)} rows from {len(results)} folders: {', '.join(data)}",
        summary=_summary(combination, results),
        verdict=_verdict(combination),
        notes=combination.notes,
        machine=words.machine_line(results[0].record),
        table=html(study_table(results)),
        caption=study_table(results).caption,
        styles=distinct_styles(rows),
        accuracy=accuracy_panels(whole),
        spectra=list(spectrum_panels(whole)),
        curves=list(curve_panels(whole, arrays)),
        missing={name: why for name, (_, why) in read.items() if why},
        sources=[_source(result, out) for result in results],
    )


def _summary(combination: Combination, results: Sequence[Result]) -> str:
    runs = combination.runs
    seeds = len({run.seed for run in runs})
    return (
        f"{len(runs)} runs of {len(by_row(runs))} rows, {seeds} seed{'' if seeds == 1 else 's'} in all, from "
        f"{', '.join(str(result.path) for result in results)}."
    )


def _verdict(combination: Combination) -> list[str]:
    """What came out, for each set of rows that can be subtracted."""
    sentences = []
    for record, tested in zip(combination.records, combination.tested, strict=True):
        where = f"{short_data(tested)}: " if len(combination.records) > 1 else ""
        sentences += [where + sentence for sentence in _said(record)]
    return sentences


def _said(record: Record) -> list[str]:
    if len(by_row(record.runs)) > 1 and not record.comparisons:
        return [f"No row shares a seed with {record.runs[0].row}: nothing is paired."]
    return words.verdict(record)


def _source(result: Result, out: Path) -> Source:
    """A result as the page lists it, with the way from `out` to its own page where it has one."""
    page = result.path / PAGE_FILE
    way = os.path.relpath(page, out) if page.is_file() else None
    summary, command = words.summary(result.record), words.reproduce_command(result.record)
    return Source(result.path, summary, way and quote(way), command)
