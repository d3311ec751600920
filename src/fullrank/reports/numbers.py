"""How numbers are written."""

import numpy as np


def in_points(value: float | None) -> str:
    """A number with one decimal and a real minus sign; an en dash where there is none.

    >>> in_points(-0.04), in_points(None)
    ('0.0', '–')
    """
    if value is None or not np.isfinite(value):
        return "–"
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "−")


def signed(value: float | None) -> str:
    """As `in_points`, with a plus sign before what is above zero.

    >>> signed(2.94), signed(-2.94), signed(0.01)
    ('+2.9', '−2.9', '0.0')
    """
    text = in_points(value)
    return f"+{text}" if value is not None and text not in ("–", "0.0") and value > 0 else text
