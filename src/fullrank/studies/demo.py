"""P1's Table 1 in miniature: four heads on the embedded digits, a few minutes on two CPU cores."""

from pathlib import Path
from typing import cast

from fullrank.record import Published
from fullrank.studies.compare import Study, compare
from fullrank.studies.table import Table, table_named


def demo(*, out: str | Path | None = None, resume: bool = False) -> Study:
    """Train P1's four heads on the digits with one seed, and show P1's numbers beside ours.

    Args:
        out: The folder for the results; None makes one under runs/.
        resume: Continue the study in `out`; finished runs are kept.
    """
    published = published_heads()
    heads = list(published.values)
    return compare("digits", heads=heads, seeds=1, out=out, resume=resume, published=published)


def published_heads() -> Published:
    """P1's number for each head of its Table 1, under the spec that the head has at the scale mini.

    The widths for the digits replace P1's: an output of 128, and DirectCLR's 360 channels of 2048.
    """
    table = cast(Table, table_named("directclr/table1"))
    values = {
        str(settings["head"]): row.paper[0]
        for row in table.rows
        if (settings := table.settings(row, "mini")) and row.paper[0] is not None
    }
    return Published(caption=f"{table.source}: {table.paper}", values=values)
