"""What the operations of the views do, from a record: what moves the features, and what costs the labels."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import ndtri

from fullrank.record.schema import OperationShare, ProbedAgain

# How `ProbedAgain.change` begins for views without an operation, and the place of their pixels.
WITHOUT = "views without "
PIXELS = "pixels"


@dataclass(frozen=True)
class OperationCost:
    """What an operation costs the labels at a place, in points of linear accuracy.

    Attributes:
        operation: The name of the operation.
        place: Where the labels are read: `h`, or `pixels` of the views.
        points: The accuracy without the operation, minus that with all operations.
        error: The paired standard error of `points`.
        certain: Whether `points` is above zero by more than chance, given how many operations were tried.
    """

    operation: str
    place: str
    points: float
    error: float
    certain: bool


def operation_costs(probed: Sequence[ProbedAgain]) -> list[OperationCost]:
    """The cost of each operation whose views were probed without it, the largest first.

    A cost is certain if it exceeds its error as a normal variable does with a probability of 2.5 %, divided
    by the number of costs that were measured (Bonferroni).

    >>> without = ProbedAgain(
    ...     place="h", change="views without hue", linear=0.9, before=0.8, tested=500, error=0.02
    ... )
    >>> [(cost.operation, round(cost.points, 1), cost.certain) for cost in operation_costs([without])]
    [('hue', 10.0, True)]
    """
    of_views = [each for each in probed if each.change.startswith(WITHOUT) and each.error is not None]
    limit = float(ndtri(1 - 0.025 / max(len(of_views), 1)))
    costs = [
        OperationCost(
            operation=each.change.removeprefix(WITHOUT),
            place=each.place,
            points=100 * (each.linear - each.before),
            error=100 * (each.error or 0.0),
            certain=each.linear - each.before > limit * (each.error or 0.0),
        )
        for each in of_views
    ]
    return sorted(costs, key=lambda cost: -cost.points)


def moves_most(shares: Sequence[OperationShare], place: str) -> OperationShare | None:
    """The operation with the largest share in the change between two views at a place, if it has any."""
    there = [share for share in shares if share.place == place and share.share > 0]
    return max(there, key=lambda share: share.share, default=None)


def moved_and_cost(shares: Sequence[OperationShare], probed: Sequence[ProbedAgain], place: str) -> str:
    """What costs the labels, and what moves the features at a place, in sentences; "" without `shares` there.

    >>> shares = [OperationShare(place="h", operation="hue", share=0.2)]
    >>> moved_and_cost(shares, [], "h")
    'What moves the features of h most is hue (20 % of what the operations move, each alone).'
    """
    costs = operation_costs(probed)
    places = [at for at in ("h", PIXELS) if any(cost.place == at for cost in costs)]
    sentences = [_cost_sentence([cost for cost in costs if cost.place == at], at) for at in places]
    if (most := moves_most(shares, place)) is not None:
        moves = f"What moves the features of {place} most is {most.operation}"
        moves += f" ({100 * most.share:.0f} % of what the operations move, each alone)"
        own = [cost for cost in costs if cost.operation == most.operation]
        if own and not any(cost.certain for cost in own):
            moves += ", but nothing shows that it costs the labels anything"
        sentences.append(f"{moves}.")
    return " ".join(sentences)


def _cost_sentence(costs: Sequence[OperationCost], place: str) -> str:
    """The operations whose cost at one place is certain, or the largest cost if none is."""
    where = "At h" if place == "h" else "On the pixels of the views"
    certain = [cost for cost in costs if cost.certain]
    if not certain:
        largest = f"{costs[0].operation}, {_points(costs[0])}"
        return f"{where}, no cost to the labels exceeds chance (the largest: {largest})."
    first, *others = certain[:3]
    also = "".join(f", {cost.operation} {cost.points:.1f} ({cost.error:.1f})" for cost in others)
    return f"{where}, {first.operation} costs the labels {_points(first)}{also}."


def _points(cost: OperationCost) -> str:
    return f"{cost.points:.1f} points (standard error {cost.error:.1f})"
