"""Diagnosis: did a representation collapse, and why."""

from typing import TYPE_CHECKING

from fullrank.lazy import attach

if TYPE_CHECKING:
    from fullrank.diagnosis.augmentation import (
        WeightedCovariances as WeightedCovariances,
        augmentation_ratio as augmentation_ratio,
        cosine_covariances as cosine_covariances,
        euclidean_covariances as euclidean_covariances,
        operation_shares as operation_shares,
    )
    from fullrank.diagnosis.causes import find_causes as find_causes
    from fullrank.diagnosis.evidence import Evidence as Evidence, PlaceEvidence as PlaceEvidence
    from fullrank.diagnosis.stacked import (
        alignment_matrix as alignment_matrix,
        block_alignment as block_alignment,
        imbalance as imbalance,
    )

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "augmentation": [
            "WeightedCovariances",
            "augmentation_ratio",
            "cosine_covariances",
            "euclidean_covariances",
            "operation_shares",
        ],
        "causes": ["find_causes"],
        "evidence": ["Evidence", "PlaceEvidence"],
        "stacked": ["alignment_matrix", "block_alignment", "imbalance"],
    },
)
