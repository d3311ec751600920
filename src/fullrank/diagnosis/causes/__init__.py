"""Causes of collapse, and their catalogue in the order in which they are checked.

The catalogue imports nothing; `find_causes` checks every registered cause, and the classes are imported on
first use. `docs/causes.md` gives the reasons for their thresholds.
"""

from typing import TYPE_CHECKING

from fullrank.lazy import attach
from fullrank.registry import Entry, Registry

if TYPE_CHECKING:
    from fullrank.diagnosis.causes.contract import Cause as Cause, Rule as Rule, Stage as Stage
    from fullrank.diagnosis.causes.explanations import (
        Augmentation as Augmentation,
        ImplicitRegularisation as ImplicitRegularisation,
        UnexplainedLowRank as UnexplainedLowRank,
    )
    from fullrank.diagnosis.causes.search import find_causes as find_causes
    from fullrank.diagnosis.causes.shapes import (
        CompleteCollapse as CompleteCollapse,
        DeadChannels as DeadChannels,
        MeanDominance as MeanDominance,
        TooFewSamples as TooFewSamples,
    )

__getattr__, __dir__, __all__ = attach(__name__)
__all__ += ["CAUSES", "register_cause"]

CAUSES = Registry("cause", "causes", group="fullrank.causes")
register_cause = CAUSES.add
# Name, the heading under which a report shows its findings, and source; the class is called like the name.
for _name, _summary, _source in (
    ("complete-collapse", "Every input gets nearly the same features", "fullrank"),
    ("dead-channels", "Some channels never change", "fullrank"),
    ("mean-dominance", "All features point in nearly the same direction", "fullrank"),
    ("too-few-samples", "Too few samples for the width", "fullrank"),
    ("augmentation", "The augmentation moves the data more than the data varies", "P1, Theorem 1"),
    ("implicit-regularisation", "Stacked weight matrices favour a few directions", "P1, Theorems 2 and 3"),
    ("unexplained-low-rank", "Few directions are in use, and no known cause explains it", "fullrank"),
):
    _builder = f"{__name__}:{_name.title().replace('-', '')}"
    CAUSES.register(Entry(_name, _builder, _summary, _source))
