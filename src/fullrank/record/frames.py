"""Rows as a pandas DataFrame; the only place that imports pandas."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fullrank.errors import UsageError
from fullrank.record.tidy import Row

if TYPE_CHECKING:
    import pandas


def frame(rows: Sequence[Row]) -> "pandas.DataFrame":
    """The rows as a DataFrame. Raises UsageError where pandas is not installed.

    >>> frame([{"head": "none", "linear_points": 94.0}]).shape
    (1, 2)
    """
    try:
        import pandas as pd
    except ModuleNotFoundError:
        raise UsageError("A data frame needs pandas; run `pip install 'fullrank[pandas]'`.") from None
    return pd.DataFrame(rows)
