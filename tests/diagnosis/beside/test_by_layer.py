"""The map of the places of two nets."""

import dataclasses

import numpy as np
import pytest
import torch
from refusals import refuses
from torch import nn
from transparent import Pixels, coded_images, pixel_rows

from fullrank.diagnosis.beside.by_layer import similarity_map, untrained_map
from fullrank.diagnosis.subject import Subject
from fullrank.errors import DataError, UsageError
from fullrank.spectrum import linear_cka


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 9, generator=generator)
    return {"one": x[:, :2], "two": x[:, 1:5] + 100, "three": x.square()}


def by_definition(x, y):
    """Unbiased HSIC by Equation 5 of Song et al. 2012, term by term."""
    n, ones = len(x), np.ones(len(x))
    k, other = (side.numpy() @ side.numpy().T for side in (x, y))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(other, 0)
    terms = np.trace(k @ other) + ones @ k @ ones * (ones @ other @ ones) / ((n - 1) * (n - 2))
    return terms - 2 / (n - 2) * ones @ k @ other @ ones


def test_values_are_those_of_the_definition_with_this_net_in_the_rows(rows):
    against = {"p": rows["three"], "q": rows["one"] * 2}
    made = similarity_map(rows, against, target="x")
    assert (made.places, made.against, made.rows) == (["one", "two", "three"], ["p", "q"], 60)
    for i, place in enumerate(made.places):
        for j, other in enumerate(made.against):
            x, y = (side.double() - side.double().mean(0) for side in (rows[place], against[other]))
            expected = by_definition(x, y) / (by_definition(x, x) * by_definition(y, y)) ** 0.5
            assert made.values[i][j] == pytest.approx(expected, abs=1e-9)
            assert made.values[i][j] == pytest.approx(linear_cka(rows[place], against[other]), abs=1e-9)


def test_a_rotation_a_scale_and_the_order_of_rows_change_nothing(rows):
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1))).Q
    turned = {**rows, "two": 3 * rows["two"] @ turn - 5}
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    shuffled = [{place: x[order] for place, x in side.items()} for side in (rows, turned)]
    values = np.array(similarity_map(rows, turned).values)
    assert values == pytest.approx(np.array(similarity_map(rows, rows).values), abs=1e-5)
    assert np.diag(values) == pytest.approx(1, abs=1e-5)
    assert values == pytest.approx(np.array(similarity_map(*shuffled).values), abs=1e-9)


def test_a_place_that_does_not_vary_has_no_value(rows):
    still = {"one": rows["one"], "still": torch.full((60, 3), 0.1)}
    assert similarity_map(still, rows).values[1] == [None] * 3
    assert [row[1] is None for row in similarity_map(rows, still).values] == [True] * 3


def test_unlike_rows_and_too_few_are_refused(rows):
    with refuses(UsageError, 59, 60):
        similarity_map(rows, {"p": rows["one"][:59]})
    few = {place: x[:3] for place, x in rows.items()}
    with refuses(DataError, 3, 4):
        similarity_map(few, few)


class Doubled(Pixels):
    """At h the pixels, at `quiet` their squares."""

    def features(self, x, places):
        return {place: x.flatten(1) if place == "h" else x.flatten(1).square() for place in places}


def test_the_untrained_net_sees_the_same_images_at_the_places_of_the_encoder():
    images, pixels = coded_images("test"), pixel_rows("test")
    subject = Subject("net", Pixels(1, 4), nn.Identity(), None, images, rebuild=lambda: Doubled(1, 4))
    made = untrained_map(subject, images, {"quiet": pixels[:, 4:], "h": pixels, "z": pixels})
    assert made.places == made.against == ["quiet", "h"]
    expected = [
        [linear_cka(now, then) for then in (pixels.square(), pixels)] for now in (pixels[:, 4:], pixels)
    ]
    assert np.array(made.values) == pytest.approx(np.array(expected), abs=1e-6)


def test_a_net_that_is_untrained_or_cannot_be_built_again_has_no_map():
    images, pixels = coded_images("test"), pixel_rows("test")

    def missing():
        raise DataError("The file of weights is missing.")

    subject = Subject("net", Pixels(1, 4), None, None, images)
    for change in (
        {"rebuild": None},
        {"rebuild": missing},
        {"rebuild": lambda: Pixels(1, 4), "trained": False},
    ):
        assert untrained_map(dataclasses.replace(subject, **change), images, {"h": pixels}) is None
