"""Probes: how well a linear map or nearest neighbours predict labels from frozen features (N, D).

The names are imported on first use.
"""

from typing import TYPE_CHECKING

from fullrank.lazy import attach

if TYPE_CHECKING:
    from fullrank.probes.balanced import balanced_probe as balanced_probe
    from fullrank.probes.clusters import (
        cluster_ids as cluster_ids,
        cluster_predictability as cluster_predictability,
        predicted_clusters as predicted_clusters,
    )
    from fullrank.probes.correction_effect import (
        CorrectionEffect as CorrectionEffect,
        correction_effect as correction_effect,
    )
    from fullrank.probes.corrections import (
        Correction as Correction,
        Erasure as Erasure,
        MeanDifference as MeanDifference,
        correct as correct,
        leace as leace,
        mean_difference as mean_difference,
    )
    from fullrank.probes.cued import cue_accuracy as cue_accuracy
    from fullrank.probes.cues import CueGaps as CueGaps, cue_gaps as cue_gaps, partners as partners
    from fullrank.probes.diffused import (
        Redundancy as Redundancy,
        diffused_redundancy as diffused_redundancy,
        least_dimensions as least_dimensions,
        redundancy as redundancy,
    )
    from fullrank.probes.directions import (
        DIRECTIONS as DIRECTIONS,
        Directions as Directions,
        Reduced as Reduced,
        reduced_accuracy as reduced_accuracy,
    )
    from fullrank.probes.few_shots import FewShot as FewShot, few_shot as few_shot, shot_probe as shot_probe
    from fullrank.probes.groups import (
        GroupAccuracy as GroupAccuracy,
        PerClass as PerClass,
        agreement as agreement,
        group_accuracy as group_accuracy,
        per_class as per_class,
    )
    from fullrank.probes.linear import LinearProbe as LinearProbe, among as among
    from fullrank.probes.logistic import LogisticFit as LogisticFit, solve_logistic as solve_logistic
    from fullrank.probes.nearest import ClassMeanProbe as ClassMeanProbe, NearestProbe as NearestProbe
    from fullrank.probes.probe import Probe as Probe
    from fullrank.probes.recall import Retrieval as Retrieval, retrieval as retrieval
    from fullrank.probes.ridge import Ridge as Ridge, auroc as auroc, ridge_r2 as ridge_r2
    from fullrank.probes.several import MultiLabel as MultiLabel, multi_label as multi_label

__getattr__, __dir__, __all__ = attach(__name__)
