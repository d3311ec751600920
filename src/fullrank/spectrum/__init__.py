"""Spectra: how the variance of features is spread over directions, and where the rows point.

The functions are pure; the classes are the same measures streaming, as torchmetrics. The names are imported
on first use.
"""

from typing import TYPE_CHECKING

from fullrank.lazy import attach

if TYPE_CHECKING:
    from fullrank.spectrum.audit import (
        RogueDimensions as RogueDimensions,
        hubness as hubness,
        near_duplicates as near_duplicates,
        near_duplicates_among as near_duplicates_among,
        rogue_dimensions as rogue_dimensions,
    )
    from fullrank.spectrum.discriminant import (
        group_moments as group_moments,
        lidar as lidar,
        lidar_of as lidar_of,
    )
    from fullrank.spectrum.factors import (
        Entangled as Entangled,
        association as association,
        factor_weights as factor_weights,
        independent_factors as independent_factors,
    )
    from fullrank.spectrum.functional import (
        Gap as Gap,
        PowerLaw as PowerLaw,
        alpha_req as alpha_req,
        effective_rank as effective_rank,
        largest_gap as largest_gap,
        live_dimensions as live_dimensions,
        matrix_singular_values as matrix_singular_values,
        nesum as nesum,
        normalised_singular_values as normalised_singular_values,
        participation_ratio as participation_ratio,
        rankme as rankme,
        rankme_of as rankme_of,
        singular_values as singular_values,
        stable_rank as stable_rank,
    )
    from fullrank.spectrum.geometry import (
        alignment as alignment,
        mean_cosine as mean_cosine,
        principal_angles as principal_angles,
        uniformity as uniformity,
        unit_rows as unit_rows,
    )
    from fullrank.spectrum.metrics import (
        AlphaReQ as AlphaReQ,
        EffectiveRank as EffectiveRank,
        LiDAR as LiDAR,
        LiveDimensions as LiveDimensions,
        MeanCosine as MeanCosine,
        NESum as NESum,
        ParticipationRatio as ParticipationRatio,
        RankMe as RankMe,
        SingularValues as SingularValues,
        StableRank as StableRank,
    )

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "audit": [
            "RogueDimensions",
            "hubness",
            "near_duplicates",
            "near_duplicates_among",
            "rogue_dimensions",
        ],
        "discriminant": ["group_moments", "lidar", "lidar_of"],
        "factors": ["Entangled", "association", "factor_weights", "independent_factors"],
        "functional": [
            "Gap",
            "PowerLaw",
            "alpha_req",
            "effective_rank",
            "largest_gap",
            "live_dimensions",
            "matrix_singular_values",
            "nesum",
            "normalised_singular_values",
            "participation_ratio",
            "rankme",
            "rankme_of",
            "singular_values",
            "stable_rank",
        ],
        "geometry": [
            "alignment",
            "mean_cosine",
            "principal_angles",
            "uniformity",
            "unit_rows",
        ],
        "metrics": [
            "AlphaReQ",
            "EffectiveRank",
            "LiDAR",
            "LiveDimensions",
            "MeanCosine",
            "NESum",
            "ParticipationRatio",
            "RankMe",
            "SingularValues",
            "StableRank",
        ],
    },
)
