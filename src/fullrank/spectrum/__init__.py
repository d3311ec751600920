"""Spectra: how the variance of features is spread over directions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullrank.spectrum.functional import (
        effective_rank as effective_rank,
        singular_values as singular_values,
    )

__all__ = ["effective_rank", "singular_values"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("fullrank.spectrum.functional"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
