"""Alignment against cosines, finite differences, and its own collapse."""

import pytest
import torch
import torch.nn.functional as F
from gloo_group import in_processes

from fullrank import head, objective
from fullrank.objectives.contract import loss_of_views, unguarded_of


def pair(n=9, k=5):
    generator = torch.Generator().manual_seed(n)
    z_a = torch.randn(n, k, generator=generator, dtype=torch.float64)
    return z_a, z_a + 0.3 * torch.randn(n, k, generator=generator, dtype=torch.float64)


def test_the_value_is_that_of_cosines_and_lengths_do_not_count():
    z_a, z_b = pair()
    expected = 2 - 2 * F.cosine_similarity(z_a, z_b).mean()
    torch.testing.assert_close(objective("align")(7 * z_a, 0.1 * z_b), expected)
    assert float(objective("align")(z_a, -z_a)) == pytest.approx(4)


def test_the_gradient_is_that_of_finite_differences():
    assert torch.autograd.gradcheck(objective("align"), [z.requires_grad_() for z in pair()])


def test_views_that_nearly_agree_keep_their_digits_in_float32():
    z_a, noise = pair(64, 16)
    z_b = z_a + 1e-4 * noise
    double = objective("align")(z_a.float().double(), z_b.float().double())
    assert float(objective("align")(z_a.float(), z_b.float())) == pytest.approx(float(double), rel=1e-2)


def test_several_views_are_averaged_over_pairs_with_a_global_view():
    z = torch.stack([*pair(), *pair(9, 5)]) + torch.arange(4).view(4, 1, 1)
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    expected = sum(float(2 - 2 * F.cosine_similarity(z[v], z[w]).mean()) for v, w in pairs) / 5
    assert float(loss_of_views(objective("align"), z, global_views=2)) == pytest.approx(expected)


def test_every_collapse_has_the_lowest_loss_and_the_missing_guard_is_named():
    loss, sign = objective("align"), torch.tensor([1.0, -1.0, -1.0, 1.0])[:, None]
    point, line = torch.ones(4, 6), sign * torch.ones(4, 6)
    assert loss(point, point) == loss(line, line) == loss.chance(4, 6) == 0
    assert set(loss.collapsed(4, 6).values()) == {0.0}
    (missing,) = unguarded_of(loss)
    assert "norm=whiten" in missing.remedy


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_row_of_zeros_has_a_finite_gradient(dtype):
    z = torch.randn(2, 6, 4).to(dtype)
    z[0, 0] = 0
    objective("align")(*z.requires_grad_()).backward()
    assert z.grad.isfinite().all()


def shared(rank, processes=2):
    rows = slice(rank * 8 // processes, (rank + 1) * 8 // processes)
    z_a, z_b = (z[rows].clone().requires_grad_() for z in pair(8))
    value = objective("align")(z_a, z_b)
    value.backward()
    return [value.detach(), z_a.grad, z_b.grad]


def test_two_processes_have_the_loss_and_gradient_of_one(tmp_path):
    value, *gradients = shared(0, 1)
    first, second = in_processes(shared, 2, tmp_path)
    assert first[0].item() == second[0].item() == pytest.approx(value.item(), rel=1e-12)
    for number, gradient in enumerate(gradients, start=1):
        torch.testing.assert_close(
            torch.cat([first[number], second[number]]) / 2, gradient, rtol=1e-12, atol=0
        )


def test_under_a_head_that_whitens_nothing_is_missing():
    for norm, names in (("whiten", 0), ("batch", 1)):
        assert len(unguarded_of(objective("align"), head(f"none,norm={norm}", in_dim=4))) == names
