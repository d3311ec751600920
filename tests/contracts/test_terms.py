"""What every registered auxiliary objective promises; it joins by being registered."""

from dataclasses import replace

import pytest
import torch

from fullrank.objectives import AUXILIARIES, auxiliary
from fullrank.objectives.terms.samples import PLACES, VIEW_DIMS, alternating_cues, random_numbers
from fullrank.step import Step
from fullrank.testing import check_auxiliary

SIZES = {"in_dim": 6, "out_dim": 4, "num_classes": 3}
DIMS = {"place_dims": dict.fromkeys(PLACES, 5), "view_dims": VIEW_DIMS}
NAMES = [entry.name for entry in AUXILIARIES]


@pytest.fixture(params=NAMES)
def term(request):
    torch.manual_seed(0)
    return auxiliary(request.param, **SIZES, **DIMS)


def noise(term, count=12):
    """A step of `count` images, three classes in turn."""
    features = {place: torch.randn(2 * count, 5) for place in term.places}
    labels, cues = torch.arange(count) % 3, alternating_cues(term.cues, count)
    h, z = torch.randn(2 * count, 6), torch.randn(2 * count, 4)
    return Step(h, z, features, random_numbers(count), labels, cues=cues)


@pytest.mark.parametrize("name", NAMES)
def test_every_registered_term_keeps_the_contract(name):
    check_auxiliary(name)


def test_the_two_views_may_change_places(term):
    step = noise(term)
    turned = replace(
        step,
        h=step.h.roll(12, 0),
        z=step.z.roll(12, 0),
        features={place: rows.roll(12, 0) for place, rows in step.features.items()},
        views=step.views.swapped(),
    )
    torch.testing.assert_close(term(turned), term(step))


def test_autocast_takes_no_digits_from_the_loss_of_float32_features(term):
    if list(term.parameters()):
        return  # the products of a layer are autocast's business
    step = noise(term)
    expected = term(step)
    with torch.autocast("cpu", torch.bfloat16):
        assert term(step).item() == pytest.approx(expected.item(), rel=1e-5)
