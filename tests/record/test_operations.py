"""What operations move and cost, from a record."""

import pytest
from refusals import assert_names
from scipy.stats import norm

from fullrank.record import OperationShare, ProbedAgain
from fullrank.record.operations import moved_and_cost, moves_most, operation_costs


def without(operation, points, error, place="h"):
    return ProbedAgain(
        place=place,
        change=f"views without {operation}",
        linear=0.5 + points / 100,
        before=0.5,
        tested=500,
        error=error / 100,
    )


def test_costs_are_gains_in_points_the_largest_first():
    costs = operation_costs([without("flip", -1, 2), without("hue", 12, 2), without("hue", 20, 2, "pixels")])
    said = [(cost.operation, cost.place, round(cost.points, 9), round(cost.error, 9)) for cost in costs]
    assert said == [("hue", "pixels", 20, 2), ("hue", "h", 12, 2), ("flip", "h", -1, 2)]


def test_other_changes_and_unmeasured_errors_are_no_costs():
    other = without("hue", 12, 2).model_copy(update={"change": "standardised channels"})
    unmeasured = without("hue", 12, 2).model_copy(update={"error": None})
    assert operation_costs([other, unmeasured]) == []


@pytest.mark.parametrize("count", [1, 8, 16])
def test_more_operations_need_a_clearer_cost(count):
    limit = norm.ppf(1 - 0.025 / count)  # 1.96 for one
    rest = [without(f"other{number}", 0, 1) for number in range(count - 1)]
    for factor, certain in ((1.001, True), (0.999, False)):
        (hue,) = [
            cost for cost in operation_costs([without("hue", factor * limit, 1), *rest]) if cost.points > 1
        ]
        assert hue.certain is certain
    assert not any(cost.certain for cost in operation_costs([without("hue", 0, 0)]))


def test_what_moves_is_named_apart_from_what_costs():
    shares = [
        OperationShare(place=place, operation=name, share=share)
        for place, name, share in [("h", "hue", 0.2), ("h", "brightness", 0.79), ("z", "hue", 1.0)]
    ]
    probed = [without("hue", 12, 2), without("brightness", 0.2, 1)]
    assert moves_most(shares, "h").operation == "brightness" and moves_most(shares, "x") is None
    costs, moves = moved_and_cost(shares, probed, "h").split(". ")
    assert_names(costs, "h", "hue", "12.0", "2.0")
    assert_names(moves, "h", "brightness", "79")
    assert "brightness" not in costs and "hue" not in moves
    assert "hue" not in moved_and_cost(shares, [without("hue", 1, 2)], "x").partition("largest")[0]
    assert moved_and_cost([], [], "h") == ""
