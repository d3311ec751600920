"""Spectra: how the variance of features is spread over directions."""

from typing import TYPE_CHECKING

from fullrank.lazy import attach

if TYPE_CHECKING:
    from fullrank.spectrum.functional import (
        effective_rank as effective_rank,
        singular_values as singular_values,
    )

__getattr__, __dir__, __all__ = attach(__name__, {"functional": ["effective_rank", "singular_values"]})
