"""The spectral contrastive loss against a loop, its closed minimiser on a linear net, and its clip."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusals import refuses

from fullrank import SpectralContrastiveLoss, objective
from fullrank.errors import UsageError
from fullrank.objectives.spectral import clipped, spectral_contrastive
from fullrank.theory.weighting.spectral_model import optimal_gram


def loop(z_a, z_b):
    a, b = z_a.tolist(), z_b.tolist()
    dots = [[math.fsum(x * y for x, y in zip(p, q, strict=True)) for q in b] for p in a]
    n = len(a)
    pulled = math.fsum(dots[i][i] for i in range(n)) / n
    pushed = math.fsum(dots[i][j] ** 2 for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return -2 * pulled + pushed


@pytest.mark.parametrize("n", [2, 7])
def test_against_a_loop(n):
    z_a, z_b = torch.randn(2, n, 3, dtype=torch.float64)
    assert float(spectral_contrastive(z_a, z_b)) == pytest.approx(loop(z_a, z_b), rel=1e-10)


@pytest.mark.parametrize("mu", [0.5, 1.0, 10.0])
def test_clipped_and_divided_by_mu(mu):
    z_a, z_b = 2 * torch.randn(2, 6, 4, dtype=torch.float64)
    shortened = [torch.stack([r * min(1.0, mu**0.5 / float(r.norm())) for r in z]) for z in (z_a, z_b)]
    assert float(SpectralContrastiveLoss(mu)(z_a, z_b)) == pytest.approx(loop(*shortened) / mu, rel=1e-10)
    free = objective(f"spectral,mu={mu},clip=false")
    assert float(free(z_a, z_b)) == pytest.approx(loop(z_a, z_b) / mu, rel=1e-10)


def test_the_clip_leaves_short_rows_and_their_gradient_alone():
    z = torch.tensor([[0.0, 0.0], [0.3, 0.4], [3.0, 4.0]], requires_grad=True)
    clipped(z, 1.0).sum().backward()
    torch.testing.assert_close(z.grad[:2], torch.ones(2, 2))
    # What is clipped moves across its direction alone.
    assert float(z.grad[2] @ z.detach()[2]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("mu", [0.25, 1.0, 4.0])
def test_chance_is_the_lowest_of_all_lengths(mu, clip):
    direction = F.normalize(torch.randn(1, 5, dtype=torch.float64), dim=1).expand(4, 5)
    loss = SpectralContrastiveLoss(mu, clip=clip)
    values = [float(loss(s * direction, s * direction)) for s in np.linspace(0, 3, 61)]
    assert loss.chance(4) == pytest.approx(min(values), abs=1e-6)


def correlated_views(n):
    """Two views (n, 3) of n points: shared features of unlike strength, and noise."""
    random = np.random.default_rng(0)
    mixing = np.array([[2.0, 0.3, 0.0], [0.0, 1.0, 0.4], [0.0, 0.0, 0.7]])
    shared = random.normal(size=(n, 3)) @ mixing
    return [torch.from_numpy(shared + random.normal(size=(n, 3)) * [0.5, 0.8, 0.3]) for _ in range(2)]


@pytest.mark.parametrize(("n", "tolerance"), [(150, 0.06), (1200, 0.008)])
def test_a_linear_net_trained_on_samples_approaches_the_closed_minimiser(n, tolerance):
    """The theory knows the samples' moments alone; the pairs left out of the negatives are 1/N of it."""
    views = correlated_views(n)
    whole = torch.cat(views)
    across = views[0].T @ views[1] / n
    expected = optimal_gram((whole.T @ whole / (2 * n)).numpy(), ((across + across.T) / 2).numpy())
    weight = torch.nn.Parameter(0.3 * torch.eye(3, dtype=torch.float64))
    loss = SpectralContrastiveLoss(clip=False)
    optimizer = torch.optim.LBFGS([weight], max_iter=60, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        value = loss(*(x @ weight.T for x in views))
        value.backward()
        return value

    optimizer.step(step)
    gram = (weight.T @ weight).detach().numpy()
    assert np.linalg.norm(gram - expected) < tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("mu", [0.0, -1.0, math.nan, math.inf])
def test_mu_must_be_above_zero(mu):
    with refuses(UsageError, "mu", 0, mu):
        SpectralContrastiveLoss(mu)
