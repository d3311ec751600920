"""What every registered auxiliary objective promises; it joins by being registered."""

import pytest
import torch

from fullrank.objectives import AUXILIARIES, auxiliary
from fullrank.objectives.terms.samples import PLACES, VIEW_DIMS, random_numbers
from fullrank.step import Step
from fullrank.testing import check_auxiliary

SIZES = {"in_dim": 6, "out_dim": 4, "num_classes": 3}
DIMS = {"place_dims": dict.fromkeys(PLACES, 5), "view_dims": VIEW_DIMS}
NAMES = [entry.name for entry in AUXILIARIES]


@pytest.fixture(params=NAMES)
def term(request):
    torch.manual_seed(0)
    return auxiliary(request.param, **SIZES, **DIMS)


def noise(term, count=6):
    """A step of `count` images."""
    features = {place: torch.randn(2 * count, 5) for place in term.places}
    labels = torch.arange(count) % 3
    return Step(torch.randn(2 * count, 6), torch.randn(2 * count, 4), features, random_numbers(count), labels)


@pytest.mark.parametrize("name", NAMES)
def test_every_registered_term_keeps_the_contract(name):
    check_auxiliary(name)


def test_the_two_views_may_change_places(term):
    step = noise(term)
    turned = Step(
        step.h.roll(6, 0),
        step.z.roll(6, 0),
        {place: rows.roll(6, 0) for place, rows in step.features.items()},
        step.views.swapped(),
        step.labels,
    )
    torch.testing.assert_close(term(turned), term(step))


def test_autocast_takes_no_digits_from_the_loss_of_float32_features(term):
    if list(term.parameters()):
        return  # the products of a layer are autocast's business
    step = noise(term)
    expected = term(step)
    with torch.autocast("cpu", torch.bfloat16):
        assert term(step).item() == pytest.approx(expected.item(), rel=1e-5)
