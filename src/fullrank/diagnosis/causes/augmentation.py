"""Augmentation as the cause of a low rank: it outweighs the data in the lost directions."""

from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.augmentation import (
    ASSUMED_TEMPERATURE,
    AugmentationRatio,
    augmentation_ratio,
    operation_shares,
    ratio_sources,
)
from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.shape import Cut, check_ratio
from fullrank.record import Finding
from fullrank.record.operations import moved_and_cost


@final
@dataclass(frozen=True)
class Augmentation(Cause):
    r"""Sigma1 over Sigma0 in the directions that a place lost, measured at the nearest earlier place.

    .. math:: r = \operatorname{tr}(P \Sigma_1) / \operatorname{tr}(P \Sigma_0)

    It is a finding if two conditions hold. The lower end of the 95 % interval of r exceeds the rule's
    threshold, and r is more than `kept_ratio` times the same ratio in the kept directions. If the nearest
    earlier place does not show it, the next one is measured.

    Raises:
        UsageError: If `kept_ratio` is below 1.

    >>> import torch
    >>> x = torch.randn(200, 4)
    >>> noise = torch.tensor([0.01, 0.01, 3.0, 3.0])
    >>> views = tuple(x + noise * torch.randn(200, 4) for _ in range(2))
    >>> z = PlaceEvidence("z", x * torch.tensor([1.0, 1.0, 0.01, 0.01]))
    >>> evidence = Evidence((PlaceEvidence("h", x, views), z))
    >>> [finding.cause for finding in Augmentation().check(z, evidence)]
    ['augmentation']

    Source: P1 Theorem 1. `fullrank.diagnosis.augmentation_ratio` defines the measure.
    """

    name = "augmentation"
    stage = Stage.EXPLANATION
    of_objective = True
    needs = ("views",)
    rule: Rule = Rule(
        level="alarm",
        measure="Sigma1 over Sigma0 in the lost directions",
        side="above",
        threshold=0.5,
        remedy="Weaken the operation that costs the labels most, or the one that moves the features most if "
        "no cost is certain; or use the representation before the head.",
    )
    kept_ratio: float = 2.0

    def __post_init__(self) -> None:
        check_ratio("kept_ratio", self.kept_ratio)

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding if augmentation explains the low rank of `place`, otherwise none."""
        cut = evidence.cut(place)
        if cut is None:
            return []
        temperature = evidence.temperature or ASSUMED_TEMPERATURE
        for source in ratio_sources(place, evidence):
            ratio = augmentation_ratio(source, place, cut.rank, temperature=temperature, seed=evidence.seed)
            if ratio is not None and self._explains(ratio):
                return [
                    self.finding(self.rule, place, ratio.lost, _sentence(cut, place, source, ratio, evidence))
                ]
        return []

    def _explains(self, ratio: AugmentationRatio) -> bool:
        return self.rule.fires(ratio.low) and ratio.lost > self.kept_ratio * ratio.kept


def _sentence(
    cut: Cut, place: PlaceEvidence, source: PlaceEvidence, ratio: AugmentationRatio, evidence: Evidence
) -> str:
    assumed = "" if evidence.temperature is not None else f", assuming temperature {ASSUMED_TEMPERATURE}"
    shares = operation_shares(source)
    blamed = f" {moved_and_cost(shares, evidence.probed_again, source.place)}" if shares else ""
    return (
        f"{cut.sentence(place.place)}. In the lost directions of {ratio.place}, augmentation has "
        f"{ratio.lost:.2f} times the weight of the data (95 % interval {ratio.low:.2f} to "
        f"{ratio.high:.2f}{assumed}); in the kept directions, {ratio.kept:.2f} times.{blamed}"
    )
