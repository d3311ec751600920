"""`fullrank table` and `fullrank report`: results as tables, pages and figures."""

from collections.abc import Sequence
from pathlib import Path

import typer

from fullrank.errors import UsageError, unknown_name
from fullrank.files import result_folder, write_whole
from fullrank.record.finding import results_in
from fullrank.reports.combined.page import write_report
from fullrank.reports.formats import FORMATS
from fullrank.reports.page import write_page
from fullrank.reports.text_tables import notes_of, text_tables

ENDINGS = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".json": "json"}


def print_table(folders: Sequence[Path], name: str | None, out: Path | None) -> None:
    """Print the results of folders, or write them to a file. Standard output holds only the table."""
    chosen = _format(name, out)
    results = [result for folder in folders for result in results_in(folder)]
    text = FORMATS[chosen](results)
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, text.encode())
        typer.echo(out)
    # A LaTeX table has them in its caption.
    for note in notes_of(text_tables(results)) if chosen != "latex" else ():
        typer.echo(f"fullrank: note: {note}", err=True)


def write_reports(folders: Sequence[Path], out: Path | None, each: bool, figures: str) -> list[Path]:
    """Write the page of one folder, of each, or one page for all; the paths of the pages."""
    formats = [word.strip() for word in figures.split(",") if word.strip()]
    if out is not None and (each or len(folders) == 1):
        raise UsageError(f"--out {out} is for one page on several folders; leave it out or name more.")
    if each or len(folders) == 1:
        return [write_page(folder, formats) for folder in folders]
    return [write_report(folders, result_folder(out, "report"), formats)]


def _format(name: str | None, out: Path | None) -> str:
    """The format that is asked for, else that of the file's ending, else Markdown."""
    if name is None and out is not None and out.suffix not in ENDINGS:
        raise UsageError(f"{out} ends in none of {', '.join(ENDINGS)}; rename it or give --format.")
    chosen = name or (ENDINGS[out.suffix] if out is not None else "markdown")
    if chosen not in FORMATS:
        raise unknown_name("format", chosen, FORMATS, f"take {', '.join(FORMATS)}")
    return chosen
