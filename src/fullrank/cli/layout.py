"""How tables of results look in a terminal of 80 columns."""

from collections.abc import Iterable

from rich import box
from rich.markup import escape
from rich.table import Table


def plain_table(texts: Iterable[str], numbers: Iterable[str], *, tight: bool = False) -> Table:
    """An empty table: columns of text, which fold, then columns of numbers, which do not."""
    padding = (0, 0, 0, 1) if tight else (0, 1)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding)
    for title in texts:
        table.add_column(escape(title), overflow="fold")
    for title in numbers:
        table.add_column(escape(title), justify="right", no_wrap=True)
    return table
