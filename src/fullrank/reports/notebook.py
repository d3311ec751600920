"""A result in a notebook: its headline and a small table. Torch-free."""

from dataclasses import replace

from markupsafe import Markup

from fullrank.record import Record, Result
from fullrank.reports.formats import html
from fullrank.reports.page import PAGE_FILE
from fullrank.reports.reproduction.words import verdict as table_verdict
from fullrank.reports.run.words import verdict
from fullrank.reports.text_tables import text_tables

MOST_ROWS = 12


def summary_html(result: Result) -> str:
    """The headline in bold, the results table down to its 12th row, and where the rest is."""
    table = text_tables([result])[0]
    hidden = len(table.rows) - MOST_ROWS
    parts = [Markup("<p><b>{}</b></p>").format(headline(result.record))]
    if table.rows:
        parts.append(html(replace(table, rows=table.rows[:MOST_ROWS])))
    more = f"{hidden} more rows: to_frame(). " if hidden > 0 else ""
    page = result.path / PAGE_FILE
    where = f"Page: {page}" if page.is_file() else f"Folder: {result.path}"
    parts.append(Markup("<p><small>{} {}{}</small></p>").format(table.caption, more, where))
    return str(Markup("<div>{}</div>").format(Markup("").join(parts)))


def headline(record: Record) -> str:
    """What came out, in a sentence or two."""
    if record.table is not None:
        return (table_verdict(record.table) or [record.table.title])[0]
    if record.diagnosis is not None:
        return record.diagnosis.headline
    if record.choice is not None:
        return record.choice.headline
    if record.theory is not None:
        return record.theory.verdict
    return " ".join(verdict(record)[:2])
