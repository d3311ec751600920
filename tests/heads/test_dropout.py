"""Dropout before a head: how often, how much, and never in eval mode."""

import pytest
import torch
from refusals import refuses
from torch import nn

from fullrank import head
from fullrank.errors import UsageError
from fullrank.heads import HEADS
from fullrank.heads.dropout import Dropout


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_coordinates_are_zero_as_often_as_the_share_says_and_keep_their_mean(share):
    torch.manual_seed(0)
    h = torch.full((2000, 20), 3.0)
    z = head(f"none,dropout={share}", in_dim=20)(h)
    zero = (z == 0).double()
    # Five standard errors, of all 40,000 coordinates and of the 2,000 of each channel.
    assert zero.mean().item() == pytest.approx(share, abs=5 * (share * (1 - share) / 40_000) ** 0.5)
    assert zero.mean(0).sub(share).abs().max() < 5 * (share * (1 - share) / 2000) ** 0.5
    torch.testing.assert_close(z[z != 0], torch.full_like(z[z != 0], 3 / (1 - share)))
    # Independent from channel to channel: the covariance of two indicators is 0.
    assert torch.cov(zero.T).fill_diagonal_(0).abs().max() < 5 * share * (1 - share) / 2000**0.5


@pytest.mark.parametrize(
    "spec", ["none", "diagonal", "lowrank:3", "mlp:4", "subvector:3", "random-subvector:3"]
)
def test_in_eval_mode_the_head_is_the_one_without_dropout(spec):
    h, parts = torch.randn(5, 6), []
    for option in ("", ",dropout=0.5"):
        torch.manual_seed(0)
        parts.append(head(spec + option, in_dim=6))
    assert not torch.equal(parts[0](h), parts[1](h))
    assert parts[0].state_dict().keys() == parts[1].state_dict().keys()
    parts[1].load_state_dict(parts[0].state_dict())
    assert torch.equal(parts[0].eval()(h), parts[1].eval()(h))


def test_masks_follow_torchs_generator_and_processes_draw_their_own(monkeypatch):
    part, h = Dropout(0.5), torch.ones(4, 64)

    def draw(rank):
        monkeypatch.setattr("fullrank.heads.dropout.process_rank", lambda: rank)
        torch.manual_seed(3)
        return part(h), torch.rand(())

    (first, after), (again, _), (other, after_other) = draw(0), draw(0), draw(1)
    assert torch.equal(first, again) and not torch.equal(first, part(h))
    assert not torch.equal(first, other)
    assert after == after_other  # later draws, which processes share, are still equal


@pytest.mark.parametrize("share", ["1", "-0.5", "nan", "2"])
def test_a_share_outside_its_limits_is_refused(share):
    with refuses(UsageError, "dropout", float(share)):
        head(f"none,dropout={share}", in_dim=4)


def test_somebody_elses_head_takes_dropout_and_keeps_an_option_of_that_name():
    class Plain(nn.Module):
        def __init__(self, in_dim: int):
            super().__init__()
            self.in_dim = self.out_dim = in_dim

        def forward(self, h):
            return h

    class Own(Plain):
        def __init__(self, in_dim: int, *, dropout: float = 0.25):
            super().__init__(in_dim)
            self.mine = dropout

    assert (head(f"{HEADS.parse(Plain)},dropout=0.5", in_dim=50)(torch.ones(2, 50)) == 0).any()
    own = head(f"{HEADS.parse(Own)},dropout=0.75", in_dim=4)
    assert isinstance(own, Own) and own.mine == 0.75
    assert head(Own, in_dim=4).mine == 0.25
