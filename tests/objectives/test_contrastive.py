"""The contrastive losses against plain loops in float64 and against closed forms."""

import math

import pytest
import torch
from refusals import refuses

from fullrank import InfoNCELoss, NTXentLoss
from fullrank.errors import UsageError
from fullrank.objectives.contrastive import info_nce, nt_xent


def _rows(z):
    return [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in z.double().tolist()]


def _dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def loop_info_nce(z_a, z_b, temperature):
    a, b = _rows(z_a), _rows(z_b)
    total = 0.0
    for anchors, others in ((a, b), (b, a)):
        for i, anchor in enumerate(anchors):
            scores = [math.exp(_dot(anchor, other) / temperature) for other in others]
            total -= math.log(scores[i] / sum(scores))
    return total / (2 * len(a))


def loop_nt_xent(z_a, z_b, temperature):
    u, n = _rows(torch.cat([z_a, z_b])), len(z_a)
    total = 0.0
    for i in range(2 * n):
        scores = {j: math.exp(_dot(u[i], u[j]) / temperature) for j in range(2 * n) if j != i}
        total -= math.log(scores[(i + n) % (2 * n)] / sum(scores.values()))
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
@pytest.mark.parametrize(("fast", "slow"), [(info_nce, loop_info_nce), (nt_xent, loop_nt_xent)])
def test_against_a_loop(fast, slow, temperature):
    generator = torch.Generator().manual_seed(0)
    z_a, z_b = (torch.randn(9, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    assert float(fast(z_a, z_b, temperature)) == pytest.approx(slow(z_a, z_b, temperature), rel=1e-10)


@pytest.mark.parametrize("n", [2, 5, 64])
def test_closed_forms(n):
    same = torch.ones(n, 3, dtype=torch.float64)
    assert float(NTXentLoss(0.5)(same, same)) == pytest.approx(math.log(2 * n - 1))
    assert float(InfoNCELoss(0.1)(same, same)) == pytest.approx(math.log(n))
    # Orthogonal images, identical views: one similarity of 1/T among zeros.
    apart, t = torch.eye(n, dtype=torch.float64), 0.5
    assert float(InfoNCELoss(t)(apart, apart)) == pytest.approx(math.log1p((n - 1) * math.exp(-1 / t)))
    assert float(NTXentLoss(t)(apart, apart)) == pytest.approx(math.log1p((2 * n - 2) * math.exp(-1 / t)))


def test_the_length_of_an_embedding_does_not_matter():
    z_a, z_b = torch.randn(6, 4), torch.randn(6, 4)
    for loss in (InfoNCELoss(), NTXentLoss()):
        torch.testing.assert_close(loss(z_a * 7, z_b * torch.rand(6, 1).add(0.1)), loss(z_a, z_b))


def test_group_mode_is_the_sum_over_a_partition_of_the_channels():
    z_a, z_b = torch.randn(6, 8), torch.randn(6, 8)
    loss = InfoNCELoss(0.1, groups=4, generator=torch.Generator().manual_seed(5))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(5))
    parts = [order[i : i + 2] for i in range(0, 8, 2)]
    expected = sum(loop_info_nce(z_a[:, part], z_b[:, part], 0.1) for part in parts)
    assert float(loss(z_a, z_b)) == pytest.approx(expected, rel=1e-5)
    with refuses(UsageError, "groups=3", 8):
        InfoNCELoss(0.1, groups=3)(z_a, z_b)


def test_large_similarities_do_not_overflow():
    z = torch.eye(4) * 1e15
    assert float(InfoNCELoss(1e-3)(z, z)) == 0.0


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_must_be_above_zero(temperature):
    for loss in (InfoNCELoss, NTXentLoss):
        with refuses(UsageError, "temperature", 0, temperature):
            loss(temperature)
