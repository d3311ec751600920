"""The measures of a place: their values are those of the functions, and their settings are said."""

import re

import pytest
import torch

from fullrank.diagnosis import PlaceEvidence
from fullrank.diagnosis.measures import measures_of
from fullrank.record import Measure
from fullrank.record.measures import MEASURES
from fullrank.spectrum import alpha_req, gride, lidar, two_nn


def gaussian(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def measured(rows: int, width: int) -> tuple[PlaceEvidence, dict[str, Measure]]:
    x = gaussian(rows, width)
    place = PlaceEvidence("h", x, (x + 0.1 * gaussian(rows, width, 1), x + 0.1 * gaussian(rows, width, 2)))
    return place, {measure.name: measure for measure in measures_of(place)}


def test_lidar_alpha_and_intrinsic_dimensions_are_those_of_their_functions() -> None:
    place, measures = measured(120, 60)
    assert set(measures) <= set(MEASURES)
    assert measures["lidar"].value == pytest.approx(lidar(torch.stack(place.views, 1)))
    assert re.findall(r"[\d.]+", measures["lidar"].how) == ["120", "2", "0.0001"]
    fit = alpha_req(place.features)
    assert measures["alpha_req"].value == pytest.approx(fit.alpha)
    assert re.findall(r"\d+", measures["alpha_req"].how) == [str(fit.first), str(fit.last)]
    for name, found in (("two_nn", two_nn(place.features)), ("gride", gride(place.features))):
        measure = measures[f"intrinsic_dimension_{name}"]
        assert measure.value == pytest.approx(found.value)
        assert f"{found.standard_error:.2g}" in measure.how and "120 rows" in measure.how


@pytest.mark.parametrize(("rows", "width", "ends"), [(100, 20, "20 channels"), (30, 24, "24 channels")])
def test_a_window_that_is_cut_short_says_by_what(rows: int, width: int, ends: str) -> None:
    how = measured(rows, width)[1]["alpha_req"].how
    assert f"4 to {width}" in how and ends in how
    few = measured(20, 40)[1]["alpha_req"].how
    assert "4 to 19" in few and "20 rows" in few


def test_what_is_not_defined_says_why_with_its_numbers() -> None:
    measures = measured(30, 40)[1]
    assert measures["lidar"].value is None and measures["intrinsic_dimension_gride"].value is None
    assert "30" in measures["lidar"].how and "40" in measures["lidar"].how
    assert "32" in measures["intrinsic_dimension_gride"].how
    assert measures["intrinsic_dimension_two_nn"].value is not None


def test_equal_rows_are_said() -> None:
    x = gaussian(50, 6)
    (two,) = (
        each
        for each in measures_of(PlaceEvidence("h", torch.cat([x, x[:9]])))
        if each.name.endswith("two_nn")
    )
    assert "50 rows" in two.how and "9 equal rows" in two.how
    assert two.value == pytest.approx(two_nn(x).value)
