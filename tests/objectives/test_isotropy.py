"""SIGReg, Weak-SIGReg and VISReg: by NumPy, by lightly, by draws from known laws, in two processes."""

import math

import numpy as np
import pytest
import torch
from gloo_group import in_processes
from refusals import refuses
from scipy import stats

from fullrank import SIGRegLoss, VISRegLoss, WeakSIGRegLoss, objective
from fullrank.errors import UsageError
from fullrank.objectives import loss_of, visreg
from fullrank.objectives.contract import loss_of_views, unguarded_of
from fullrank.objectives.visreg import distance_to_normal, normal_quantiles

LOSSES = [SIGRegLoss, WeakSIGRegLoss, VISRegLoss]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def views(count: int, n: int, width: int, seed: int = 0) -> torch.Tensor:
    """Views of the same images that agree in part."""
    images, *noise = torch.randn(count + 1, n, width, generator=seeded(seed), dtype=torch.float64)
    return images + 0.5 * torch.stack(noise) + 0.1


def distance_between_views(z: np.ndarray, leading: int) -> float:
    return float(np.mean([(view - z[:leading].mean(0)) ** 2 for view in z]))


def test_sigreg_is_the_distance_of_views_and_n_times_the_statistic_of_each_view():
    z = views(4, 12, 3)
    loss = SIGRegLoss(0.3, slices=5, knots=9, range=2)
    drawn = torch.randn(3, 5, generator=seeded(7)).double()
    directions = (drawn / drawn.norm(dim=0)).numpy()
    t = np.linspace(-2, 2, 17)
    gauss = np.exp(-(t**2) / 2)
    statistics = [
        np.trapezoid(np.abs(np.exp(1j * np.outer(t, view @ a)).mean(1) - gauss) ** 2 * gauss, t)
        for view in z.numpy()
        for a in directions.T
    ]
    for leading in (1, 2, 4):
        expected = 0.7 * distance_between_views(z.numpy(), leading) + 0.3 * 12 * np.mean(statistics)
        found = loss_of_views(loss, z, generator=seeded(7), global_views=leading)
        assert float(found) == pytest.approx(expected, abs=1e-9)


def test_weak_sigreg_is_numpys_covariance():
    z = views(3, 20, 6)
    covariances = [np.linalg.norm(np.cov(view.T) - np.eye(6)) for view in z.numpy()]
    expected = 0.8 * distance_between_views(z.numpy(), 2) + 0.2 * np.mean(covariances)
    assert float(WeakSIGRegLoss(0.2)(z, global_views=2)) == pytest.approx(expected)


def test_visreg_is_the_sum_of_its_weighted_terms():
    z = views(3, 20, 4)
    x = z.numpy()
    centre, scale = np.mean(x.mean(1) ** 2), np.mean((1 - x.std(1)) ** 2)
    parts = {"centre": centre, "scale": scale, "shape": None}
    for name, expected in parts.items():
        weights = dict.fromkeys(parts, 0.0) | {name: 3.0}
        found = float(VISRegLoss(1.0, slices=6, **weights)(z, generator=seeded(4)))
        if name == "shape":
            drawn = torch.randn(4, 6, generator=seeded(4)).double()
            standard = (x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True) + 1e-4)
            projected = np.sort(standard @ (drawn / drawn.norm(dim=0)).numpy(), axis=1)
            quantiles = stats.norm.ppf(np.arange(1, 21) / 21)
            expected = np.mean((projected - quantiles[:, None]) ** 2)
        assert found == pytest.approx(3 * expected, rel=1e-9), name
    apart = distance_between_views(x, 2)
    assert float(VISRegLoss(0.0)(z, global_views=2)) == pytest.approx(apart)


@pytest.mark.parametrize("tile", [1, 12, 10_000])
def test_sorted_projections_have_the_gradient_of_finite_differences_at_every_tile(monkeypatch, tile):
    monkeypatch.setitem(visreg._TILE, "cpu", tile)
    slices = torch.randn(3, 5, generator=seeded(), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: distance_to_normal(z, slices), views(2, 6, 3).requires_grad_())


@pytest.mark.parametrize("local", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(SIGRegLoss, "lejepa_loss.LeJEPALoss"), (VISRegLoss, "visreg_loss.VISRegLoss")]
)
def test_lightlys_value_and_gradient(ours, theirs, local):
    """Both draw their directions from torch's own generator in the same way."""
    module, name = theirs.split(".")
    peer = getattr(pytest.importorskip(f"lightly.loss.{module}"), name)()
    z = views(2 + local, 64, 16).float()
    measured = []
    for call in (
        lambda z: ours()(z, global_views=2),
        lambda z: peer(global_proj=z[:2], local_proj=z[2:]),
    ):
        torch.manual_seed(3)
        leaf = z.clone().requires_grad_()
        value = call(leaf)
        value.backward()
        measured.append((value.detach(), leaf.grad))
    torch.testing.assert_close(measured[0], measured[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("leading", "local"), [(2, 0), (1, 2)])
def test_chance_is_the_mean_over_independent_gaussian_views(loss, leading, local):
    loss, n, width = loss(0.5), 24, 70
    loss.slices = 128
    generator = seeded(5)
    values = [
        loss(
            torch.randn(leading + local, n, width, generator=generator, dtype=torch.float64),
            generator=generator,
            global_views=leading,
        )
        for _ in range(60)
    ]
    drawn = torch.stack(values)
    error = float(drawn.std()) / len(values) ** 0.5
    expected = loss.chance(n, width, leading, local)
    assert float(drawn.mean()) == pytest.approx(expected, abs=4 * error + 0.01 * expected)


@pytest.mark.parametrize("loss", [*LOSSES, lambda weight: WeakSIGRegLoss(weight, sketch=4)])
def test_the_values_at_a_collapse_are_those_of_such_rows(loss):
    loss, n, width = loss(0.4), 300, 10
    loss.slices = 128
    levels, generator = loss.collapsed(n, width), seeded(2)
    point = torch.zeros(2, n, width, dtype=torch.float64)
    assert float(loss(point, generator=generator)) == pytest.approx(levels["one point"], rel=1e-9)
    lines = torch.randn(40, n, 1, generator=generator, dtype=torch.float64).expand(40, n, width)
    drawn = torch.stack([loss(torch.stack([line, line]), generator=generator) for line in lines])
    error = float(drawn.std()) / len(lines) ** 0.5
    assert float(drawn.mean()) == pytest.approx(levels["one line"], abs=4 * error + 0.03 * levels["one line"])


@pytest.mark.parametrize("loss", LOSSES)
def test_the_order_of_images_and_of_views_of_a_kind_changes_nothing(loss):
    loss, z = loss(), views(4, 30, 8)
    expected = loss(z, generator=seeded(), global_views=2)
    moved = z[[1, 0, 3, 2]][:, torch.randperm(30, generator=seeded())]
    torch.testing.assert_close(loss(moved, generator=seeded(), global_views=2), expected)
    other = loss(z[[2, 1, 0, 3]], generator=seeded(), global_views=2)
    assert not torch.isclose(other, expected)


@pytest.mark.parametrize("loss", [SIGRegLoss, VISRegLoss, lambda: WeakSIGRegLoss(sketch=3)])
def test_directions_are_new_at_each_step_and_the_generators(loss):
    loss, z, generator = loss(), views(2, 30, 8), seeded()
    first, second = (loss(z, generator=generator) for _ in range(2))
    assert first != second
    torch.testing.assert_close(loss(z, generator=seeded()), first, rtol=0, atol=0)


def test_the_parts_sum_to_the_loss():
    z = views(3, 20, 5)
    parts = VISRegLoss().summands(z, generator=seeded())
    torch.testing.assert_close(sum(parts.values()), VISRegLoss()(z, generator=seeded()))
    assert float(VISRegLoss(0.0)(z)) == pytest.approx(10 * float(parts["invariance"]))


def test_half_precision_is_raised_before_anything_is_summed():
    z = views(2, 200, 16).half()
    for loss in LOSSES:
        half, single = (loss()(each, generator=seeded()) for each in (z, z.float()))
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, single)


# 3 and 5 rows: the statistics must be weighted by rows.
UNEQUAL = (slice(0, 3), slice(3, 8))


def share_of(rank: int) -> list[torch.Tensor]:
    found = []
    for gather in (True, False):
        z = views(3, 8, 4)[:, UNEQUAL[rank]].requires_grad_()
        value = SIGRegLoss(gather=gather)(z, generator=seeded(), global_views=2)
        value.backward()
        found += [value.detach(), z.grad]
    return found


def test_processes_with_unequal_numbers_of_images_have_the_sigreg_of_one(tmp_path):
    z = views(3, 8, 4).requires_grad_()
    value = SIGRegLoss()(z, generator=seeded(), global_views=2)
    value.backward()
    shares = in_processes(share_of, 2, tmp_path)
    for found, _, alone, _ in shares:
        torch.testing.assert_close(found, value.detach(), rtol=1e-12, atol=0)
        assert abs(alone - value) > 1e-3
    # Each process has twice its gradient, because DistributedDataParallel takes the mean.
    average = torch.cat([share[1] for share in shares], 1) / 2
    torch.testing.assert_close(average, z.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("spec", "missing"),
    [
        ("sigreg:0", ["penalty"]),
        ("weak-sigreg:0", ["penalty"]),
        ("visreg:0,scale=0", ["penalty"]),
        ("visreg,scale=0,shape=0", ["scale", "shape"]),
        ("sigreg", []),
        ("visreg", []),
    ],
)
def test_what_is_switched_off_is_said(spec, missing):
    assert [each.name.split()[0] for each in unguarded_of(objective(spec))] == missing


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan])
def test_a_weight_lies_between_0_and_1(loss, weight):
    with refuses(UsageError, "weight", 0, 1, weight):
        loss(weight)


def test_settings_and_shapes_outside_their_limits_raise():
    for loss, name in ((SIGRegLoss, "slices"), (VISRegLoss, "slices"), (WeakSIGRegLoss, "sketch")):
        with refuses(UsageError, name, 1, 0):
            loss(**{name: 0})
    for name in ("centre", "scale", "shape"):
        with refuses(UsageError, name, 0, -1):
            VISRegLoss(**{name: -1})
    with refuses(UsageError, (4, 5)):
        SIGRegLoss()(torch.ones(4, 5))
    for leading in (0, 3):
        with refuses(UsageError, "global_views", 2, leading):
            SIGRegLoss()(views(2, 4, 3), global_views=leading)


def test_a_pair_of_views_is_taken_as_two_global_views():
    z = views(2, 16, 4)
    loss = SIGRegLoss()
    torch.testing.assert_close(loss_of(loss, *z, generator=seeded()), loss(z, generator=seeded()))


def test_the_quantiles_are_those_of_the_normal_law():
    np.testing.assert_allclose(normal_quantiles(9).numpy(), stats.norm.ppf(np.arange(1, 10) / 10), atol=1e-12)
