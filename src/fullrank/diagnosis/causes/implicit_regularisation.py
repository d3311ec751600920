"""Implicit regularisation as the cause of a low rank: stacked linear maps that lose it together."""

from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch

from fullrank.diagnosis.augmentation import can_be_weighed
from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.shape import low_rank_of
from fullrank.diagnosis.stacked import block_alignment, drop_of_one, imbalance, product
from fullrank.record import Finding

_FEWER = (
    "Use fewer stacked linear maps, initialise them closer to orthogonal, or use a fixed head such as "
    "subvector."
)


@final
@dataclass(frozen=True)
class ImplicitRegularisation(Cause):
    """The singular values of the product drop sharply, and the maps make this drop together.

    They do so if they agree on the directions before the drop. The measure is the smallest `block_alignment`
    of two consecutive maps: 0 at chance, 1 in full agreement. They also do so if no single map has much of
    the drop. That measure is the largest `drop_of_one`. Both are taken at the last place, the output of the
    maps. This cause is checked after `augmentation`, so its evidence states whether augmentation was weak or
    no views were given to exclude it.

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
    of_objective = True
    needs = ("stacked",)
    rule: Rule = Rule("alarm", "block alignment of the stacked maps", "above", 0.8, _FEWER)
    together: Rule = Rule("alarm", "largest share of the drop in one map", "below", 0.5, _FEWER)

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding if `place` is the last one and the maps explain its low rank, otherwise none."""
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
        weak = "Augmentation is weak in the lost directions."
        unknown = "Augmentation is not excluded, because no views were given."
        views = weak if can_be_weighed(place, evidence) else unknown
        drops = (
            f"{cut.sentence(place.place)}. The singular values of the product of {len(maps)} linear maps "
            f"drop after {of_product.rank}"
        )
        aligned = (
            f"{drops}, and the maps agree on the directions before the drop (alignment {value:.2f}, "
            f"imbalance {between:.2f}). {views}"
        )
        share = max(drop_of_one(matrix, maps, of_product.rank) for matrix in maps)
        most = f"{100 * share:.0f} % of this drop, in logarithms"
        spread = f"{drops}, and no single map has more than {most}. {views}"
        by_alignment = self.judged(self.rule, place, value, aligned)
        return by_alignment or self.judged(self.together, place, share, spread)
