"""When to alarm: the threshold, its side and a remedy for each cause of collapse, as data. Torch-free.

`docs/causes.md` shows the same rules with the reasons for their thresholds.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

from fullrank.errors import UsageError


@dataclass(frozen=True)
class Rule:
    """One measure, the threshold it must pass, and what to say and to try when it does.

    `side` says on which side of `threshold` a value is a finding; the threshold itself is none.

    >>> RULES.mean_dominance.fires(0.95), RULES.mean_dominance.fires(0.9)
    (True, False)
    """

    cause: str
    level: Literal["alarm", "note"]
    measure: str
    side: Literal["above", "below"]
    threshold: float
    remedy: str

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold) or self.threshold < 0:
            raise UsageError(
                f"The threshold of {self.cause} must be a finite number of 0 or more, but got "
                f"{self.threshold}; fullrank.spectrum.rules.RULES holds the tested ones."
            )

    def fires(self, value: float) -> bool:
        """Whether `value` is a finding."""
        return value > self.threshold if self.side == "above" else value < self.threshold


@dataclass(frozen=True)
class Rules:
    """All rules; change one with `dataclasses.replace`.

    A ratio of successive eigenvalues of `gap` or more, with at least `lost_share` of the possible rank behind
    it, is a low rank; a single direction before the rest needs `single_gap`. `kept_ratio` is how many times
    stronger than in the kept directions the augmentation must be in the lost ones. Features that are never
    negative (after a ReLU) have idle channels and a large mean without any fault, hence rules of their own.
    """

    complete_collapse: Rule
    dead_channels: Rule
    dead_rectified: Rule
    idle_rectified: Rule
    mean_dominance: Rule
    mean_rectified: Rule
    too_few_samples: Rule
    augmentation: Rule
    implicit_regularisation: Rule
    unexplained_low_rank: Rule
    gap: float = 8.0
    single_gap: float = 100.0
    lost_share: float = 0.1
    kept_ratio: float = 2.0

    def __post_init__(self) -> None:
        for name in ("gap", "single_gap", "kept_ratio"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 1):
                raise UsageError(
                    f"{name} must be a number of 1 or more, but got {getattr(self, name)}; it is a ratio."
                )
        if not 0 < self.lost_share < 1:
            raise UsageError(
                f"lost_share must lie between 0 and 1, but got {self.lost_share}; 0.1 is tested."
            )

    def __iter__(self) -> Iterator[Rule]:
        return (rule for field in fields(self) if isinstance(rule := getattr(self, field.name), Rule))


_DEAD = "Lower the learning rate or put a normalisation before the activation, and train again."
_CONE = "Subtract the mean before cosines are taken, or end the head in a batch norm (norm=batch)."

RULES = Rules(
    complete_collapse=Rule(
        cause="complete-collapse",
        level="alarm",
        measure="spread relative to norm",
        side="below",
        threshold=5e-4,
        remedy="Check that the loss has negatives, a variance term or a stop-gradient, and lower the "
        "learning rate.",
    ),
    dead_channels=Rule(
        cause="dead-channels",
        level="alarm",
        measure="share of channels without variance",
        side="above",
        threshold=0.05,
        remedy=_DEAD,
    ),
    dead_rectified=Rule(
        cause="dead-channels",
        level="alarm",
        measure="share of channels without variance",
        side="above",
        threshold=0.6,
        remedy=_DEAD,
    ),
    idle_rectified=Rule(
        cause="dead-channels",
        level="note",
        measure="share of channels without variance",
        side="above",
        threshold=0.05,
        remedy="Look at other images before you act: after a ReLU a channel may only be idle on these.",
    ),
    mean_dominance=Rule(
        cause="mean-dominance",
        level="alarm",
        measure="share of the mean in the second moment",
        side="above",
        threshold=0.9,
        remedy=_CONE,
    ),
    mean_rectified=Rule(
        cause="mean-dominance",
        level="alarm",
        measure="share of the mean in the second moment",
        side="above",
        threshold=0.999,
        remedy=_CONE,
    ),
    too_few_samples=Rule(
        cause="too-few-samples",
        level="note",
        measure="largest possible rank over width",
        side="below",
        threshold=1.0,
        remedy="Give more images than the features have channels; a few times as many is better.",
    ),
    augmentation=Rule(
        cause="augmentation",
        level="alarm",
        measure="Sigma1 over Sigma0 in the lost directions",
        side="above",
        threshold=0.5,
        remedy="Weaken the operation with the largest share, or keep the representation before the head.",
    ),
    implicit_regularisation=Rule(
        cause="implicit-regularisation",
        level="alarm",
        measure="block alignment of the stacked maps",
        side="above",
        threshold=0.8,
        remedy="Use fewer stacked linear maps, start them nearer to orthogonal, or take a fixed head "
        "(subvector) without weights.",
    ),
    unexplained_low_rank=Rule(
        cause="unexplained-low-rank",
        level="alarm",
        measure="share of the possible rank that is lost",
        side="above",
        threshold=0.1,
        remedy="Give the views and the stacked maps of the head, if they were not given, and look at the "
        "places below.",
    ),
)
