"""Spectra: how the variance of features spreads over directions, as functions and streaming metrics."""

from typing import TYPE_CHECKING

from fullrank.lazy import attach

if TYPE_CHECKING:
    from fullrank.spectrum.collapse import (
        PointGroups as PointGroups,
        nc1 as nc1,
        point_groups as point_groups,
        within_class_share as within_class_share,
    )
    from fullrank.spectrum.corrected import (
        corrected_participation_ratio as corrected_participation_ratio,
        corrected_participation_ratio_of as corrected_participation_ratio_of,
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
        alpha_req_of as alpha_req_of,
        effective_rank as effective_rank,
        effective_rank_of as effective_rank_of,
        isotropy_ratio as isotropy_ratio,
        largest_gap as largest_gap,
        largest_gap_of as largest_gap_of,
        live_dimensions as live_dimensions,
        live_dimensions_of as live_dimensions_of,
        matrix_singular_values as matrix_singular_values,
        nesum as nesum,
        nesum_of as nesum_of,
        normalised_singular_values as normalised_singular_values,
        participation_ratio as participation_ratio,
        participation_ratio_of as participation_ratio_of,
        rankme as rankme,
        rankme_of as rankme_of,
        singular_values as singular_values,
        stable_rank as stable_rank,
        stable_rank_of as stable_rank_of,
    )
    from fullrank.spectrum.geometry import (
        RogueDimensions as RogueDimensions,
        ViewGap as ViewGap,
        alignment as alignment,
        mean_cosine as mean_cosine,
        principal_angles as principal_angles,
        recalled_views as recalled_views,
        rogue_dimensions as rogue_dimensions,
        self_cluster as self_cluster,
        uniformity as uniformity,
        unit_rows as unit_rows,
        view_gap as view_gap,
    )
    from fullrank.spectrum.intrinsic import (
        IntrinsicDimension as IntrinsicDimension,
        RowInfluence as RowInfluence,
        gride as gride,
        two_nn as two_nn,
        two_nn_influence as two_nn_influence,
    )
    from fullrank.spectrum.isotropy import (
        GaussianDistance as GaussianDistance,
        gaussian_distance as gaussian_distance,
        isotropy_distance as isotropy_distance,
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
    from fullrank.spectrum.neighbours import (
        hubness as hubness,
        near_duplicates as near_duplicates,
        near_duplicates_among as near_duplicates_among,
    )
    from fullrank.spectrum.similarity import (
        Explained as Explained,
        JointMoments as JointMoments,
        Overlap as Overlap,
        joint_moments as joint_moments,
        linear_cka as linear_cka,
        neighbour_overlap as neighbour_overlap,
    )
    from fullrank.spectrum.spanning_tree import mst_dimension as mst_dimension
    from fullrank.spectrum.two_views import (
        dime as dime,
        infonce_at_place as infonce_at_place,
        infonce_by_image as infonce_by_image,
    )

# The papers behind the measures, as keys of the bibliography.
MEASURE_CITATIONS = {
    "effective_rank": ("roy2007effective",),
    "rankme": ("garrido2023rankme",),
    "participation_ratio": ("gao2017theory",),
    "stable_rank": ("rudelson2007sampling",),
    "nesum": ("he2022exploring",),
    "alpha_req": ("agrawal2022alpha",),
    "mean_cosine": ("ethayarajh2019contextual",),
    "intrinsic_dimension_two_nn": ("facco2017estimating",),
    "intrinsic_dimension_gride": ("denti2022generalized",),
    "lidar": ("thilak2024lidar",),
    "hubness": ("radovanovic2010hubs",),
    "gaussian_excess": ("balestriero2025lejepa", "epps1983test"),
    "isotropy_excess": ("balestriero2025lejepa", "epps1983test"),
    "alignment": ("wang2020understanding",),
    "uniformity": ("wang2020understanding",),
    "cka": ("kornblith2019similarity", "song2012feature"),
    "overlap": ("huh2024platonic",),
    "angles": ("bjorck1973numerical", "raghu2017svcca"),
    "rotated_distance": ("schonemann1966generalized",),
}

__getattr__, __dir__, __all__ = attach(__name__)
