"""Probes: how well labels are read from frozen features (N, D), by a linear map or by neighbours.

The classes are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullrank.probes.linear import (
        LinearProbe as LinearProbe,
    )
    from fullrank.probes.linear import (
        LogisticFit as LogisticFit,
    )
    from fullrank.probes.linear import (
        solve_logistic as solve_logistic,
    )
    from fullrank.probes.nearest import NearestProbe as NearestProbe
    from fullrank.probes.probe import Probe as Probe

_HOMES = {
    "fullrank.probes.linear": ["LinearProbe", "LogisticFit", "solve_logistic"],
    "fullrank.probes.nearest": ["NearestProbe"],
    "fullrank.probes.probe": ["Probe"],
}
__all__ = [name for names in _HOMES.values() for name in names]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
