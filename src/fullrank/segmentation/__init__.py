"""Emergent segmentation: how well the attention or the gradient of a net finds objects, without a decoder.

The names are imported on first use.
"""

from typing import TYPE_CHECKING

from fullrank.lazy import attach

if TYPE_CHECKING:
    from fullrank.segmentation.foreground import (
        foreground_area as foreground_area,
        foreground_share as foreground_share,
        gradient_draws as gradient_draws,
    )
    from fullrank.segmentation.overlaps import (
        attention_mask as attention_mask,
        jaccard as jaccard,
        overlap as overlap,
        permuted_jaccard as permuted_jaccard,
    )

__getattr__, __dir__, __all__ = attach(__name__)
