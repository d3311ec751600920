"""Diagnosis: did a representation collapse, and why."""

from typing import TYPE_CHECKING

from fullrank.lazy import attach

if TYPE_CHECKING:
    from fullrank.diagnosis.augmentation import (
        augmentation_ratio as augmentation_ratio,
        operation_shares as operation_shares,
    )
    from fullrank.diagnosis.causes import find_causes as find_causes
    from fullrank.diagnosis.evidence import Evidence as Evidence, PlaceEvidence as PlaceEvidence
    from fullrank.diagnosis.features import Collected as Collected, stacked_maps as stacked_maps
    from fullrank.diagnosis.imposed import imposed_rank as imposed_rank, measured_rank as measured_rank
    from fullrank.diagnosis.layers import (
        best_cut as best_cut,
        dimension_curves as dimension_curves,
        gradient_ranks as gradient_ranks,
        layer_rows as layer_rows,
    )
    from fullrank.diagnosis.stacked import (
        alignment_matrix as alignment_matrix,
        block_alignment as block_alignment,
        imbalance as imbalance,
    )
    from fullrank.embeddings.files import (
        EmbeddingFile as EmbeddingFile,
        check_same_width as check_same_width,
        open_embeddings as open_embeddings,
        paired as paired,
    )

__getattr__, __dir__, __all__ = attach(__name__)
