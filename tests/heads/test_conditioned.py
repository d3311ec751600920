"""Heads that are given the parameters of the views, against a computation by hand."""

import numpy as np
import pytest
import torch
from refusals import refuses
from torch import nn

from fullrank import head
from fullrank.diagnosis import imposed_rank
from fullrank.errors import UsageError
from fullrank.evaluation.factors import depth_shares
from fullrank.heads import HEADS
from fullrank.heads.conditioned import ConditionedHead

DIMS = {"crop": 4, "flip": 1}


def conditioned(spec, in_dim=6):
    return head(f"{spec},conditioned=views", in_dim=in_dim, view_dims=DIMS)


def test_z_is_the_head_on_h_and_the_embedded_parameters():
    part = conditioned("linear:3,embedded=2").double()
    h, views = torch.randn(7, 6).double(), torch.rand(7, 5).double()
    state = {name: tensor.numpy() for name, tensor in part.state_dict().items()}
    hidden = np.maximum(views.numpy() @ state["embed.0.weight"].T + state["embed.0.bias"], 0)
    embedded = hidden @ state["embed.2.weight"].T + state["embed.2.bias"]
    expected = np.concatenate([h.numpy(), embedded], 1) @ state["module.layers.0.weight"].T
    np.testing.assert_allclose(part(h, views=views).detach().numpy(), expected, atol=1e-12)


def test_without_parameters_a_view_is_whole_not_flipped_and_changed_by_nothing():
    part = conditioned("mlp:3,embedded=2").eval()
    h, untouched = torch.randn(4, 6), torch.tensor([0.5, 0.5, 1.0, 1.0, 0.0])
    assert torch.equal(part(h), part(h, views=untouched.expand(4, -1)))


def test_a_program_of_it_takes_any_number_of_rows():
    part, rows = conditioned("linear:3,embedded=2"), {0: torch.export.Dim("rows")}
    program = torch.export.export(part, (torch.randn(4, 6),), dynamic_shapes=(rows,)).module()
    h = torch.randn(9, 6)
    torch.testing.assert_close(program(h), part(h))


def test_the_hidden_layers_are_as_wide_as_those_of_the_head_without_parameters():
    plain, part = head("mlp:3", in_dim=6), conditioned("mlp:3")
    shapes = [layer[0].weight.shape for layer in (*plain.layers, *part.layers)]
    assert shapes == [(6, 6), (3, 6), (6, 6 + 64), (3, 6)]


def test_a_gradient_reaches_h_and_the_embedding_under_mixed_precision():
    part = conditioned("mlp:3,norm=batch")
    h = torch.randn(8, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        z = part(h, views=torch.rand(8, 5))
    z.float().square().mul(torch.rand(8, 3)).sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in (h, *part.embed.parameters()))


def test_it_says_of_itself_only_what_is_true_for_given_parameters():
    wide, narrow = conditioned("linear:9"), conditioned("mlp:9,hidden=2,layers=3")
    for part, rank in ((wide, 6), (narrow, 2)):
        assert imposed_rank(part) is None  # unknown by its form
        assert part.linear_rank == rank and depth_shares(part) == {} and not part.scales_channels
    assert imposed_rank(wide, "z", lambda: conditioned("linear:9")) == 6


@pytest.mark.parametrize(
    ("spec", "dims", "named"),
    [
        ("mlp:3,conditioned=views", None, ("conditioned=views", 1, "view_dims")),
        ("mlp:3,conditioned=views", {}, ("conditioned=views", 1)),
        ("mlp:3,conditioned=views,embedded=0", DIMS, ("embedded", 0, 1)),
        ("mlp:3,embedded=8", DIMS, ("embedded=8", "conditioned=views")),
        ("subvector:3,conditioned=views", DIMS, ("subvector", "conditioned", "linear", "mlp")),
        ("mlp:3,conditioned=crops", DIMS, ("conditioned", "crops", "views")),
    ],
)
def test_a_spec_that_cannot_be_conditioned_names_value_limit_and_remedy(spec, dims, named):
    with refuses(UsageError, *named):
        head(spec, in_dim=6, view_dims=dims)


def test_parameters_of_another_number_of_views_or_operations_raise():
    part = conditioned("linear:3")
    for shape in ((4, 6), (3, 5), (5,)):
        with refuses(UsageError, (4, 5), shape):
            part(torch.randn(4, 6), views=torch.zeros(shape))


class Wide(nn.Module):
    """A head of somebody else that says it takes further inputs."""

    def __init__(self, in_dim: int, width: int = 3, extra_dim: int = 0):
        super().__init__()
        self.in_dim, self.out_dim = in_dim + extra_dim, width
        self.map = nn.Linear(self.in_dim, width)

    def forward(self, h):
        return self.map(h)


class Own(nn.Module):
    """A head of somebody else with an option of the same name, which is its own."""

    def __init__(self, in_dim: int, *, conditioned: str = "no"):
        super().__init__()
        self.in_dim = self.out_dim = in_dim
        self.conditioned = conditioned

    def forward(self, h):
        return h


class Labelled(Own):
    needs = frozenset({"labels"})


def test_somebody_elses_head_is_conditioned_if_its_builder_takes_further_inputs():
    part = head(f"{HEADS.parse(Wide)},conditioned=views,embedded=2,norm=batch", in_dim=6, view_dims=DIMS)
    assert isinstance(part, ConditionedHead) and (part.in_dim, part.out_dim) == (6, 3)
    h, views = torch.randn(5, 6), torch.rand(5, 5)
    torch.testing.assert_close(part(h, views=views).mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    assert not isinstance(head(Wide, in_dim=6, view_dims=DIMS), ConditionedHead)


def test_an_option_of_that_name_stays_the_heads_own():
    assert head(f"{HEADS.parse(Own)},conditioned=views", in_dim=6).conditioned == "views"


def test_a_head_that_needs_what_no_step_gives_raises():
    with refuses(UsageError, "Labelled", "labels", "views"):
        head(Labelled, in_dim=6)
