"""Probes: how well labels are read from frozen features (N, D), by a linear map or by neighbours.

The classes are imported on first use.
"""

from typing import TYPE_CHECKING

from fullrank.lazy import attach

if TYPE_CHECKING:
    from fullrank.probes.linear import (
        LinearProbe as LinearProbe,
        LogisticFit as LogisticFit,
        solve_logistic as solve_logistic,
    )
    from fullrank.probes.nearest import NearestProbe as NearestProbe
    from fullrank.probes.probe import Probe as Probe

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "linear": ["LinearProbe", "LogisticFit", "solve_logistic"],
        "nearest": ["NearestProbe"],
        "probe": ["Probe"],
    },
)
