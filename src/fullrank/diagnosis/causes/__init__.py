"""Causes of collapse: one file each, and their catalogue in the order in which they are asked.

The catalogue imports nothing; `find_causes` asks every registered cause, and the classes are imported on
first use. `docs/causes.md` gives the reasons for their thresholds.
"""

from typing import TYPE_CHECKING

from fullrank.lazy import attach
from fullrank.registry import Entry, Registry

if TYPE_CHECKING:
    from fullrank.diagnosis.causes.augmentation import Augmentation as Augmentation
    from fullrank.diagnosis.causes.complete_collapse import CompleteCollapse as CompleteCollapse
    from fullrank.diagnosis.causes.contract import Cause as Cause, Rule as Rule, Stage as Stage
    from fullrank.diagnosis.causes.dead_channels import DeadChannels as DeadChannels
    from fullrank.diagnosis.causes.implicit_regularisation import (
        ImplicitRegularisation as ImplicitRegularisation,
    )
    from fullrank.diagnosis.causes.mean_dominance import MeanDominance as MeanDominance
    from fullrank.diagnosis.causes.search import find_causes as find_causes
    from fullrank.diagnosis.causes.too_few_samples import TooFewSamples as TooFewSamples
    from fullrank.diagnosis.causes.unexplained_low_rank import UnexplainedLowRank as UnexplainedLowRank

__getattr__, __dir__, __all__ = attach(__name__)
__all__ += ["CAUSES", "register_cause"]

# The summary of an entry is the heading under which a report shows its findings.
CAUSES = Registry("cause", "causes", group="fullrank.causes")
register_cause = CAUSES.add
for _entry in [
    Entry(
        "complete-collapse",
        "fullrank.diagnosis.causes.complete_collapse:CompleteCollapse",
        "Every input gets nearly the same features",
        "fullrank",
    ),
    Entry(
        "dead-channels",
        "fullrank.diagnosis.causes.dead_channels:DeadChannels",
        "Some channels never change",
        "fullrank",
    ),
    Entry(
        "mean-dominance",
        "fullrank.diagnosis.causes.mean_dominance:MeanDominance",
        "All features point in nearly the same direction",
        "fullrank",
    ),
    Entry(
        "too-few-samples",
        "fullrank.diagnosis.causes.too_few_samples:TooFewSamples",
        "Too few samples for the width",
        "fullrank",
    ),
    Entry(
        "augmentation",
        "fullrank.diagnosis.causes.augmentation:Augmentation",
        "The augmentation moves the data more than the data varies",
        "P1, Theorem 1",
    ),
    Entry(
        "implicit-regularisation",
        "fullrank.diagnosis.causes.implicit_regularisation:ImplicitRegularisation",
        "Stacked weight matrices favour a few directions",
        "P1, Theorems 2 and 3",
    ),
    Entry(
        "unexplained-low-rank",
        "fullrank.diagnosis.causes.unexplained_low_rank:UnexplainedLowRank",
        "Few directions are in use, and no known cause explains it",
        "fullrank",
    ),
]:
    CAUSES.register(_entry)
