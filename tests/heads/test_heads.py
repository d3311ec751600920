"""What single heads promise, against closed forms."""

import math

import pytest
import torch
from refusals import refuses
from torch import nn

from fullrank import (
    InfoNCELoss,
    LowRankHead,
    MLPHead,
    OrthogonalHead,
    RandomSubvectorHead,
    ReweightHead,
    head,
)
from fullrank.errors import UsageError


def test_lowrank_has_the_gram_matrix_of_a_subvector_after_a_rotation():
    part = LowRankHead(10, 4)
    h = torch.randn(7, 10)
    z, rotated = part(h), h @ part.right
    torch.testing.assert_close(z @ z.T, rotated @ rotated.T)
    values = torch.linalg.svdvals(part.weight)
    torch.testing.assert_close(values, torch.tensor([1.0] * 4 + [0.0] * 6), atol=1e-5, rtol=1e-5)


def test_lowrank_is_the_same_head_after_saving():
    part = LowRankHead(10, 4)
    twin = LowRankHead(10, 4)
    assert not torch.equal(part.left, twin.left)
    twin.load_state_dict(part.state_dict())
    assert torch.equal(part.weight, twin.weight)


@pytest.mark.parametrize(("kappa", "width"), [(1.01, 2048), (1.05, 2048), (1.5, 2048), (2.0, 8), (1.0, 5)])
def test_reweight_is_the_power_series_without_overflow_or_denormals(kappa, width):
    weight = ReweightHead(width, kappa).weight
    tiny = torch.finfo(torch.float32).tiny
    for i in (0, 1, width // 2, width - 1):
        exact = math.exp(-i * math.log(kappa))
        assert weight[i] == pytest.approx(exact if exact >= tiny else 0.0, rel=1e-6)
    assert ((weight == 0) | (weight >= tiny)).all()


def test_reweight_weighs_as_many_channels_as_the_closed_form_says():
    square = ReweightHead(2048, 1.05).weight.double() ** 2
    assert float(square.sum() ** 2 / (square**2).sum()) == pytest.approx(20.5, abs=0.05)


def test_diagonal_starts_as_none():
    h = torch.randn(3, 6)
    assert torch.equal(head("diagonal", in_dim=6)(h), h)


def test_correction_starts_as_none_and_adds_what_it_says():
    part, h = head("correction,hidden=5", in_dim=6), torch.randn(3, 6)
    assert torch.equal(part(h), h) and not part.correction(h).any()
    first, second = part.inner, part.outer
    nn.init.normal_(second.weight)
    nn.init.normal_(second.bias)
    w = (h @ first.weight.T + first.bias).clamp_min(0) @ second.weight.T + second.bias
    torch.testing.assert_close(part.correction(h), w)
    torch.testing.assert_close(part(h), h + w)


def test_correction_learns_from_the_first_step_on():
    part = head("correction,hidden=5", in_dim=6)
    part(torch.randn(3, 6)).square().sum().backward()
    assert part.outer.weight.grad.any() and part.outer.bias.grad.all()


def test_mlp_has_p1s_form():
    part = MLPHead(6, 4)
    shapes = {name: tuple(p.shape) for name, p in part.named_parameters()}
    assert shapes == {
        "layers.0.0.weight": (6, 6),
        "layers.0.1.weight": (6,),
        "layers.0.1.bias": (6,),
        "layers.1.0.weight": (4, 6),
        "layers.1.1.weight": (4,),
        "layers.1.1.bias": (4,),
    }
    h = torch.randn(9, 6)
    first = torch.relu(
        torch.nn.functional.batch_norm(h @ part.layers[0][0].weight.T, None, None, training=True)
    )
    second = torch.nn.functional.batch_norm(first @ part.layers[1][0].weight.T, None, None, training=True)
    torch.testing.assert_close(part(h), second)


def test_mlp_without_its_last_norm_ends_in_a_linear_map():
    part = MLPHead(6, 4, hidden=5, layers=3, last_norm=False)
    inner = []
    part.layers[-1].register_forward_pre_hook(lambda module, rows: inner.append(rows[0]))
    z = part(torch.randn(9, 6))
    assert sum(isinstance(module, torch.nn.BatchNorm1d) for module in part.modules()) == 2
    torch.testing.assert_close(z, inner[0] @ part.layers[-1][0].weight.T)
    assert part.depth_shares() == MLPHead(6, 4, layers=3).depth_shares()


def test_random_subvector_draws_at_each_call_and_repeats_with_its_generator():
    h = torch.arange(20.0)[None]
    part = RandomSubvectorHead(20, 5, generator=torch.Generator().manual_seed(3))
    twin = RandomSubvectorHead(20, 5, generator=torch.Generator().manual_seed(3))
    draws = [part(h) for _ in range(4)]
    assert all(torch.equal(draw, twin(h)) for draw in draws)
    assert len({tuple(draw[0].tolist()) for draw in draws}) > 1
    assert all(draw.unique().numel() == 5 for draw in draws)
    assert torch.equal(part.eval()(h), h)


def test_orthogonal_stays_orthogonal_under_a_loss_that_is_not_rotation_invariant():
    torch.manual_seed(0)
    part = OrthogonalHead(8)
    start = part.weight.detach().clone()
    target = torch.randn(32, 8)
    h = torch.randn(32, 8)
    optimizer = torch.optim.Adam(part.parameters(), lr=0.05)
    for _ in range(15):
        optimizer.zero_grad()
        (part(h) - target).abs().sum().backward()
        optimizer.step()
    weight = part.weight.detach()
    assert (weight - start).abs().max() > 0.1
    torch.testing.assert_close(weight @ weight.T, torch.eye(8), atol=1e-4, rtol=0)


def test_orthogonal_equals_none_under_infonce_in_value_and_gradient():
    torch.manual_seed(0)
    part, loss = OrthogonalHead(8).double(), InfoNCELoss(0.1)
    a, b = torch.randn(6, 8, dtype=torch.float64), torch.randn(6, 8, dtype=torch.float64)
    values, gradients = [], []
    for project in (part, lambda h: h):
        x = a.clone().requires_grad_()
        value = loss(project(x), project(b))
        value.backward()
        values.append(value.detach())
        gradients.append(x.grad)
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert part.layers[0].parametrizations.weight.original.grad.abs().max() < 1e-5


@pytest.mark.parametrize("spec", ["subvector:400", "subvector:0", "lowrank:97", "random-subvector:-1"])
def test_an_impossible_width_names_value_limit_and_remedy(spec):
    value = spec.split(":")[1]
    with refuses(UsageError, f"dim={value}", "1 to 96"):
        head(spec, in_dim=96)


@pytest.mark.parametrize(
    ("spec", "name", "most", "value"),
    [
        ("linear:0", "out_dim", 32768, 0),
        ("linear:32769", "out_dim", 32768, 32769),
        ("mlp:8,layers=0", "layers", 100, 0),
        ("mlp:8,hidden=0", "hidden", 32768, 0),
        (f"mlp:8,hidden={9**30},layers=3", "hidden", 32768, 9**30),
    ],
)
def test_a_width_that_no_head_has_raises(spec, name, most, value):
    with refuses(UsageError, name, f"1 to {most}", value):
        head(spec, in_dim=96)


@pytest.mark.parametrize("kappa", [0.9, float("nan")])
def test_an_impossible_kappa_raises(kappa):
    with refuses(UsageError, "kappa", 1, kappa):
        head(f"reweight:{kappa}", in_dim=96)
