"""Spectra: how the variance of features is spread over directions."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from fullrank.spectrum.functional import (
        effective_rank as effective_rank,
        singular_values as singular_values,
    )

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"functional": ["effective_rank", "singular_values"]}
)
