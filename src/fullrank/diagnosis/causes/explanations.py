"""Causes that explain a low rank, and the last resort where none does."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch

from fullrank.diagnosis.augmentation import (
    ASSUMED_TEMPERATURE,
    augmentation_ratio,
    can_be_weighed,
    operation_shares,
    ratio_sources,
)
from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.shape import check_ratio, low_rank_of
from fullrank.diagnosis.stacked import block_alignment, imbalance, product
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
            if ratio is not None and self.rule.fires(ratio.low) and ratio.lost > self.kept_ratio * ratio.kept:
                assumed = "" if evidence.temperature is not None else f", temperature {temperature} assumed"
                shares = operation_shares(source)[:1]
                blamed = [f"; {most.operation} makes {100 * most.share:.0f} % of it" for most in shares]
                sentence = (
                    f"{cut.sentence(place.place)}, and in the lost directions of {source.place} augmentation "
                    f"weighs {ratio.lost:.2f} of the data (95 % interval {ratio.low:.2f} to {ratio.high:.2f}"
                    f"{assumed}), in the kept ones {ratio.kept:.2f}{''.join(blamed)}."
                )
                return [self.finding(self.rule, place, ratio.lost, sentence)]
        return []


@final
@dataclass(frozen=True)
class ImplicitRegularisation(Cause):
    """The product of the stacked maps breaks off, and its maps agree on the directions before the break.

    What is measured is the least `block_alignment` of two maps that follow each other, 0 at chance and 1 in
    agreement, at the last place, to which the maps lead. It stands behind `augmentation` in the catalogue:
    its sentence says that the augmentation was weak, or that there were no views to exclude it.

    >>> import torch
    >>> gains = torch.diag(torch.tensor([1.0, 1.0, 0.01, 0.01]))
    >>> z = PlaceEvidence("z", torch.randn(200, 4) @ gains @ gains)
    >>> evidence = Evidence((z,), stacked=(gains, gains))
    >>> [finding.value for finding in ImplicitRegularisation().check(z, evidence)]
    [1.0]

    Source: P1 Theorems 2 and 3.
    """

    name = "implicit-regularisation"
    stage = Stage.EXPLANATION
    needs = ("stacked",)
    rule: Rule = Rule(
        level="alarm",
        measure="block alignment of the stacked maps",
        side="above",
        threshold=0.8,
        remedy="Use fewer stacked linear maps, start them nearer to orthogonal, or take a fixed head "
        "(subvector) without weights.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding at the last place where the maps explain its low rank."""
        cut = evidence.cut(place)
        if cut is None or not evidence.is_last(place):
            return []
        maps = evidence.stacked
        squares = torch.linalg.svdvals(product(maps).cpu()).square()
        possible = min(len(squares), *(min(matrix.shape) for matrix in maps))
        of_product = low_rank_of(squares[:possible], evidence.limits)
        pairs = list(pairwise(maps))
        if of_product is None or any(of_product.rank >= first.shape[0] for first, _ in pairs):
            return []
        value = min(block_alignment(first, second, of_product.rank) for first, second in pairs)
        between = max(imbalance(first, second) for first, second in pairs)
        weak, unknown = "augmentation is weak in the lost ones", "no views were given to exclude augmentation"
        views = weak if can_be_weighed(place, evidence) else unknown
        sentence = (
            f"{cut.sentence(place.place)}, the product of {len(maps)} linear maps breaks off "
            f"after {of_product.rank}, where they are aligned to {value:.2f} (imbalance {between:.2f}), and "
            f"{views}."
        )
        return self.judged(self.rule, place, value, sentence)


@final
@dataclass(frozen=True)
class UnexplainedLowRank(Cause):
    """A spectrum that breaks off, without a known cause; the sentence says which evidence was missing.

    >>> import torch
    >>> z = PlaceEvidence("z", torch.randn(200, 2) @ torch.randn(2, 8))
    >>> evidence = Evidence((z,))
    >>> UnexplainedLowRank().check(z, evidence)[0].value
    0.75
    """

    name = "unexplained-low-rank"
    stage = Stage.EXPLANATION
    last_resort = True
    rule: Rule = Rule(
        level="alarm",
        measure="share of the possible rank that is lost",
        side="above",
        threshold=0.1,
        remedy="Give the views and the stacked maps of the head, if they were not given, and look at the "
        "places below.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding where the rank is low."""
        cut = evidence.cut(place)
        # A rank is low from a lost share of exactly the limit on, which the rule's threshold equals.
        if cut is None or not (
            self.rule.fires(cut.lost_share) or math.isclose(cut.lost_share, self.rule.threshold)
        ):
            return []
        missing = [] if can_be_weighed(place, evidence) else ["no views"]
        missing += evidence.lacks(("stacked",), place) and ["no stacked maps"]
        unknown = f"; {' and '.join(missing)} were given" if missing else ""
        sentence = f"{cut.sentence(place.place)}, and no cause was found{unknown}."
        return [self.finding(self.rule, place, cut.lost_share, sentence)]
