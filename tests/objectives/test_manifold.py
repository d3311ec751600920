"""MMCR against singular values in NumPy, finite differences, and the inequality of a subgradient."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gloo_group import in_processes
from refusals import refuses

from fullrank import MMCRLoss, objective
from fullrank.errors import UsageError
from fullrank.objectives.manifold import nuclear_norm, polar_factor


def views_of(count, n, k, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, n, k, generator=generator, dtype=torch.float64)


def numpys_loss(z, local):
    """The loss of views (V, N, K) from the singular values of each matrix."""
    unit = z / np.sqrt((z**2).sum(-1, keepdims=True))
    images = [np.linalg.svd(unit[:, n], compute_uv=False).sum() for n in range(z.shape[1])]
    return local * np.mean(images) - np.linalg.svd(sum(unit) / len(unit), compute_uv=False).sum()


def matrix(a, b, values, dtype=torch.float64):
    """An (a, b) matrix with these singular values, and its singular vectors."""
    generator = torch.Generator().manual_seed(a + b)
    left, right = (
        torch.linalg.qr(torch.randn(size, len(values), generator=generator, dtype=torch.float64))[0]
        for size in (a, b)
    )
    return (left * torch.tensor(values, dtype=torch.float64) @ right.T).to(dtype), left, right


@pytest.mark.parametrize("local", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(2, 9, 4), (2, 3, 7), (5, 6, 6), (4, 5, 2)])
def test_the_value_is_that_of_numpys_singular_values(shape, local):
    loss, z = objective(f"mmcr,local={local}"), views_of(*shape)
    assert loss(z).item() == pytest.approx(numpys_loss(z.numpy(), local), rel=1e-12)


@pytest.mark.parametrize("shape", [(2, 5, 3), (3, 3, 5)])
def test_the_gradient_is_that_of_finite_differences(shape):
    assert torch.autograd.gradcheck(objective("mmcr,local=0.3"), (views_of(*shape).requires_grad_(),))


def test_lengths_do_not_count():
    z = views_of(2, 6, 4)
    torch.testing.assert_close(MMCRLoss()(z), MMCRLoss()(3 * z))


@pytest.mark.parametrize("values", [[2.0, 2.0, 2.0], [3.0, 1.0, 0.0], [5.0, 0.0, 0.0], [1.0, 1e-5, 0.0]])
@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (6, 6)])
def test_equal_and_zero_singular_values_have_the_gradient_of_the_live_ones(shape, values):
    x, left, right = matrix(*shape, values)
    live = torch.tensor(values) > 0
    x.requires_grad_()
    value = nuclear_norm(x)
    value.backward()
    assert value.item() == pytest.approx(sum(values), rel=1e-9)
    torch.testing.assert_close(x.grad, left[:, live] @ right[:, live].T, rtol=0, atol=1e-5)


def test_the_gradient_at_a_kink_is_a_subgradient():
    """No other matrix lies below the plane: |Y| >= |X| + <G, Y - X>."""
    x, _, _ = matrix(6, 5, [2.0, 1.0, 0.0, 0.0])
    slope = polar_factor(x)
    for seed in range(20):
        y = x + 0.5 ** (seed % 5) * views_of(1, 6, 5, seed)[0]
        norm = torch.linalg.svdvals(y).sum()
        assert norm >= 3 + (slope * (y - x)).sum() - 1e-9


@pytest.mark.parametrize("spread", [1e-2, 1e-5])
def test_float32_is_closer_than_its_own_singular_vectors(spread):
    values = np.logspace(0, math.log10(spread), 16).tolist()
    x, left, right = matrix(64, 16, values, torch.float32)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    exact = left @ right.T
    assert (polar_factor(x) - exact).abs().max() <= (u @ v - exact).abs().max()


def test_a_matrix_of_zeros_has_norm_and_gradient_zero_and_nan_stays_nan():
    zeros = torch.zeros(2, 4, 3, requires_grad=True)
    norms = nuclear_norm(zeros)
    norms.sum().backward()
    assert not norms.any() and not zeros.grad.any()
    z = views_of(2, 4, 3)
    z[0, 0, 0] = math.nan
    assert MMCRLoss(local=0.1)(z).isnan()


@pytest.mark.parametrize(("n", "k"), [(4, 7), (6, 6), (12, 4)])
def test_the_bound_is_reached_by_a_tight_frame_and_by_nothing_else(n, k):
    bound = math.sqrt(n * min(n, k))
    assert all(-MMCRLoss()(views_of(2, n, k, seed)) < bound for seed in range(20))
    frame = torch.eye(k, dtype=torch.float64).repeat(-(-n // k), 1)[:n]  # rows at right angles, repeated
    assert MMCRLoss()(frame.expand(3, n, k)).item() == pytest.approx(-bound)


def test_chance_and_collapse_are_the_values_of_one_point_and_one_line():
    loss = MMCRLoss(local=0.3)
    point = torch.ones(5, 8, 6)
    sign = torch.tensor([1.0, -1.0]).repeat(4)[:, None]
    levels = loss.collapsed(8, 6, global_views=2, local_views=3)
    assert loss(point).item() == pytest.approx(loss.chance(8, 6, 2, 3)) == levels["one point"]
    assert loss(sign * point).item() == pytest.approx(levels["one line"])
    assert MMCRLoss()(point).item() == pytest.approx(-math.sqrt(8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_and_zero_rows_have_a_finite_gradient(dtype):
    z = views_of(3, 6, 4).to(dtype)
    z[0, 0] = 0
    expected = MMCRLoss(local=0.1)(z.double())
    value = MMCRLoss(local=0.1)(z.requires_grad_())
    value.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5) and z.grad.isfinite().all()


def test_autocast_takes_no_digits_from_the_loss():
    z = F.normalize(views_of(2, 64, 8).float(), dim=-1)
    with torch.autocast("cpu", torch.bfloat16):
        value = MMCRLoss(local=0.1)(z)
    assert value.item() == pytest.approx(MMCRLoss(local=0.1)(z).item(), rel=1e-6)


@pytest.mark.parametrize("local", [-1.0, math.nan])
def test_a_weight_below_zero_and_a_single_view_are_refused(local):
    with refuses(UsageError, "local", local, 0):
        MMCRLoss(local)
    with refuses(UsageError, 2, 1):
        MMCRLoss()(views_of(1, 4, 4))


def shared(rank, processes=2):
    rows = slice(rank * 8 // processes, (rank + 1) * 8 // processes)
    z = views_of(3, 8, 5)[:, rows].clone().requires_grad_()
    value = MMCRLoss(local=0.2)(z)
    value.backward()
    return [value.detach(), z.grad]


def test_two_processes_have_the_loss_and_gradient_of_one(tmp_path):
    value, gradient = shared(0, 1)
    first, second = in_processes(shared, 2, tmp_path)
    assert first[0].item() == second[0].item() == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(torch.cat([first[1], second[1]], 1) / 2, gradient, rtol=1e-10, atol=1e-14)
