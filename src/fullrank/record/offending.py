"""The rows that findings name: all of them in a table, the first of them in the record. Torch-free."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from fullrank.files import write_whole
from fullrank.record.schema import Finding

if TYPE_CHECKING:
    import numpy as np

ROWS_FILE = "rows.csv"
# How many rows of a finding the record keeps.
MOST_ROWS = 1000
# The lists of a finding, with one entry for each row, and the column of each.
_COLUMNS = {"rows": "row", "ids": "id", "same_as": "same_as", "same_as_ids": "same_as_id"}


def with_ids(findings: Sequence[Finding], ids: "Sequence[str] | np.ndarray") -> list[Finding]:
    """The findings with the ids of their rows.

    An id that names several rows of the source gets the number of its row, and so does a row without an id.

    Args:
        findings: The findings.
        ids: The id of each row of the source.

    >>> finding = Finding(cause="zero-rows", place="h", level="note", measure="share", value=0.5, threshold=0,
    ...                   evidence="2 rows.", remedy="Embed.", rows=[0, 2], row_count=2)
    >>> with_ids([finding], ["a.png", "b.png", "c.png", "c.png"])[0].ids
    ['a.png', 'c.png (row 2)']
    """
    named = {str(ids[row]) for finding in findings for row in (*finding.rows, *finding.same_as)}
    counts = Counter(name for name in map(str, ids) if name in named)

    def id_of(row: int) -> str:
        name = str(ids[row])
        return name if name and counts[name] == 1 else f"{name} (row {row})".strip()

    return [
        finding.model_copy(
            update={"ids": list(map(id_of, finding.rows)), "same_as_ids": list(map(id_of, finding.same_as))}
        )
        for finding in findings
    ]


def keep_rows(findings: Sequence[Finding], folder: Path) -> list[Finding]:
    """Write all rows of the findings to `rows.csv` in a folder, and return the findings with the first 1,000.

    The columns are cause, place, row, id, and the row that it is equal to with its id, same_as and
    same_as_id. A cell is empty where there is no such thing. There is no file if no finding names a row.
    """
    path = folder / ROWS_FILE
    if any(finding.rows for finding in findings):
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(["cause", "place", *_COLUMNS.values()])
        for finding in findings:
            for cells in zip_longest(*(getattr(finding, name) for name in _COLUMNS), fillvalue=""):
                writer.writerow([finding.cause, finding.place, *cells])
        write_whole(path, table.getvalue().encode("utf-8", "backslashreplace"))
    else:
        path.unlink(missing_ok=True)
    return [
        finding.model_copy(update={name: getattr(finding, name)[:MOST_ROWS] for name in _COLUMNS})
        for finding in findings
    ]
