"""Augmentation as the explanation of a low rank: it outweighs the data in the lost directions."""

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


@final
@dataclass(frozen=True)
class Augmentation(Cause):
    r"""Sigma1 over Sigma0 in the directions that the place lost, at the nearest place below that shows it.

    .. math:: r = \operatorname{tr}(P \Sigma_1) / \operatorname{tr}(P \Sigma_0)

    It is a finding if the lower end of the 95 % interval of r passes the rule and r is more than `kept_ratio`
    times that of the kept directions. Raises UsageError for a `kept_ratio` below 1.

    >>> import torch
    >>> x = torch.randn(200, 4)
    >>> noise = torch.tensor([0.01, 0.01, 3.0, 3.0])
    >>> views = tuple(x + noise * torch.randn(200, 4) for _ in range(2))
    >>> z = PlaceEvidence("z", x * torch.tensor([1.0, 1.0, 0.01, 0.01]))
    >>> evidence = Evidence((PlaceEvidence("h", x, views), z))
    >>> [finding.cause for finding in Augmentation().check(z, evidence)]
    ['augmentation']

    Source: P1 Theorem 1; `fullrank.diagnosis.augmentation_ratio` says what is measured.
    """

    name = "augmentation"
    stage = Stage.EXPLANATION
    needs = ("views",)
    rule: Rule = Rule(
        level="alarm",
        measure="Sigma1 over Sigma0 in the lost directions",
        side="above",
        threshold=0.5,
        remedy="Weaken the operation with the largest share, or keep the representation before the head.",
    )
    kept_ratio: float = 2.0

    def __post_init__(self) -> None:
        check_ratio("kept_ratio", self.kept_ratio)

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding where the augmentation explains the low rank of `place`."""
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
    assumed = "" if evidence.temperature is not None else f", temperature {ASSUMED_TEMPERATURE} assumed"
    shares = operation_shares(source)
    blamed = f"; {shares[0].operation} makes {100 * shares[0].share:.0f} % of it" if shares else ""
    return (
        f"{cut.sentence(place.place)}, and in the lost directions of {ratio.place} augmentation weighs "
        f"{ratio.lost:.2f} of the data (95 % interval {ratio.low:.2f} to {ratio.high:.2f}{assumed}), in the "
        f"kept ones {ratio.kept:.2f}{blamed}."
    )
