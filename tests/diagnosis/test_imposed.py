"""The rank that a head imposes: said by ours, measured on a fresh copy of anybody's."""

import pytest
import torch
from torch import nn

from fullrank import head
from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes, imposed_rank, measured_rank
from fullrank.places import read_head

WIDTH = 24


class Projection(nn.Module):
    """z = h P P', of rank `rank` and full width; it says nothing of itself."""

    def __init__(self, rank: int = 4, trained: bool = False):
        super().__init__()
        self.in_dim = self.out_dim = WIDTH
        basis = torch.linalg.qr(torch.randn(WIDTH, rank)).Q
        self.weight = nn.Parameter(basis, requires_grad=trained)

    def forward(self, h):
        return h @ self.weight @ self.weight.T


class Layered(nn.Module):
    """Two layers that are places, the first of 6 channels."""

    def __init__(self):
        super().__init__()
        self.in_dim, self.out_dim = WIDTH, 12
        self.layers = nn.ModuleList([nn.Linear(WIDTH, 6), nn.Linear(6, 12)])

    def forward(self, h):
        for layer in self.layers:
            h = layer(h)
        return h


@pytest.mark.parametrize("rank", [1, 4, 23])
def test_a_silent_head_is_measured(rank):
    assert imposed_rank(Projection(rank), "z", lambda: Projection(rank)) == rank
    assert imposed_rank(Projection(rank), "z[:3]", lambda: Projection(rank)) == min(rank, 3)


def test_of_a_silent_head_that_nobody_can_build_anew_nothing_is_known():
    assert imposed_rank(Projection(4), "z") is None


def test_a_place_that_is_not_of_the_head_has_no_imposed_rank():
    for place in ("h", "stem", "head.1"):
        assert imposed_rank(Projection(4), place, lambda: Projection(4)) is None


def test_inner_layers_are_measured_where_they_are_places():
    found = {place: imposed_rank(Layered(), place, Layered) for place in ("head.1", "head.2", "z")}
    assert found == {"head.1": None, "head.2": 6, "z": 6}


def test_channels_that_a_head_leaves_at_zero_count():
    class Padded(Projection):
        def forward(self, h):
            return torch.cat([h[:, :5], torch.zeros_like(h[:, 5:])], 1)

    assert measured_rank(Padded()) == 5


@pytest.mark.parametrize("spec", ["none", "mlp:12", "linear:12", "orthogonal", "diagonal", "mlp:48"])
def test_full_rank_is_not_imposed(spec):
    said = head(spec, in_dim=WIDTH).imposed_rank("z")
    assert measured_rank(head(spec, in_dim=WIDTH)) == said


@pytest.mark.parametrize("spec", ["lowrank:5", "linear:48", "mlp:48,hidden=6,layers=1"])
def test_what_ours_say_is_what_is_measured(spec):
    said = head(spec, in_dim=WIDTH).imposed_rank("z")
    assert said is not None and measured_rank(head(spec, in_dim=WIDTH)) == said


def test_measuring_draws_no_number_from_outside():
    before = torch.get_rng_state()
    imposed_rank(Projection(4), "z", lambda: Projection(4))
    drawn = torch.get_rng_state()
    torch.set_rng_state(before)
    Projection(4)  # the one that was built here
    assert torch.equal(drawn, torch.get_rng_state())


def test_a_head_of_its_own_low_rank_is_healthy_and_one_that_collapsed_in_training_is_not():
    h = torch.randn(600, WIDTH)

    def causes(part):
        z = read_head(part, h)["z"].detach()
        rank = imposed_rank(part, "z", lambda: Projection(12, trained=True))
        places = (PlaceEvidence("h", h), PlaceEvidence("z", z, imposed_rank=rank))
        return [finding.cause for finding in find_causes(Evidence(places))]

    healthy, collapsed = Projection(12, trained=True), Projection(12, trained=True)
    with torch.no_grad():
        collapsed.weight[:, 3:] = 0  # what training has lost
    assert causes(healthy) == []
    assert causes(collapsed) == ["unexplained-low-rank"]
