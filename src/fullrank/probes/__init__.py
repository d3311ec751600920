"""Probes: how well labels are read from frozen features (N, D), by a linear map or by neighbours.

The classes are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullrank.probes.linear import LinearProbe, LogisticFit, solve_logistic
    from fullrank.probes.nearest import NearestProbe
    from fullrank.probes.probe import Probe

_HOMES = {
    "LinearProbe": "fullrank.probes.linear",
    "LogisticFit": "fullrank.probes.linear",
    "NearestProbe": "fullrank.probes.nearest",
    "Probe": "fullrank.probes.probe",
    "solve_logistic": "fullrank.probes.linear",
}
__all__ = ["LinearProbe", "LogisticFit", "NearestProbe", "Probe", "solve_logistic"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
