"""Causes of collapse: one file for each, and a catalogue in the order of the checks.

The catalogue imports nothing. Each class is imported on first use. `find_causes` checks every registered
cause. `docs/causes.md` gives the reasons for the thresholds.
"""

from typing import TYPE_CHECKING

from fullrank.bibliography import P1
from fullrank.lazy import attach
from fullrank.registry import Entry, Registry

if TYPE_CHECKING:
    from fullrank.diagnosis.causes.augmentation import Augmentation as Augmentation
    from fullrank.diagnosis.causes.batch_statistics import BatchStatistics as BatchStatistics
    from fullrank.diagnosis.causes.class_collapse import ClassCollapse as ClassCollapse
    from fullrank.diagnosis.causes.complete_collapse import CompleteCollapse as CompleteCollapse
    from fullrank.diagnosis.causes.contract import Cause as Cause, Rule as Rule, Stage as Stage
    from fullrank.diagnosis.causes.dead_channels import DeadChannels as DeadChannels
    from fullrank.diagnosis.causes.dimensional_collapse import DimensionalCollapse as DimensionalCollapse
    from fullrank.diagnosis.causes.dominant_direction import DominantDirection as DominantDirection
    from fullrank.diagnosis.causes.duplicate_rows import DuplicateRows as DuplicateRows
    from fullrank.diagnosis.causes.implicit_regularisation import (
        ImplicitRegularisation as ImplicitRegularisation,
    )
    from fullrank.diagnosis.causes.leakage import Leakage as Leakage
    from fullrank.diagnosis.causes.mean_dominance import MeanDominance as MeanDominance
    from fullrank.diagnosis.causes.outlier_tokens import OutlierTokens as OutlierTokens
    from fullrank.diagnosis.causes.search import find_causes as find_causes
    from fullrank.diagnosis.causes.too_few_samples import TooFewSamples as TooFewSamples
    from fullrank.diagnosis.causes.uneven_scale import UnevenScale as UnevenScale
    from fullrank.diagnosis.causes.unexplained_low_rank import UnexplainedLowRank as UnexplainedLowRank
    from fullrank.diagnosis.causes.view_gap import ViewGap as ViewGap
    from fullrank.diagnosis.causes.zero_rows import ZeroRows as ZeroRows

# Name, class, heading of its findings in a report, source.
_CATALOGUE = [
    ("zero-rows", "ZeroRows", "Some rows are zero", "fullrank"),
    ("duplicate-rows", "DuplicateRows", "Some rows are equal", "fullrank"),
    ("leakage", "Leakage", "Some test rows are training rows", "fullrank"),
    ("view-gap", "ViewGap", "The two views lie in two cones", "fullrank"),
    (
        "outlier-tokens",
        "OutlierTokens",
        "A few patch tokens have far larger norms than the others",
        "Darcet et al. 2024",
    ),
    ("batch-statistics", "BatchStatistics", "Batch norms whose running statistics do not fit", "fullrank"),
    ("complete-collapse", "CompleteCollapse", "All inputs get nearly the same features", "fullrank"),
    ("dead-channels", "DeadChannels", "Some channels never change", "fullrank"),
    ("mean-dominance", "MeanDominance", "All features point in nearly the same direction", "fullrank"),
    ("class-collapse", "ClassCollapse", "The rows of each class nearly coincide", "fullrank"),
    (
        "dimensional-collapse",
        "DimensionalCollapse",
        "Nearly all variance lies in one direction, and little behind it",
        "fullrank",
    ),
    ("uneven-scale", "UnevenScale", "A few large channels hide the others", "fullrank"),
    (
        "dominant-direction",
        "DominantDirection",
        "One direction or a few channels outweigh healthy features",
        "fullrank",
    ),
    ("too-few-samples", "TooFewSamples", "Too few samples for the width", "fullrank"),
    (
        "augmentation",
        "Augmentation",
        "Augmentation outweighs the data in the lost directions",
        "P1, Theorem 1",
    ),
    (
        "implicit-regularisation",
        "ImplicitRegularisation",
        "Stacked weight matrices favour a few directions",
        "P1, Theorems 2 and 3",
    ),
    (
        "unexplained-low-rank",
        "UnexplainedLowRank",
        "Low rank without a known cause",
        "fullrank",
    ),
]
# The papers of the other sources.
_PAPERS = {"Darcet et al. 2024": ("darcet2024vision",)}
_MODULES = {name: name.replace("-", "_") for name, *_ in _CATALOGUE}

__getattr__, __dir__, __all__ = attach(__name__)
__all__ += ["CAUSES", "register_cause"]

CAUSES = Registry("cause", "causes", group="fullrank.causes")
register_cause = CAUSES.add
for _name, _cause, _summary, _source in _CATALOGUE:
    _papers = (P1,) if _source.startswith("P1") else _PAPERS.get(_source, ())
    CAUSES.register(
        Entry(_name, f"{__name__}.{_MODULES[_name]}:{_cause}", _summary, _source, citations=_papers)
    )
