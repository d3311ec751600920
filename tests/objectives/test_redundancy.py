"""VICReg and Barlow Twins against lightly, against NumPy, and against closed forms."""

import math

import numpy as np
import pytest
import torch
from refusals import refuses

from fullrank import BarlowTwinsLoss, VICRegLoss, objective
from fullrank.errors import UsageError
from fullrank.objectives.redundancy import cross_correlation


def pair(n=9, k=5, scale=1.0):
    generator = torch.Generator().manual_seed(n)
    z_a = scale * torch.randn(n, k, generator=generator, dtype=torch.float64)
    return z_a, z_a + 0.3 * scale * torch.randn(n, k, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("shape", [(2, 3), (9, 5), (64, 1)])
@pytest.mark.parametrize("ours", [VICRegLoss, BarlowTwinsLoss])
def test_lightlys_value_and_gradient(ours, shape, scale):
    """Their definitions are the authors' code, as ours are: they agree."""
    theirs = getattr(pytest.importorskip("lightly.loss"), ours.__name__)
    measured = []
    for loss in (ours(), theirs()):
        z_a, z_b = (z.requires_grad_() for z in pair(*shape, scale))
        value = loss(z_a, z_b)
        value.backward()
        measured.append((value.detach(), z_a.grad, z_b.grad))
    torch.testing.assert_close(measured[0], measured[1], rtol=1e-8, atol=1e-10)


def test_the_weights_of_vicreg_are_those_of_its_terms():
    z_a, z_b = pair(scale=0.5)
    terms = [VICRegLoss(*weights)(z_a, z_b) for weights in torch.eye(3).tolist()]
    every = objective("vicreg,invariance=3,variance=5,covariance=7")
    torch.testing.assert_close(every(z_a, z_b), 3 * terms[0] + 5 * terms[1] + 7 * terms[2])
    a, b = z_a.numpy(), z_b.numpy()
    assert float(VICRegLoss(1, 0, 0)(z_a, z_b)) == pytest.approx(((a - b) ** 2).mean())
    hinge = [np.maximum(0, 1 - np.sqrt(z.var(0, ddof=1) + 1e-4)).mean() for z in (a, b)]
    assert float(VICRegLoss(0, 1, 0)(z_a, z_b)) == pytest.approx(np.mean(hinge))
    energy = [(np.cov(z.T) ** 2)[~np.eye(5, dtype=bool)].sum() / 5 for z in (a, b)]
    assert float(VICRegLoss(0, 0, 1)(z_a, z_b)) == pytest.approx(np.sum(energy))


def test_channels_that_vary_enough_and_apart_cost_nothing():
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    assert float(VICRegLoss()(z, z)) == 0
    assert float(BarlowTwinsLoss()(z, z)) == pytest.approx(0, abs=1e-9)


def test_the_cross_correlation_is_numpys_but_for_its_small_constant():
    z_a, z_b = pair(n=40)
    expected = np.corrcoef(z_a.T.numpy(), z_b.T.numpy())[:5, 5:]
    np.testing.assert_allclose(cross_correlation(z_a, z_b).numpy(), expected, rtol=1e-4)


def test_a_repeated_channel_costs_its_correlations():
    """K equal channels, standardised: C is 1 everywhere."""
    column = torch.randn(30, 1, dtype=torch.float64)
    z = column.expand(30, 4)
    assert float(BarlowTwinsLoss(0.01)(z, z)) == pytest.approx(0.01 * 12, rel=1e-3)
    variance = float(column.var())
    assert float(VICRegLoss(0, 0, 1)(z, z)) == pytest.approx(2 * 3 * variance**2)


def test_twins_do_not_see_scale_and_shift():
    z_a, z_b = pair(n=30)
    moved = z_a * torch.tensor([2.0, 30.0, 5.0, 1.0, 7.0]) + 3
    torch.testing.assert_close(BarlowTwinsLoss()(moved, z_b), BarlowTwinsLoss()(z_a, z_b), rtol=1e-3, atol=0)


def test_constant_channels_have_finite_gradients():
    for loss in (VICRegLoss(), BarlowTwinsLoss()):
        z = torch.ones(4, 3, requires_grad=True)
        loss(z, z + 0.0).backward()
        assert z.grad.isfinite().all()


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_is_zero_or_more(weight):
    for name in ("invariance", "variance", "covariance"):
        with refuses(UsageError, name, 0, weight):
            VICRegLoss(**{name: weight})
    with refuses(UsageError, "redundancy", 0, weight):
        BarlowTwinsLoss(weight)
